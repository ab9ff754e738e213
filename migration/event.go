package migration

import (
	"fmt"
	"time"
)

// Event is what Step is fed: one of the types of this file. All carry the time at which the runner learnt of it.
type Event interface {
	fmt.Stringer
	when() time.Time
	// about returns the epoch that the event speaks of; false for events of the operator and of the runner, which
	// always mean the migration that they are fed to.
	about() (uint64, bool)
}

// Done: an agent has carried out a step (or had before).
type Done struct {
	At    time.Time
	Epoch uint64
	Step  StepID
}

// Failed: an agent could not carry out a step, or refused it. Reason says why, for the user.
type Failed struct {
	At     time.Time
	Epoch  uint64
	Step   StepID
	Reason string
}

// Lost: what an agent had made ready is gone, for instance the destination's QEMU died.
type Lost struct {
	At          time.Time
	Epoch       uint64
	Participant Participant
	Role        Role
	Reason      string
}

// Superseded: the owner key carries a newer epoch (By): a failover has taken the service.
type Superseded struct {
	At time.Time
	By uint64
}

// Continue: the operator lets a held migration go on. Before it is ready, the hold is cleared.
type Continue struct{ At time.Time }

// Abort: the operator wants everything back as it was.
type Abort struct {
	At     time.Time
	Reason string
}

// Tick: time has passed. Limits, Spec.HoldUntil and retries are looked at.
type Tick struct{ At time.Time }

// Recovered: a runner has loaded this state and takes over.
type Recovered struct{ At time.Time }

func (e Done) when() time.Time       { return e.At }
func (e Failed) when() time.Time     { return e.At }
func (e Lost) when() time.Time       { return e.At }
func (e Superseded) when() time.Time { return e.At }
func (e Continue) when() time.Time   { return e.At }
func (e Abort) when() time.Time      { return e.At }
func (e Tick) when() time.Time       { return e.At }
func (e Recovered) when() time.Time  { return e.At }

func (e Done) about() (uint64, bool)     { return e.Epoch, true }
func (e Failed) about() (uint64, bool)   { return e.Epoch, true }
func (e Lost) about() (uint64, bool)     { return e.Epoch, true }
func (Superseded) about() (uint64, bool) { return 0, false }
func (Continue) about() (uint64, bool)   { return 0, false }
func (Abort) about() (uint64, bool)      { return 0, false }
func (Tick) about() (uint64, bool)       { return 0, false }
func (Recovered) about() (uint64, bool)  { return 0, false }

// String names the event and what it is about, without the time.
func (e Done) String() string { return fmt.Sprintf("done %s@%d", e.Step, e.Epoch) }

// String names the event and what it is about, without the time.
func (e Failed) String() string { return fmt.Sprintf("failed %s@%d: %s", e.Step, e.Epoch, e.Reason) }

// String names the event and what it is about, without the time.
func (e Lost) String() string {
	return fmt.Sprintf("lost %s/%s@%d: %s", e.Participant, e.Role, e.Epoch, e.Reason)
}

// String names the event.
func (e Superseded) String() string { return fmt.Sprintf("superseded by epoch %d", e.By) }

// String names the event.
func (Continue) String() string { return "continue" }

// String names the event.
func (e Abort) String() string { return "abort: " + e.Reason }

// String names the event.
func (Tick) String() string { return "tick" }

// String names the event.
func (Recovered) String() string { return "recovered" }
