package migration

import "errors"

// Errors of New and Plan.Validate: nothing has been started.
var (
	// ErrInvalid: the specification or its plan cannot be run.
	ErrInvalid = errors.New("invalid migration")
)

// Errors of Step: the state returned with them is the one that went in, without actions.
var (
	// ErrCommitted: Abort came after the commit. The only way is forward.
	ErrCommitted = errors.New("already committed")
	// ErrNotHeld: Continue came, but nothing waits for it.
	ErrNotHeld = errors.New("not held")
	// ErrAhead: an agent answers a step that this state has not started: another runner has stored a newer state.
	ErrAhead = errors.New("event is ahead of the state")
	// ErrEvent: the event itself is malformed: no time, no such step.
	ErrEvent = errors.New("invalid event")
	// ErrState: the stored state is damaged or from a version that this one does not understand.
	ErrState = errors.New("invalid state")
)
