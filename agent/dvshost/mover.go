package dvshost

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/godwit-project/godwit/migration"
)

const (
	// moveTime bounds a move until its commit.
	moveTime = 2 * time.Minute
	// holdTime bounds how long callers wait for a move that does not get on.
	holdTime = 30 * time.Second
	// prepareTime bounds how long it takes until the destination is ready, the module sent and compiled.
	prepareTime = time.Minute
)

var (
	errUndecided = errors.New("this node ends; what was decided of the move is done when it begins again")
	errUnborn    = errors.New("the destination lost what it had before it was the owner")
	errLost      = errors.New("the destination took over, or was about to, and has ended: the process is lost, and its callers are told")
)

// mover runs one attempt of a move by package migration: the duties of its runner. This node is the only one that can run it: the endpoint is
// here, and what is decided stands in this node's book.
type mover struct {
	h     *Host
	k     key
	to    string
	epoch uint64
	p     *hosted // nil for a program outside of this node, or one that is gone
	gone  bool    // the move was found in the book: the process ended with the node that began it

	events  chan migration.Event
	forced  chan chan error // who gives it up
	settled chan struct{}   // closed when the source's part is over
	settle  func()
	over    chan struct{} // closed when no event is taken any more

	state migration.State // of run alone
	// early is what runs before the decision; it has ended before an abort is carried out.
	early  sync.WaitGroup
	late   sync.WaitGroup
	before context.Context
	decide context.CancelFunc // ends early
	after  context.Context
	cease  context.CancelFunc // ends late
	given  bool               // up: settled only when nothing more is asked of the destination

	memory string // the id of the destination's book

	mu             sync.Mutex
	cause          error // why it is aborted, or given up
	shown          migration.State
	rounds, pages  int
	heldAt, freeAt time.Time
}

func (m *mover) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (h *Host) newMover(k key, to string, epoch uint64) *mover {
	m := &mover{
		h: h, k: k, to: to, epoch: epoch, events: make(chan migration.Event), settled: make(chan struct{}),
		over: make(chan struct{}), forced: make(chan chan error),
	}
	m.settle = sync.OnceFunc(func() { close(m.settled) })
	m.before, m.decide = context.WithCancel(h.ctx)
	m.after, m.cease = context.WithCancel(h.ctx)
	return m
}

// begin starts an attempt with a new epoch. p is nil for a program outside of this node.
func (h *Host) begin(ctx context.Context, k key, p *hosted, peer *Peer, frozen bool) (*mover, error) {
	memory, err := peer.book(ctx)
	if err != nil {
		return nil, err
	}
	if err := h.wake(ctx, k); err != nil { // an attempt before may have stopped it
		return nil, err
	}
	epoch, err := h.allocate(k)
	if err != nil {
		return nil, err
	}
	if p != nil {
		p.forget()
	}
	m := h.newMover(k, peer.name, epoch)
	m.p, m.memory = p, memory
	plan := migration.Process()
	if frozen {
		plan = migration.FrozenProcess()
	}
	state, actions, err := migration.New(migration.Spec{
		Name: fmt.Sprintf("%s-%d", h.o.Name, epoch), Service: k.String(), Epoch: epoch, Source: h.o.Name, Destination: peer.name, Plan: plan,
		Limits: migration.Limits{Prepare: prepareTime, Quiesce: holdTime, Abandon: moveTime},
	}, time.Now())
	if err != nil {
		return nil, err
	}
	if err := m.store(state); err != nil {
		return nil, err
	}
	m.state, m.shown = state, state
	if !h.launch(m, actions) {
		return nil, errUndecided
	}
	return m, nil
}

// allocate returns an epoch above all that this node knows of an endpoint's, and never again the same.
func (h *Host) allocate(k key) (epoch uint64, err error) {
	err = ErrNoProcess
	for _, e := range h.o.Node.Endpoints() {
		if e.Container == k.container && e.Name == k.name && e.Node == h.o.Name {
			epoch, err = max(e.Version.Epoch, e.Fence)+1, nil
		}
	}
	if err != nil {
		return 0, err
	}
	return epoch, h.o.book.change(k, func(e *entry) bool {
		e.Epoch = max(epoch, e.Epoch+1)
		epoch = e.Epoch
		return true
	})
}

// launch has a mover run. What an earlier one has still to clear away at the same destination is this one's from now on.
func (h *Host) launch(m *mover, actions []migration.Action) bool {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return false
	}
	old := slices.Clone(h.movers[m.k]) // settled: only one at a time moves a process
	h.movers[m.k] = append(h.movers[m.k], m)
	h.wg.Go(func() { m.run(actions) })
	h.mu.Unlock()
	for _, o := range old {
		if o.to == m.to {
			o.tellOf(migration.Superseded{At: time.Now(), By: m.epoch})
		}
	}
	return true
}

