package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// objectTable lays objects of one kind out in columns; wide has more of them.
func (a *app) objectTable(flags get, objects []*godwitv1.Object) *table {
	wide := flags.output == formatWide
	out := &table{coloured: 2}
	switch flags.kind {
	case "site":
		out.coloured = -1
		out.add("NAME", "HOSTS", "EDGES", "SERVICES")
	case "host":
		out.add("NAME", "SITE", "STATE", "ACCELERATOR", "MEMORY FREE", "DISK FREE", "SEEN")
	case "edge":
		out.add("NAME", "SITE", "STATE", "SEEN")
	case "service":
		out.add("NAME", "SITE", "PHASE", "HOST", "ADDRESSES", "MEMORY", "MESSAGE")
	case "volume":
		out.add("NAME", "SITE", "ROLE", "MODE", "SIZE", "ALLOCATED", "LAG", "BEHIND", "POINT", "STATE")
	case "migration":
		out.add("NAME", "SERVICE", "PHASE", "FROM", "TO", "BLACKOUT", "TOTAL", "SENT", "AGE")
	}
	if wide {
		out.rows[0] = append(out.rows[0], wideHeader(flags.kind)...)
	}
	for _, object := range objects {
		cells := a.cells(object)
		if wide {
			cells = append(cells, wideCells(object)...)
		}
		out.add(cells...)
	}
	return out
}

func (a *app) cells(object *godwitv1.Object) []string {
	switch kind := object.GetKind().(type) {
	case *godwitv1.Object_Site:
		site := kind.Site
		return []string{site.GetName(), strconv.Itoa(int(site.GetHosts())), strconv.Itoa(int(site.GetEdges())), strconv.Itoa(int(site.GetServices()))}
	case *godwitv1.Object_Host:
		host, facts := kind.Host, kind.Host.GetFacts()
		return []string{
			host.GetName(), host.GetSite(), readiness(host.GetReady()), dash(facts.GetAccelerator()),
			api.FormatSize(facts.GetMemoryFree()), api.FormatSize(facts.GetDiskFree()), a.age(host.GetLastSeen()),
		}
	case *godwitv1.Object_Edge:
		edge := kind.Edge
		return []string{edge.GetName(), edge.GetSite(), readiness(edge.GetReady()), a.age(edge.GetLastSeen())}
	case *godwitv1.Object_Service:
		spec, status := kind.Service.GetSpec(), kind.Service.GetStatus()
		return []string{
			spec.GetName(), cmp.Or(status.GetSite(), spec.GetSite()), dash(status.GetPhase()), dash(status.GetHost()),
			dash(strings.Join(spec.GetAddresses(), ",")), api.FormatSize(spec.GetServer().GetMemory()), status.GetMessage(),
		}
	case *godwitv1.Object_Volume:
		volume := kind.Volume
		return []string{
			volume.GetName(), volume.GetSite(), volume.GetRole(), dash(volume.GetMode()), api.FormatSize(volume.GetSize()),
			api.FormatSize(volume.GetAllocated()), lag(volume),
			behind(volume), a.point(volume), volumeState(volume),
		}
	case *godwitv1.Object_Migration:
		return a.migrationCells(kind.Migration)
	default:
		return nil
	}
}

func (a *app) migrationCells(m *godwitv1.Migration) []string {
	phase, blackout, total, sent := m.GetPhase(), "-", "-", "-"
	if ended, completed := api.Finished(m); ended {
		total, sent = milliseconds(m.GetFigures().GetTotalMs()), api.FormatSize(m.GetFigures().GetWanBytes())
		if completed {
			blackout = milliseconds(m.GetFigures().GetBlackoutMs())
		}
	} else if m.GetReady() {
		phase = "ready"
	}
	return []string{m.GetName(), m.GetService(), phase, m.GetSource(), m.GetDestination(), blackout, total, sent, a.age(m.GetStarted())}
}

func wideHeader(kind string) []string {
	switch kind {
	case "host":
		return []string{"ADDRESS", "DVS", "PLATFORM", "MEMORY", "PROBLEM"}
	case "edge":
		return []string{"ADDRESS", "UNDERLAY"}
	case "service":
		return []string{"NETWORK", "CPUS", "VOLUMES", "EPOCH", "MIGRATION"}
	case "volume":
		return []string{"HOST", "EPOCH", "WANTED", "RATE", "SENT", "SLOWED", "ERROR"}
	case "migration":
		return []string{"FROM HOST", "TO HOST", "EPOCH", "REASON"}
	default:
		return nil
	}
}

func wideCells(object *godwitv1.Object) []string {
	switch kind := object.GetKind().(type) {
	case *godwitv1.Object_Host:
		host, facts := kind.Host, kind.Host.GetFacts()
		return []string{
			dash(host.GetAddress()), dash(host.GetDvs()), dash(strings.TrimSpace(facts.GetPlatform() + " " + facts.GetVersion())),
			api.FormatSize(facts.GetMemoryTotal()), facts.GetProblem(),
		}
	case *godwitv1.Object_Edge:
		return []string{dash(kind.Edge.GetAddress()), dash(kind.Edge.GetUnderlay())}
	case *godwitv1.Object_Service:
		spec, status := kind.Service.GetSpec(), kind.Service.GetStatus()
		return []string{
			spec.GetNetwork(), strconv.Itoa(int(spec.GetServer().GetCpus())), strconv.Itoa(len(spec.GetVolumes())),
			number(status.GetEpoch()), dash(status.GetMigration()),
		}
	case *godwitv1.Object_Volume:
		v := kind.Volume
		return []string{
			dash(v.GetHost()), number(v.GetEpoch()), dash(v.GetWanted()), api.FormatSize(v.GetRate()) + "/s", api.FormatSize(v.GetShipped()),
			milliseconds(v.GetSlowedMs()), v.GetError(),
		}
	case *godwitv1.Object_Migration:
		m := kind.Migration
		return []string{dash(m.GetSourceHost()), dash(m.GetDestinationHost()), number(m.GetEpoch()), m.GetReason()}
	default:
		return nil
	}
}

// objectName is unique within a kind: a volume has one copy at each host.
func objectName(object *godwitv1.Object) string {
	switch kind := object.GetKind().(type) {
	case *godwitv1.Object_Site:
		return kind.Site.GetName()
	case *godwitv1.Object_Host:
		return kind.Host.GetName()
	case *godwitv1.Object_Edge:
		return kind.Edge.GetName()
	case *godwitv1.Object_Service:
		return kind.Service.GetSpec().GetName()
	case *godwitv1.Object_Volume:
		return kind.Volume.GetName() + " on " + kind.Volume.GetHost()
	case *godwitv1.Object_Migration:
		return kind.Migration.GetName()
	default:
		return ""
	}
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func readiness(ready bool) string {
	if ready {
		return "ready"
	}
	return "not ready"
}

func dash(text string) string { return cmp.Or(text, "-") }

// age is how long ago something was.
func (a *app) age(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	since := a.now().Sub(t.AsTime())
	switch {
	case since < 2*time.Second:
		return "now"
	case since < 2*time.Minute:
		return fmt.Sprintf("%ds", int(since.Seconds()))
	case since < 2*time.Hour:
		return fmt.Sprintf("%dm", int(since.Minutes()))
	case since < 48*time.Hour:
		return fmt.Sprintf("%dh", int(since.Hours()))
	default:
		return fmt.Sprintf("%dd", int(since.Hours()/24))
	}
}
