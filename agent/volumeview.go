package agent

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

// modeStandby is what is told as the mode of a standing replica: the other end's mode is not known there.
const modeStandby = "standby"

// viewVolume is a volume as users see it.
func viewVolume(v storage.Status) *pb.Volume {
	o := &pb.Volume{
		Name: v.Name, Size: v.Size, Allocated: v.Allocated, Role: v.Role, Mode: v.Mode, Epoch: v.Epoch,
		Lag: v.Dirty, Connected: v.Connected, Copied: v.Copied, Rate: v.Rate, Shipped: v.Shipped, Complete: v.Complete,
		Path: v.Path, Clients: int32(v.Clients), Error: v.Err,
	}
	if v.Dirty > 0 && v.Rate > 0 {
		o.EtaMs = float64(v.Dirty) / float64(v.Rate) * 1000
	}
	return o
}

// addGroup adds what the group of a primary says, which is true of all its volumes together.
func addGroup(o *pb.Volume, g storage.GroupStatus) {
	o.Mode, o.Wanted, o.Connected = g.Mode, g.Wanted, g.Connected
	o.Lag, o.LagMs = g.Lag, milliseconds(g.LagTime)
	o.Point, o.PointTime, o.Complete = g.Point, moment(g.PointTime), g.Point > 0
	o.Throttled, o.SlowedMs, o.Overflow = int32(g.Throttled), milliseconds(g.Slowed), g.Overflow
	o.Resyncing, o.Copied, o.Rate, o.Shipped, o.EtaMs = g.Resyncing, g.Copied, g.Rate, g.Shipped, 0
	if g.Resyncing {
		o.EtaMs = milliseconds(g.ETA)
	}
	addError(o, g.Err)
}

// addStandby adds what the standby of a replica says.
func addStandby(o *pb.Volume, b storage.StandbyStatus) {
	o.Mode, o.Epoch, o.Connected, o.Complete = modeStandby, b.Epoch, b.Connected, b.Complete
	o.Point, o.PointTime, o.Backlog, o.Tail = b.Point, moment(b.PointTime), b.Backlog, b.Tail
	addError(o, b.Err)
}

func addError(o *pb.Volume, text string) {
	if text != "" {
		o.Error = text
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func moment(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() || t.Unix() == 0 {
		return nil
	}
	return timestamppb.New(t)
}
