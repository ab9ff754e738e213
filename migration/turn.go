package migration

import (
	"slices"
	"time"
)

// advance starts what may start, and enters the next phase whenever nothing is left of the present one.
func (t *turn) advance() {
	for !t.s.Terminal() && !t.launch() {
		if t.s.Phase == Converging && t.held() {
			t.change().Ready = true
			return
		}
		t.enter(t.s.Phase.next())
	}
}

func (t *turn) held() bool {
	until := t.s.Spec.HoldUntil
	return t.s.Holding() && (until.IsZero() || t.at.Before(until))
}

// launch starts the steps of the phase whose predecessors are done. It tells whether any step is not done.
func (t *turn) launch() bool {
	open := false
	for _, p := range t.s.Spec.Plan.Steps {
		if p.Phase != t.s.Phase {
			continue
		}
		st, started := t.s.Steps[p.ID]
		open = open || st.Done.IsZero()
		if !started && !slices.ContainsFunc(p.After, func(id StepID) bool { return t.s.Steps[id].Done.IsZero() }) {
			t.send(p.ID)
		}
	}
	return open
}

// send puts the step's command into the actions, for the first time or again.
func (t *turn) send(id StepID) {
	s := t.change()
	st := s.Steps[id]
	if st.Started.IsZero() {
		st.Started = t.at
	}
	st.Attempts++
	st.Retry = time.Time{}
	s.Steps[id] = st
	t.out = append(t.out, s.action(id))
}

// enter is the only place where the phase changes. Entering Committed is the decision to commit, entering Aborting
// the one to abort; the callers come only from phases of the table in the package comment.
func (t *turn) enter(ph Phase) {
	s := t.change()
	s.Phase, s.Ready = ph, false
	s.PhaseTimes = append(s.PhaseTimes, PhaseTime{Phase: ph, Entered: t.at})
	switch ph {
	case Committed:
		s.Decision = DecisionCommit
	case Aborting:
		s.Decision = DecisionAbort
	case Preparing, Converging, Synchronizing, Quiesced, Optimizing, Completed, Aborted:
	}
}

// abandon decides to abort. Ends that were never sent anything have nothing to put back: their steps are skipped.
func (t *turn) abandon(reason string) {
	s := t.change()
	s.Reason = reason
	engaged := s.engaged()
	t.enter(Aborting)
	for _, p := range s.Spec.Plan.Steps {
		if p.Phase == Aborting && !slices.Contains(engaged, p.ID.end()) {
			s.Steps[p.ID] = StepStatus{Done: t.at, Skipped: true}
		}
	}
	t.advance()
}
