package failover

import "slices"

// Verb is what a command asks for.
type Verb string

// The verbs.
const (
	// Rest: nothing more is to be done in this turn.
	Rest Verb = "rest"
	// Finish has an agent do what it has still to do.
	Finish Verb = "finish"
	// Start has an agent start the service, or lead clients to it, under the owner's epoch.
	Start Verb = "start"
	// Note stores what has become of the start: Ended says how.
	Note Verb = "note"
	// Look finds out whether what was started is still there: what died before the Note nobody has missed.
	Look Verb = "look"
)

// Command is one thing to do for a service.
type Command struct {
	Do    Verb
	Agent string
	Left  Leftover // of Finish
	// Needed says, of Finish, that the service is not started without it.
	Needed bool
	// Epoch is the owner's for whom it is done.
	Epoch uint64
	Err   error // of Note: why it was not started
}

// Known is what is known of agents at the moment.
type Known struct {
	There func(agent string) bool // has a session
	// Host and Edge are the owner's; Trouble says why they are not known.
	Host, Edge string
	Trouble    error
}

// Turn is one go at making of a service what the store says. The zero value has done nothing yet.
type Turn struct {
	epoch   uint64   // of the owner that it works for
	swept   []string // agents that were asked to do what they had still to do
	needed  []string // and those of whom the start needs it
	started []string // agents
	failed  error
	noted   bool
	looked  bool
}

// Next is what is to be done now. Whoever answers has first done what it had still to do for an older owner; then the owner's host is
// started, and then clients are led to it. For a service with external disks nobody who answers may be left out. A turn whose service has
// got another owner meanwhile begins anew, for that one.
func (t Turn) Next(s State, k Known) (Turn, Command) {
	if t.epoch != s.Owner.Epoch {
		t = Turn{epoch: s.Owner.Epoch}
	}
	if len(t.started) == 0 && !t.noted {
		for _, l := range s.Left {
			if k.There(l.Agent) && !slices.Contains(t.swept, l.Agent) {
				return t, t.command(Command{Do: Finish, Agent: l.Agent, Left: l})
			}
		}
	}
	if t.noted && t.failed == nil && !t.looked {
		return t, t.command(Command{Do: Look, Agent: k.Host})
	}
	if t.noted || s.Phase != Starting && s.Phase != Failed {
		return t, t.command(Command{Do: Rest})
	}
	if t.failed == nil {
		t.failed = k.Trouble
	}
	if t.failed != nil {
		return t, t.command(Command{Do: Note, Err: t.failed})
	}
	for _, l := range s.Left {
		needed := l.Agent == k.Host || l.Agent == k.Edge || s.External && k.There(l.Agent)
		if needed && len(t.started) == 0 && !slices.Contains(t.needed, l.Agent) {
			return t, t.command(Command{Do: Finish, Agent: l.Agent, Left: l, Needed: true})
		}
	}
	for _, agent := range []string{k.Host, k.Edge} {
		if !slices.Contains(t.started, agent) {
			return t, t.command(Command{Do: Start, Agent: agent})
		}
	}
	return t, t.command(Command{Do: Note})
}

func (t Turn) command(c Command) Command {
	c.Epoch = t.epoch
	return c
}

// After is the turn when a command has ended, with an error or without.
func (t Turn) After(c Command, err error) Turn {
	switch c.Do {
	case Finish:
		t.swept = append(slices.Clip(t.swept), c.Agent)
		if c.Needed {
			t.needed, t.failed = append(slices.Clip(t.needed), c.Agent), err
		}
	case Start:
		if t.failed = err; err == nil {
			t.started = append(slices.Clip(t.started), c.Agent)
		}
	case Note:
		t.noted = true
	case Look:
		t.looked = true
	case Rest:
	}
	return t
}

// Ended is the state after a start under that epoch, and whether it is another one: what was started under an epoch that is over, is no
// news of the service.
func (s State) Ended(epoch uint64, err error) (State, bool) {
	if epoch != s.Owner.Epoch {
		return s, false
	}
	next := s
	if s.Phase != Deleting {
		if next.Phase, next.Message = Running, ""; err != nil {
			next.Phase, next.Message = Failed, err.Error()
		}
	}
	if err == nil {
		next.Promote, next.Restore = false, ""
	}
	return next, true
}
