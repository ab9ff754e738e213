package migration

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Spec is what a migration was asked to do. It never changes once New has taken it.
type Spec struct {
	Name        string    `json:"name"`
	Service     string    `json:"service"`
	Epoch       uint64    `json:"epoch"`       // given out for this attempt alone
	Source      string    `json:"source"`      // site
	Destination string    `json:"destination"` // site
	Hold        bool      `json:"hold,omitempty"`
	HoldUntil   time.Time `json:"holdUntil,omitzero"` // implies Hold; goes on at that time by itself
	Plan        Plan      `json:"plan"`
	Limits      Limits    `json:"limits,omitzero"`
}

func (s Spec) validate() error {
	var faults []error
	for _, f := range []struct {
		bad  bool
		text string
	}{
		{s.Name == "", "name is missing"},
		{s.Service == "", "service is missing"},
		{s.Epoch == 0, "epoch is 0: allocate one for this attempt"},
		{s.Source == "", "source site is missing"},
		{s.Destination == "", "destination site is missing"},
		{s.Source == s.Destination && s.Source != "", "source and destination are the same site"},
	} {
		if f.bad {
			faults = append(faults, errors.New(f.text))
		}
	}
	if err := s.Plan.Validate(); err != nil {
		faults = append(faults, err)
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("migration %q: %w: %w", s.Name, ErrInvalid, errors.Join(faults...))
}

func (s Spec) holds() bool { return s.Hold || !s.HoldUntil.IsZero() }

// Decision values of a State.
const (
	DecisionNone   = ""
	DecisionCommit = "commit"
	DecisionAbort  = "abort"
)

// StepStatus says how far a step has come. The zero value has not been started.
type StepStatus struct {
	Started  time.Time `json:"started,omitzero"`
	Done     time.Time `json:"done,omitzero"`
	Attempts int       `json:"attempts,omitempty"`
	Failure  string    `json:"failure,omitempty"` // of the last attempt that failed
	Retry    time.Time `json:"retry,omitzero"`    // when it is sent again; zero while an answer is awaited
	Skipped  bool      `json:"skipped,omitempty"` // abort step of an end that had never been started
}

// PhaseTime is when a phase was entered.
type PhaseTime struct {
	Phase   Phase     `json:"phase"`
	Entered time.Time `json:"entered"`
}

// State is everything that is known of a migration: what a runner stores. Treat it as a value: Step never changes the
// one that it is given.
type State struct {
	Spec       Spec                  `json:"spec"`
	Phase      Phase                 `json:"phase"`
	Ready      bool                  `json:"ready,omitempty"`    // converged, holding, waiting for Continue
	Released   bool                  `json:"released,omitempty"` // the hold was let go
	Steps      map[StepID]StepStatus `json:"steps,omitempty"`    // those that have been started or skipped
	PhaseTimes []PhaseTime           `json:"phaseTimes,omitempty"`
	Reason     string                `json:"reason,omitempty"`   // why it was aborted, or given up for a newer epoch
	Decision   string                `json:"decision,omitempty"` // "", "commit" or "abort": once set, it stays
}

// Action is a command for an agent. It is idempotent; the epoch fences it.
type Action struct {
	Step        StepID      `json:"step"`
	Participant Participant `json:"participant"`
	Role        Role        `json:"role"`
	Verb        Verb        `json:"verb"`
	Epoch       uint64      `json:"epoch"`
	Service     string      `json:"service"`
	Migration   string      `json:"migration"`
}

// String names the step and the epoch.
func (a Action) String() string { return fmt.Sprintf("%s@%d", a.Step, a.Epoch) }

// Site is where the action's agents are: the source's or the destination's site.
func (s Spec) Site(r Role) string {
	if r == Source {
		return s.Source
	}
	return s.Destination
}

// New returns the first state of a migration and its first actions, or every fault of the specification.
func New(spec Spec, now time.Time) (State, []Action, error) {
	if err := spec.validate(); err != nil {
		return State{}, nil, err
	}
	if now.IsZero() {
		return State{}, nil, fmt.Errorf("migration %q: %w: no time given", spec.Name, ErrInvalid)
	}
	spec.HoldUntil = plain(spec.HoldUntil)
	spec.Hold = spec.holds()
	t := turn{s: State{Spec: spec, Steps: map[StepID]StepStatus{}}, at: plain(now)}
	t.enter(Preparing)
	t.advance()
	return t.s, t.out, nil
}

// Terminal tells whether the migration is over: no event changes it any more.
func (s State) Terminal() bool { return s.Phase == Completed || s.Phase == Aborted }

// Holding tells whether a hold is still in force, whether it is Ready or not.
func (s State) Holding() bool {
	return s.Spec.Hold && !s.Released && (s.Phase == Preparing || s.Phase == Converging)
}

// Outstanding returns the commands of the present phase that were started and are not done, in the plan's order. They
// may be sent again at any time.
func (s State) Outstanding() []Action {
	var out []Action
	for _, p := range s.Spec.Plan.Steps {
		if st, ok := s.Steps[p.ID]; ok && p.Phase == s.Phase && st.Done.IsZero() {
			out = append(out, s.action(p.ID))
		}
	}
	return out
}

// Entered returns when the phase was entered, and whether it was.
func (s State) Entered(ph Phase) (time.Time, bool) {
	for _, t := range s.PhaseTimes {
		if t.Phase == ph {
			return t.Entered, true
		}
	}
	return time.Time{}, false
}

// String is one line for logs.
func (s State) String() string {
	text := fmt.Sprintf("migration %s of %s, epoch %d, %s to %s: %s",
		s.Spec.Name, s.Spec.Service, s.Spec.Epoch, s.Spec.Source, s.Spec.Destination, s.Phase)
	if s.Ready {
		text += ", ready"
	}
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

// DurableFirst tells whether after must be in the store before the actions that Step returned with it are sent. It is
// true for every decision: a phase entered, a hold let go, an end (participant and role) reached for the first time
// (an abort by another runner has to know of it). Otherwise losing after only means that idempotent steps are sent
// again, and the write may wait for the next one.
func DurableFirst(before, after State) bool {
	if before.Phase != after.Phase || before.Decision != after.Decision ||
		before.Ready != after.Ready || before.Released != after.Released || before.Spec.Epoch != after.Spec.Epoch {
		return true
	}
	if !after.Phase.BeforeCommit() || len(after.Steps) == len(before.Steps) {
		return false
	}
	known := before.engaged()
	for id := range after.Steps {
		if _, ok := before.Steps[id]; !ok && !slices.Contains(known, id.end()) {
			return true
		}
	}
	return false
}

func (s State) action(id StepID) Action {
	return Action{
		Step: id, Participant: id.Participant(), Role: id.Role(), Verb: id.Verb(),
		Epoch: s.Spec.Epoch, Service: s.Spec.Service, Migration: s.Spec.Name,
	}
}

// engaged returns the ends that have been sent anything, in the plan's order.
func (s State) engaged() []string {
	var ends []string
	for _, p := range s.Spec.Plan.Steps {
		if st, ok := s.Steps[p.ID]; ok && !st.Skipped && !slices.Contains(ends, p.ID.end()) {
			ends = append(ends, p.ID.end())
		}
	}
	return ends
}

// clone copies what a turn changes.
func (s State) clone() State {
	s.Steps = maps.Clone(s.Steps)
	if s.Steps == nil {
		s.Steps = map[StepID]StepStatus{}
	}
	s.PhaseTimes = slices.Clone(s.PhaseTimes)
	return s
}

// plain drops what a stored time would lose: the monotonic reading and the zone.
func plain(t time.Time) time.Time { return t.Round(0).UTC() }