// Recover goes on with the moves that the book holds: undecided ones are aborted, for their processes have ended with this node; what was
// committed is carried out.
func (h *Host) Recover() {
	for k, e := range h.o.book.all() {
		for _, epoch := range slices.Sorted(maps.Keys(e.Moves)) {
			r := e.Moves[epoch]
			m := h.newMover(k, r.State.Spec.Destination, epoch)
			m.state, m.memory, m.shown, m.gone = r.State, r.Memory, r.State, true
			h.o.Log.Info("DVS move found in the book", "endpoint", k, "to", m.to, "epoch", epoch, "phase", r.State.Phase)
			after, actions, err := migration.Step(m.state, migration.Recovered{At: time.Now()})
			if err != nil {
				h.o.Log.Error("DVS move in the book cannot go on", "endpoint", k, "err", err)
				continue
			}
			m.state, m.shown = after, after
			h.launch(m, actions)
		}
	}
}

// run feeds the state machine until it is over, or this node ends.
func (m *mover) run(actions []migration.Action) {
	defer m.end()
	m.send(actions)
	wake := time.NewTimer(0)
	defer wake.Stop()
	for !m.state.Terminal() {
		at := time.Second
		if w := m.state.Wake(); !w.IsZero() {
			at = min(at, max(0, time.Until(w)))
		}
		wake.Reset(at)
		select {
		case e := <-m.events:
			m.feed(e)
		case <-wake.C:
			m.feed(migration.Tick{At: time.Now()})
		case answer := <-m.forced:
			answer <- m.force()
		case <-m.h.ctx.Done():
			return
		}
	}
}

func (m *mover) end() {
	close(m.over)
	m.decide()
	m.cease()
	m.early.Wait()
	m.late.Wait()
	m.settle()
	m.h.mu.Lock()
	defer m.h.mu.Unlock()
	left := slices.DeleteFunc(m.h.movers[m.k], func(o *mover) bool { return o == m })
	if m.h.movers[m.k] = left; len(left) == 0 {
		delete(m.h.movers, m.k)
	}
}

// tellOf gives the machine an event, unless it has ended.
func (m *mover) tellOf(e migration.Event) {
	select {
	case m.events <- e:
	case <-m.over:
	}
}

// feed is one event: the state first, then the actions.
func (m *mover) feed(e migration.Event) {
	after, actions, err := migration.Step(m.state, e)
	if err != nil {
		m.h.o.Log.Debug("DVS move: an event does not count", "endpoint", m.k, "event", e, "err", err)
		return
	}
	decided := m.state.Phase.BeforeCommit() && !after.Phase.BeforeCommit()
	if decided && after.Decision == migration.DecisionCommit {
		if by := m.newer(); by != 0 {
			m.feed(migration.Superseded{At: time.Now(), By: by})
			return
		}
	}
	if migration.DurableFirst(m.state, after) {
		if err := m.store(after); err != nil {
			m.h.o.Log.Error("DVS move cannot be recorded", "endpoint", m.k, "err", err)
			if m.state.Phase.BeforeCommit() && after.Decision != migration.DecisionAbort {
				m.set(func() { m.cause = errors.Join(m.cause, err) })
				m.feed(migration.Abort{At: time.Now(), Reason: "it cannot be recorded: " + err.Error()})
				return
			}
		}
	}
	m.state = after
	m.set(func() {
		m.shown = after
		if decided && after.Decision == migration.DecisionAbort && m.cause == nil {
			m.cause = errors.New(after.Reason)
		}
	})
	if decided {
		m.decide()
	}
	m.send(actions)
	if m.sourceDone() && !m.given {
		m.settle()
	}
}

// newer returns the epoch of an owner that is newer than this attempt, or 0: the commit's condition.
func (m *mover) newer() uint64 {
	for _, e := range m.h.o.Node.Endpoints() {
		if e.Container == m.k.container && e.Name == m.k.name && e.Version.Epoch >= m.epoch {
			return max(e.Version.Epoch, m.epoch+1)
		}
	}
	return 0
}

// sourceDone tells whether the process is here again, and what is left is to be cleared away elsewhere.
func (m *mover) sourceDone() bool {
	done := func(id migration.StepID) bool { return !m.state.Steps[id].Done.IsZero() }
	return m.state.Terminal() || m.state.Phase == migration.Aborting && done(abortOwner) && done(abortProcess)
}

