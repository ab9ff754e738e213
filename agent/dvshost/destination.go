package dvshost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/server/process"
)

// The steps of a move, by the plan's names.
const (
	prepareProcess  = "process/destination/prepare"
	prepareStandby  = "endpoint/destination/prepare"
	prepareOwner    = "endpoint/source/prepare"
	convergeProcess = "process/source/converge"
	quiesceEndpoint = "endpoint/source/quiesce"
	commitStandby   = "endpoint/destination/commit"
	commitOwner     = "endpoint/source/commit"
	releaseProcess  = "process/source/release"
	abortOwner      = "endpoint/source/abort"
	abortProcess    = "process/source/abort"
	abortStandby    = "endpoint/destination/abort"
	abortBlank      = "process/destination/abort"
)

// StepRequest asks the host at the destination of a move for a step.
type StepRequest struct {
	Container string           `json:"container"`
	Name      string           `json:"name"`
	From      string           `json:"from"`
	Step      migration.StepID `json:"step"`
	Epoch     uint64           `json:"epoch"`
	// Memory is the id of the book of the host that is meant: one that has begun again without it obeys nothing of what was meant for the one before.
	Memory string `json:"memory"`

	// What follows is for process/destination/prepare. Without a module a program of the node's outside has to wait as a standby by itself.
	Module  string        `json:"module,omitempty"`
	Limit   int64         `json:"limit,omitempty"` // of its memory
	Time    time.Duration `json:"time,omitempty"`
	Message int           `json:"message,omitempty"`
	Native  *NativeSpec   `json:"native,omitempty"` // a native program that the source has started
}

// StepAnswer is what became of a step. Without Failed it is done.
type StepAnswer struct {
	Failed string         `json:"failed,omitempty"`
	Fate   migration.Fate `json:"fate,omitempty"`   // why, if it is final
	Epoch  uint64         `json:"epoch,omitempty"`  // the newest that has been here, for the fate over
	Module bool           `json:"module,omitempty"` // the module has to be sent first
}

// stepError is an answer that says no.
type stepError struct {
	StepAnswer
}

// Error says why.
func (e *stepError) Error() string { return e.Failed }

// Unwrap returns the error that stands for the answer.
func (e *stepError) Unwrap() error {
	switch {
	case e.Module:
		return ErrModule
	case e.Fate == migration.Over:
		return node.ErrOver
	default:
		return nil
	}
}

func refused(fate migration.Fate, format string, args ...any) error {
	return &stepError{StepAnswer{Fate: fate, Failed: fmt.Sprintf(format, args...)}}
}

// desk is where the steps for one endpoint are worked on, one at a time.
type desk struct {
	turn   chan struct{} // holds one token
	cancel context.CancelFunc
}

func (h *Host) desk(k key) *desk {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.desks[k]
	if d == nil {
		d = &desk{turn: make(chan struct{}, 1)}
		d.turn <- struct{}{}
		h.desks[k] = d
	}
	return d
}

// Step carries out a step of a move to this node: the duties of migration.Journal.
func (h *Host) Step(ctx context.Context, r StepRequest) StepAnswer {
	var a StepAnswer
	err := h.step(ctx, key{r.Container, r.Name}, r)
	if err == nil {
		return a
	}
	if s, ok := errors.AsType[*stepError](err); ok {
		a.Fate, a.Epoch = s.Fate, s.Epoch
	}
	a.Module = errors.Is(err, ErrModule)
	a.Failed = fmt.Sprintf("node %s: %s of %s, epoch %d: %v", h.o.Name, r.Step, key{r.Container, r.Name}, r.Epoch, err)
	return a
}

