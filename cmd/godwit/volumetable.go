package main

import (
	"fmt"
	"time"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// lag is what the replica of a volume lacks.
func lag(v *godwitv1.Volume) string {
	if v.GetBacking() == "external" {
		return "-"
	}
	return api.FormatSize(v.GetLag())
}

// behind is how old the oldest write is that the replica of a volume lacks.
func behind(v *godwitv1.Volume) string {
	if v.GetWanted() == "" {
		return "-"
	}
	return milliseconds(v.GetLagMs())
}

// point is how long ago the primary was where the replica is.
func (a *app) point(v *godwitv1.Volume) string {
	if v.GetPointTime() == nil {
		return "-"
	}
	return a.age(v.GetPointTime())
}

// volumeState says in a word or two how the replication of a volume goes.
func volumeState(v *godwitv1.Volume) string {
	if v.GetRole() == "leftover" {
		return v.GetError()
	}
	state := replicationState(v)
	switch {
	case v.GetStandalone() && v.GetPhase() != "" && v.GetPhase() != "ready":
		return v.GetError()
	case v.GetStandalone() && v.GetService() == "":
		return "in nobody's use"
	case v.GetStandalone() && state == "-":
		return "of service " + v.GetService()
	case v.GetStandalone():
		state = "of service " + v.GetService() + ", " + state
	}
	if v.GetTail() > 0 {
		state += ", " + api.FormatSize(v.GetTail()) + " set aside"
	}
	return state
}

func replicationState(v *godwitv1.Volume) string {
	if v.GetWanted() == "" && v.GetMode() != "standby" {
		return "-"
	}
	switch {
	case v.GetOverflow():
		return "link down, to be resynchronised"
	case !v.GetConnected():
		return "link down"
	case v.GetResyncing() || !v.GetComplete():
		return copying(v)
	case v.GetThrottled() > 0:
		return "writers are slowed"
	case v.GetWanted() != "" && v.GetWanted() != v.GetMode():
		return "becoming " + v.GetWanted()
	}
	return "in step"
}

// copying says how far a replica is that catches up.
func copying(v *godwitv1.Volume) string {
	total := v.GetCopied() + v.GetLag()
	if total == 0 {
		return "resyncing"
	}
	text := fmt.Sprintf("resyncing %.0f%%", 100*float64(v.GetCopied())/float64(total))
	if v.GetEtaMs() > 0 {
		text += ", " + (time.Duration(v.GetEtaMs()) * time.Millisecond).Round(100*time.Millisecond).String() + " left"
	}
	return text
}