// store writes a state, or removes it when it is over.
func (m *mover) store(s migration.State) error {
	return m.h.o.book.change(m.k, func(e *entry) bool {
		if s.Terminal() {
			delete(e.Moves, m.epoch)
			return true
		}
		if e.Moves == nil {
			e.Moves = map[uint64]record{}
		}
		e.Moves[m.epoch] = record{State: s, Memory: m.memory}
		return true
	})
}

// send carries actions out, each in a goroutine that feeds its answer.
func (m *mover) send(actions []migration.Action) {
	for _, a := range actions {
		switch {
		case a.Verb == migration.ObserveVerb:
			m.observe(a)
		case a.Verb == migration.AbortVerb:
			m.late.Go(func() {
				m.early.Wait()
				m.carryOut(m.after, a)
			})
		case m.state.Phase.BeforeCommit():
			m.early.Go(func() { m.carryOut(m.before, a) })
		default:
			m.late.Go(func() { m.carryOut(m.after, a) })
		}
	}
}

// observe answers for the source alone: what was there when the node ended is gone.
func (m *mover) observe(a migration.Action) {
	if a.Role == migration.Source && m.gone {
		lost := migration.Lost{
			At: time.Now(), Epoch: a.Epoch, Participant: a.Participant, Role: a.Role, Reason: "the node has begun again, and its processes ended with it",
		}
		m.late.Go(func() { m.tellOf(lost) })
	}
}

func (m *mover) carryOut(ctx context.Context, a migration.Action) {
	err := m.do(ctx, a.Step)
	if err == nil {
		m.tellOf(migration.Done{At: time.Now(), Epoch: a.Epoch, Step: a.Step})
		return
	}
	if s, ok := errors.AsType[*stepError](err); ok && a.Step == commitStandby && s.Fate != "" {
		m.giveUp(s)
		return
	}
	m.set(func() {
		if m.cause == nil && m.shown.Phase.BeforeCommit() {
			m.cause = err
		}
	})
	m.h.o.Log.Debug("DVS step failed", "endpoint", m.k, "step", a.Step, "epoch", a.Epoch, "err", err)
	m.tellOf(migration.Failed{At: time.Now(), Epoch: a.Epoch, Step: a.Step, Reason: err.Error()})
}

// giveUp ends an attempt whose commit can never be carried out.
func (m *mover) giveUp(s *stepError) {
	by := max(s.Epoch, m.epoch+1)
	var cause error
	switch s.Fate {
	case migration.Unborn:
		cause = fmt.Errorf("%w: %w", errUnborn, s)
	case migration.Gone:
		cause = fmt.Errorf("%w: %w", errLost, s)
		if m.p != nil {
			m.p.leave()
		} else {
			m.leave()
		}
	case migration.Over: // it went on from there, and the answer was lost
		m.leave()
	case migration.Owner, migration.Ready:
	}
	m.set(func() { m.cause = cause })
	m.h.o.Log.Warn("DVS move given up after its commit", "endpoint", m.k, "to", m.to, "epoch", m.epoch, "reason", s)
	m.tellOf(migration.Superseded{At: time.Now(), By: by})
}

// leave ends the copy that is held here.
func (m *mover) leave() {
	if err := m.depart(m.h.ctx); err != nil {
		m.h.o.Log.Warn("DVS process that went on elsewhere, or is lost, not ended here", "endpoint", m.k, "err", err)
	}
}

// wait waits until the source's part is over. When ctx ends before the decision it is aborted.
func (m *mover) wait(ctx context.Context) error {
	select {
	case <-m.settled:
	case <-ctx.Done():
		reason := "who asked for it has gone"
		if errors.Is(context.Cause(ctx), errAborted) {
			reason = ""
		}
		m.tellOf(migration.Abort{At: time.Now(), Reason: reason})
		<-m.settled
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.cause != nil:
		return m.cause
	case m.shown.Phase == migration.Completed:
		return nil
	default:
		return errUndecided
	}
}

// tell says what the attempt was.
func (m *mover) tell(done *MoveInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	done.Rounds, done.PagesSent = m.rounds, m.pages
	if !m.freeAt.IsZero() {
		done.HeldMs = ms(m.freeAt.Sub(m.heldAt))
	}
}

// completing tells whether a move of that name was committed, and is being carried out without its process being here.
func (h *Host) completing(k key) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.movers[k], func(m *mover) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.gone && m.shown.Phase == migration.Committed
	})
}
