package migration

import (
	"fmt"
	"slices"
	"time"
)

// Step takes the state one event further. It is a pure function: the same state and event give the same answer, and
// the state that was passed in is not changed. An event that is late, doubled or of another epoch changes nothing and
// is no error. With an error the state comes back unchanged and without actions.
func Step(s State, e Event) (State, []Action, error) {
	if e == nil || e.when().IsZero() {
		return s, nil, fmt.Errorf("migration %s: %w: %v has no time", s.Spec.Name, ErrEvent, e)
	}
	if s.Phase.next() == "" && !s.Terminal() {
		return s, nil, fmt.Errorf("migration %s: %w: unknown phase %q; a newer version wrote it, run that one",
			s.Spec.Name, ErrState, string(s.Phase))
	}
	// The one gate for stale epochs, before any rule of a phase.
	if epoch, ok := e.about(); ok && epoch != s.Spec.Epoch {
		return s, nil, nil
	}
	t := &turn{s: s, at: plain(e.when())}
	var err error
	switch e := e.(type) {
	case Done:
		err = t.done(e)
	case Failed:
		err = t.failed(e)
	case Lost:
		t.lost(e)
	case Superseded:
		t.superseded(e)
	case Continue:
		err = t.proceed()
	case Abort:
		err = t.abort(e)
	case Tick:
		t.tick()
	case Recovered:
		t.recovered()
	default:
		err = fmt.Errorf("%w: unknown type %T", ErrEvent, e)
	}
	if err != nil {
		return s, nil, fmt.Errorf("migration %s: %w", s.Spec.Name, err)
	}
	return t.s, t.out, nil
}

// turn is one call of Step at work. The state is cloned on the first change, so that events which change nothing cost
// nothing.
type turn struct {
	s      State
	at     time.Time
	out    []Action
	cloned bool
}

func (t *turn) change() *State {
	if !t.cloned {
		t.s, t.cloned = t.s.clone(), true
	}
	return &t.s
}

// place returns the planned step that an answer is about, and whether the answer matters: it does for a step of the
// present phase that was started and is not done.
func (t *turn) place(id StepID) (bool, error) {
	if id.Valid() == nil && id.Verb() == ObserveVerb {
		return false, nil
	}
	p, ok := t.s.Spec.Plan.step(id)
	if !ok {
		return false, fmt.Errorf("%w: step %q is not in plan %s", ErrEvent, string(id), t.s.Spec.Plan.Kind)
	}
	st, started := t.s.Steps[id]
	if !started && !t.s.Terminal() && !(t.s.Phase == Aborting && p.Phase != Aborting) {
		return false, fmt.Errorf("%w: %s was answered but not started here; load the state again", ErrAhead, id)
	}
	return started && p.Phase == t.s.Phase && st.Done.IsZero(), nil
}

func (t *turn) done(e Done) error {
	matters, err := t.place(e.Step)
	if !matters {
		return err
	}
	s := t.change()
	st := s.Steps[e.Step]
	st.Done, st.Retry = t.at, time.Time{}
	s.Steps[e.Step] = st
	t.advance()
	return nil
}

// failed aborts before the commit, also when the step had been done: then what it had achieved is gone, and an abort
// is safe at any time.
func (t *turn) failed(e Failed) error {
	matters, err := t.place(e.Step)
	_, started := t.s.Steps[e.Step]
	switch {
	case err != nil:
		return err
	case started && t.s.Phase.BeforeCommit():
		t.fail(e.Step, e.Reason)
		t.abandon(fmt.Sprintf("%s failed: %s", e.Step, e.Reason))
	case matters:
		t.fail(e.Step, e.Reason)
	}
	return nil
}

// lost aborts before the commit. Later it counts as a failure of what is being asked of that end: the agent has to
// make it anew, from the volume if the memory is gone.
func (t *turn) lost(e Lost) {
	end := NewStepID(e.Participant, e.Role, "").end()
	if t.s.Phase.BeforeCommit() {
		if slices.Contains(t.s.engaged(), end) {
			t.abandon(fmt.Sprintf("%s/%s lost what it had made ready: %s", e.Participant, e.Role, e.Reason))
		}
		return
	}
	for _, a := range t.s.Outstanding() {
		if a.Step.end() == end {
			t.fail(a.Step, e.Reason)
		}
	}
}

// fail records a failure and when the step is sent again, if it is.
func (t *turn) fail(id StepID, reason string) {
	s := t.change()
	st := s.Steps[id]
	st.Failure = reason
	if !s.Phase.BeforeCommit() && st.Retry.IsZero() {
		st.Retry = t.at.Add(backOff(st.Attempts))
	}
	s.Steps[id] = st
}

func (t *turn) superseded(e Superseded) {
	if t.s.Terminal() || e.By <= t.s.Spec.Epoch {
		return
	}
	s := t.change()
	s.Reason = fmt.Sprintf("given up in phase %s: epoch %d has taken the service", s.Phase, e.By)
	if s.Decision == DecisionCommit {
		t.enter(Completed)
		return
	}
	s.Decision = DecisionAbort
	t.enter(Aborted)
}

func (t *turn) proceed() error {
	if !t.s.Holding() {
		return fmt.Errorf("%w: nothing to continue, it is %s", ErrNotHeld, t.s.Phase)
	}
	t.change().Released = true
	t.advance()
	return nil
}

func (t *turn) abort(e Abort) error {
	if t.s.Decision == DecisionCommit {
		return fmt.Errorf("%w: the service belongs to %s now and cannot be put back; wait until this one is completed, "+
			"then migrate it to %s", ErrCommitted, t.s.Spec.Destination, t.s.Spec.Source)
	}
	if t.s.Phase.BeforeCommit() {
		reason := "aborted by the operator"
		if e.Reason != "" {
			reason += ": " + e.Reason
		}
		t.abandon(reason)
	}
	return nil
}

func (t *turn) tick() {
	if at, limit, name := t.s.deadline(); !at.IsZero() && !t.at.Before(at) {
		t.abandon(t.s.overdue(limit, name))
		return
	}
	if until := t.s.Spec.HoldUntil; t.s.Ready && !until.IsZero() && !t.at.Before(until) {
		t.change().Released = true
		t.advance()
		return
	}
	for _, a := range t.s.Outstanding() {
		if due := t.s.Steps[a.Step].Retry; !due.IsZero() && !t.at.Before(due) {
			t.send(a.Step)
		}
	}
}

// recovered asks every end that takes part what is true, as long as an answer can still lead to an abort, and sends
// again what is outstanding. It changes nothing.
func (t *turn) recovered() {
	if t.s.Phase.BeforeCommit() {
		for _, end := range t.s.engaged() {
			t.out = append(t.out, t.s.action(StepID(end)+StepID(ObserveVerb)))
		}
	}
	t.out = append(t.out, t.s.Outstanding()...)
}