func (h *Host) step(ctx context.Context, k key, r StepRequest) error {
	if err := r.Step.Valid(); err != nil {
		return err
	}
	if k.container == "" || k.name == "" || r.Step.Role() != migration.Destination {
		return errors.New("want a container, a name, and a step of the destination")
	}
	if from, at := h.comesFrom(k); from != "" && from != r.From && at == r.Epoch {
		return fmt.Errorf("the standby waits for node %s, not for %s: %w", from, r.From, ErrSpeaksFor)
	}
	if r.Step == prepareProcess || r.Step == prepareStandby { // a move begins with them
		if err := h.shares(k.container, r.From); err != nil {
			return err
		}
	}
	commits := r.Step == commitStandby
	if !commits && r.Memory != h.o.book.id {
		return refused(migration.Over, "the node has begun again, and what was prepared is gone")
	}
	d := h.desk(k)
	if !commits {
		if run, err := h.admit(k, r, d); !run {
			return err
		}
	}
	select {
	case <-d.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { d.turn <- struct{}{} }()
	if commits {
		return h.commit(context.WithoutCancel(ctx), k, r, d)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h.mu.Lock()
	d.cancel = cancel
	h.mu.Unlock()
	run, err := h.admit(k, r, nil) // something may have come in between
	if !run {
		return err
	}
	if err := h.carryOut(ctx, k, r); err != nil {
		return err
	}
	return h.recordStep(k, r)
}

// admit asks the journal. An abort and a newer epoch end what is at work at the desk, if one is given.
func (h *Host) admit(k key, r StepRequest, d *desk) (run bool, err error) {
	var (
		verdict migration.Verdict
		why     string
		before  migration.Journal
	)
	err = h.o.book.change(k, func(e *entry) bool {
		before = e.Journal
		verdict, why = e.Journal.Admit(r.Epoch, r.Step)
		return e.Journal.Epoch != before.Epoch || e.Journal.Decision != before.Decision
	})
	switch {
	case verdict == migration.AlreadyDone:
		return false, nil
	case verdict == migration.Refuse && r.Epoch < before.Epoch:
		return false, &stepError{StepAnswer{Fate: migration.Over, Epoch: before.Epoch, Failed: why}}
	case verdict == migration.Refuse && before.Epoch == r.Epoch && r.Step.Verb() == migration.AbortVerb: // who decided lost its memory in a power failure
		return false, refused(migration.Over, "%s", why)
	case verdict == migration.Refuse:
		return false, errors.New(why)
	case err != nil:
		return false, err
	}
	if d != nil && (r.Step.Verb() == migration.AbortVerb || r.Epoch > before.Epoch) {
		h.mu.Lock()
		if d.cancel != nil {
			d.cancel()
		}
		h.mu.Unlock()
	}
	return true, nil
}

func (h *Host) recordStep(k key, r StepRequest) error {
	var err error
	stored := h.o.book.change(k, func(e *entry) bool {
		err = e.Journal.Record(r.Epoch, r.Step)
		return err == nil
	})
	return errors.Join(stored, err)
}

// commit makes the standby the owner, or says why that can never be.
func (h *Host) commit(ctx context.Context, k key, r StepRequest, d *desk) error {
	h.mu.Lock()
	p := h.incoming[k]
	h.mu.Unlock()
	staged := p != nil && p.epoch == r.Epoch && p.staged.Load() || p == nil && h.waits(k)
	j := h.o.book.get(k).Journal
	fate := j.Fate(r.Epoch, prepareStandby, commitStandby, staged)
	forgot := r.Memory != h.o.book.id
	if forgot && fate != migration.Over {
		fate = migration.Gone
	}
	switch fate {
	case migration.Owner:
		return nil
	case migration.Over:
		return &stepError{StepAnswer{Fate: fate, Epoch: j.Epoch, Failed: fmt.Sprintf("epoch %d has been here since", j.Epoch)}}
	case migration.Gone:
		if h.owns(k, r.Epoch) { // its answer was lost
			return h.recordStep(k, r)
		}
		if forgot {
			return refused(fate, "the node has begun again, and remembers nothing of it: it may have been the owner")
		}
		return refused(fate, "the node, or the process here, has ended within the commit: it may have been the owner")
	case migration.Unborn:
		never := r
		never.Step = abortStandby
		if _, err := h.admit(k, never, nil); err != nil {
			return err
		}
		return refused(fate, "the state is not here, and never was the owner's")
	case migration.Ready:
	}
	if _, err := h.admit(k, r, nil); err != nil {
		return err
	}
	err := h.o.Node.Do(ctx, command(k, r, commitStandby))
	switch _, says := errors.AsType[*node.Refusal](err); {
	case says && p == nil: // it is not the program that took the state in
		return refused(migration.Gone, "%v", err)
	case err != nil:
		return err
	case p != nil:
		<-p.waited
	default:
		if err := h.settleNative(ctx, k); err != nil {
			return err
		}
	}
	return h.recordStep(k, r)
}

// waits tells whether a program outside waits to take the endpoint over.
func (h *Host) waits(k key) bool {
	return slices.ContainsFunc(h.o.Node.Endpoints(), func(e node.EndpointInfo) bool {
		return e.Container == k.container && e.Name == k.name && e.Standby
	})
}

// owns tells whether the node has an owner of that epoch.
func (h *Host) owns(k key, epoch uint64) bool {
	return slices.ContainsFunc(h.o.Node.Endpoints(), func(e node.EndpointInfo) bool {
		return e.Container == k.container && e.Name == k.name && e.Node == h.o.Name && e.Version.Epoch == epoch
	})
}

// command is a step as the node knows it; most have the plan's name there.
func command(k key, r StepRequest, step migration.StepID) node.Command {
	return node.Command{
		Container: k.container, Endpoint: k.name, Participant: string(step.Participant()), Role: string(step.Role()), Verb: string(step.Verb()),
		Epoch: r.Epoch, Peer: r.From,
	}
}

func (h *Host) carryOut(ctx context.Context, k key, r StepRequest) error {
	switch r.Step {
	case prepareProcess:
		if r.Native != nil {
			return h.expect(ctx, k, r)
		}
		if r.Module == "" {
			return nil
		}
		return h.blank(ctx, k, r)
	case prepareStandby:
		return h.bound(ctx, k, r)
	case abortStandby: // the node knows it as the process's
		return h.o.Node.Do(ctx, command(k, r, abortBlank))
	case abortBlank:
		h.forget(k)
		return nil
	default:
		return errors.New("no such step here")
	}
}

// blank makes a process that waits to take over an endpoint, in place of one that waits already. ErrModule says that the module has to
// be sent first.
func (h *Host) blank(ctx context.Context, k key, r StepRequest) error {
	m, err := h.moduleOf(r.Module)
	if err != nil {
		return err
	}
	limits := process.Limits{Memory: r.Limit, Time: r.Time, Message: r.Message}
	machine, err := m.Start(ctx, process.Options{Limits: limits, Blank: true})
	if err != nil {
		return err
	}
	h.forget(k)
	p, err := h.newHosted(ctx, k, machine, limits)
	if err != nil {
		machine.Close()
		return err
	}
	p.epoch, p.from = r.Epoch, r.From
	if !h.await(p) {
		p.end()
		return errors.New("another is being prepared")
	}
	return nil
}

// bound waits until the node has the standby and has heard of the owner.
func (h *Host) bound(ctx context.Context, k key, r StepRequest) error {
	ctx, cancel := context.WithTimeout(ctx, standbyTime)
	defer cancel()
	for {
		var err error
		if !h.linked(k, r.From) {
			err = fmt.Errorf("node %s has not told this one of it: is there a link between the two?", r.From)
		} else if err = h.o.Node.Do(ctx, command(k, r, prepareProcess)); !errors.Is(err, node.ErrNoStandby) && !errors.Is(err, node.ErrNotHere) {
			return err
		} // else the node has not heard of the standby yet, or an earlier process of that name ends just now
		select {
		case <-ctx.Done():
			return err
		case <-time.After(standbyPause):
		}
	}
}
