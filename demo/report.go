package demo

import (
	"errors"
	"fmt"
	"slices"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/lab/probe"
)

// ErrLoss says that the migration came to its end, but not without loss; the report's faults say which.
var ErrLoss = errors.New("something was lost")

// Report is what a planned migration looked like to its client and its operator. Names that end in Ms are milliseconds.
type Report struct {
	Phase  string `json:"phase"`
	Reason string `json:"reason"`

	BlackoutMs            float64 `json:"blackoutMs"`
	BlackoutUncertaintyMs float64 `json:"blackoutUncertaintyMs"`
	TotalMs               float64 `json:"totalMs"`
	SyncWindowMs          float64 `json:"syncWindowMs"`
	WANBytes              int64   `json:"wanBytes"`
	MemoryBytes           int64   `json:"memoryBytes"`
	DiskBytes             int64   `json:"diskBytes"`

	// ClientLongestGapMs is the client's blackout; the probe itself was late by ClientLongestGapLateMs of it.
	ClientLongestGapMs     float64 `json:"clientLongestGapMs"`
	ClientLongestGapLateMs float64 `json:"clientLongestGapLateMs"`
	RequestsSent           uint64  `json:"requestsSent"`
	RequestsAnswered       uint64  `json:"requestsAnswered"`
	TCPResets              int     `json:"tcpResets"`

	WritesAcknowledged uint64 `json:"writesAcknowledged"`
	WritesChecked      uint64 `json:"writesChecked"`
	WritesLost         uint64 `json:"writesLost"`

	PathBefore []string `json:"pathBefore"`
	PathDuring []string `json:"pathDuring"`
	PathAfter  []string `json:"pathAfter"`

	Phases []api.PhaseView `json:"phases"`
	// Faults are all that was lost or is not as it should be; empty after a good run.
	Faults []string `json:"faults"`

	// lastAcked is the highest write that the probe was told to be acknowledged.
	lastAcked uint64
}

func newReport(m *godwitv1.Migration) *Report {
	figures := api.ViewMigration(m)
	return &Report{
		Phase: figures.Phase, Reason: figures.Reason,
		BlackoutMs: figures.BlackoutMs, BlackoutUncertaintyMs: figures.BlackoutUncertaintyMs, TotalMs: figures.TotalMs,
		SyncWindowMs: figures.SyncWindowMs, WANBytes: figures.WANBytes, MemoryBytes: figures.MemoryBytes, DiskBytes: figures.DiskBytes,
		PathBefore: []string{}, PathDuring: []string{}, PathAfter: []string{}, Phases: figures.Phases, Faults: []string{},
	}
}

func (r *Report) completed() bool { return r.Phase == "completed" }

func (r *Report) fault(format string, args ...any) {
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}

// err is ErrLoss when there are faults.
func (r *Report) err() error {
	if len(r.Faults) > 0 {
		return ErrLoss
	}
	return nil
}

// addProbe takes over what the client saw.
func (r *Report) addProbe(seen probe.Report) {
	r.ClientLongestGapMs, r.ClientLongestGapLateMs = seen.LongestGapMs, seen.LongestGapLateMs
	r.RequestsSent, r.RequestsAnswered, r.TCPResets = seen.Sent, seen.Answered, seen.Resets
	r.lastAcked = seen.LastAcked
	if seen.Answered == 0 {
		r.fault("the client got no answer at all")
	}
	if seen.Error != "" {
		r.fault("the client's connection broke: %s", seen.Error)
	}
	for what, count := range map[string]uint64{
		"requests were not answered":            seen.Sent - min(seen.Answered, seen.Sent),
		"answers came out of order":             seen.OutOfOrder,
		"answers were counted wrong":            seen.Miscounted,
		"answers made no sense":                 seen.Malformed,
		"answers knew less than the one before": seen.AckedWentBack,
		"connections were reset":                uint64(max(seen.Resets, 0)),
	} {
		if count > 0 {
			r.fault("%d %s", count, what)
		}
	}
	slices.Sort(r.Faults)
}

// addVerdict takes over what the guest found on its disk.
func (r *Report) addVerdict(found verdict) {
	r.WritesAcknowledged, r.WritesChecked, r.WritesLost = found.Acknowledged, found.Checked, found.Lost
	if found.Lost > 0 {
		r.fault("%d acknowledged writes are lost: %s", found.Lost, found.FirstLost)
	}
	if found.IOErrors > 0 {
		r.fault("%d writes or reads of the guest failed", found.IOErrors)
	}
	if found.Acknowledged < r.lastAcked {
		r.fault("the guest knows of %d acknowledged writes, the client was told of %d", found.Acknowledged, r.lastAcked)
	}
	if found.Checked == 0 {
		r.fault("there was no write to verify")
	}
}

// checkVolumes demands exactly one primary, at the destination, and nothing left at the source.
func (r *Report) checkVolumes(objects []*godwitv1.Object) {
	primaries := 0
	for _, object := range objects {
		volume := object.GetVolume()
		if volume.GetService() != service {
			continue
		}
		switch {
		case volume.GetSite() == source:
			r.fault("%s still has volume %s (%s)", source, volume.GetName(), volume.GetRole())
		case volume.GetRole() == "primary":
			primaries++
		default:
			r.fault("volume %s at %s is %s", volume.GetName(), volume.GetSite(), volume.GetRole())
		}
	}
	if primaries != 1 {
		r.fault("there are %d primary volumes at %s, not one", primaries, target)
	}
}
