package api

import (
	"math"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// MigrationView is a Migration; the figures are complete once Phase is completed.
type MigrationView struct {
	Kind            string `json:"kind"`
	Name            string `json:"name"`
	Service         string `json:"service"`
	Source          string `json:"source"`
	Destination     string `json:"destination"`
	SourceHost      string `json:"sourceHost"`
	DestinationHost string `json:"destinationHost"`
	Epoch           uint64 `json:"epoch"`
	Phase           string `json:"phase"`
	Ready           bool   `json:"ready"`
	Hold            bool   `json:"hold"`
	HoldUntil       string `json:"holdUntil,omitempty"`
	Reason          string `json:"reason"`
	Started         string `json:"started,omitempty"`
	Ended           string `json:"ended,omitempty"`

	BlackoutMs            float64 `json:"blackoutMs"`
	BlackoutUncertaintyMs float64 `json:"blackoutUncertaintyMs"`
	TotalMs               float64 `json:"totalMs"`
	SyncWindowMs          float64 `json:"syncWindowMs"`
	WANBytes              int64   `json:"wanBytes"`
	MemoryBytes           int64   `json:"memoryBytes"`
	DiskBytes             int64   `json:"diskBytes"`
	HeldPackets           int64   `json:"heldPackets"`
	DroppedPackets        int64   `json:"droppedPackets"`
	TunnelPackets         int64   `json:"tunnelPackets"`

	Phases []PhaseView `json:"phases"`
	Lanes  []LaneView  `json:"lanes"`
	Notes  []string    `json:"notes"`
}

// PhaseView says when a phase began, in milliseconds after the migration did, and how long it took.
type PhaseView struct {
	Phase    string  `json:"phase"`
	StartMs  float64 `json:"startMs"`
	LengthMs float64 `json:"lengthMs"`
}

// LaneView is one subsystem's part of a migration.
type LaneView struct {
	Participant string  `json:"participant"`
	Role        string  `json:"role"`
	Verb        string  `json:"verb"`
	State       string  `json:"state"`
	Done        int64   `json:"done"`
	Total       int64   `json:"total"`
	Rate        float64 `json:"rate"`
	EtaMs       float64 `json:"etaMs"`
	Message     string  `json:"message"`
}

// ViewMigration returns the view of a migration.
func ViewMigration(m *godwitv1.Migration) MigrationView {
	figures := m.GetFigures()
	out := MigrationView{
		Kind: "Migration", Name: m.GetName(), Service: m.GetService(), Source: m.GetSource(), Destination: m.GetDestination(),
		SourceHost: m.GetSourceHost(), DestinationHost: m.GetDestinationHost(), Epoch: m.GetEpoch(), Phase: m.GetPhase(),
		Ready: m.GetReady(), Hold: m.GetHold(), HoldUntil: timeText(m.GetHoldUntil()), Reason: m.GetReason(),
		Started: timeText(m.GetStarted()), Ended: timeText(m.GetEnded()),
		BlackoutMs: finite(figures.GetBlackoutMs()), BlackoutUncertaintyMs: finite(figures.GetBlackoutUncertaintyMs()),
		TotalMs: finite(figures.GetTotalMs()), SyncWindowMs: finite(figures.GetSyncWindowMs()),
		WANBytes: figures.GetWanBytes(), MemoryBytes: figures.GetMemoryBytes(), DiskBytes: figures.GetDiskBytes(),
		HeldPackets: figures.GetHeldPackets(), DroppedPackets: figures.GetDroppedPackets(), TunnelPackets: figures.GetTunnelPackets(),
		Phases: ViewPhases(m), Lanes: []LaneView{}, Notes: list(m.GetNotes()),
	}
	for _, lane := range m.GetLanes() {
		out.Lanes = append(out.Lanes, LaneView{
			Participant: lane.GetParticipant(), Role: lane.GetRole(), Verb: lane.GetVerb(), State: lane.GetState(),
			Done: lane.GetDone(), Total: lane.GetTotal(), Rate: finite(lane.GetRate()), EtaMs: finite(lane.GetEtaMs()), Message: lane.GetMessage(),
		})
	}
	return out
}

// ViewPhases returns the phases that a migration has entered, in their order.
func ViewPhases(m *godwitv1.Migration) []PhaseView {
	out := []PhaseView{}
	for _, phase := range m.GetPhases() {
		view := PhaseView{Phase: phase.GetPhase(), LengthMs: finite(phase.GetLengthMs())}
		if m.GetStarted() != nil && phase.GetEntered() != nil {
			view.StartMs = milliseconds(phase.GetEntered().AsTime().Sub(m.GetStarted().AsTime()).Seconds())
		}
		out = append(out, view)
	}
	return out
}

// Finished says whether a migration has come to its end, and whether it has done what was asked.
func Finished(m *godwitv1.Migration) (ended, completed bool) {
	switch m.GetPhase() {
	case "completed":
		return true, true
	case "aborted":
		return true, false
	default:
		return false, false
	}
}

// milliseconds keeps microseconds and cuts the rest, so that floating point leaves no trail of digits.
func milliseconds(seconds float64) float64 { return math.Round(seconds*1e6) / 1e3 }

// finite replaces what JSON cannot say.
func finite(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}
