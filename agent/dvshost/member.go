package dvshost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/dvs/replica/register"
	"github.com/godwit-project/godwit/dvs/replica/state"
	"github.com/godwit-project/godwit/server/process"
)

const (
	// inviteEvery is how often each member looks whether the others are there: one that began again is given everything anew.
	inviteEvery = time.Second
	inviteTime  = 5 * time.Second
	bindPause   = 20 * time.Millisecond
)

// member is this node's part in a replicated process.
type member struct {
	h       *Host
	spec    GroupSpec
	module  *process.Module
	machine *process.Process
	session *dvs.Session
	replica *replica.Replica
	ready   chan struct{} // closed when replica is set
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	calls, failures atomic.Uint64
	bound           bool // told by the replica's goroutine alone

	mu       sync.Mutex
	endpoint *dvs.Endpoint // the newest
}

// Join starts this node's part in a group, unless it is there. It goes on when who asked gives up: where it takes longer than that it would never be there.
func (h *Host) Join(spec GroupSpec) error {
	h.joining.Lock()
	defer h.joining.Unlock()
	h.mu.Lock()
	there, ended, closed := h.groups[spec.key()], h.ended[spec.ID], h.closed
	h.mu.Unlock()
	switch {
	case closed:
		return dvs.ErrClosed
	case ended:
		return fmt.Errorf("join %s: %w: the group has ended", spec.key(), node.ErrOver)
	case there != nil && there.spec.ID == spec.ID:
		return nil
	case there != nil:
		return fmt.Errorf("join %s: %w", spec.key(), dvs.ErrNameUsed)
	}
	m, err := h.newMember(h.ctx, spec)
	if err != nil {
		return fmt.Errorf("join %s: %w", spec.key(), err)
	}
	h.mu.Lock()
	if closed = h.closed; !closed {
		h.groups[spec.key()] = m
	}
	h.mu.Unlock()
	if closed {
		m.close()
		return dvs.ErrClosed
	}
	return nil
}

func (h *Host) newMember(ctx context.Context, spec GroupSpec) (*member, error) {
	module, err := h.moduleOf(spec.Module)
	if err != nil {
		return nil, err
	}
	m := &member{h: h, spec: spec, module: module, ready: make(chan struct{})}
	if m.machine, err = module.Start(ctx, process.Options{Limits: process.Limits{Memory: spec.Memory, Time: spec.Time, Message: spec.Message}}); err != nil {
		return nil, err
	}
	if m.session, err = dvs.Connect(ctx, h.o.Socket, dvs.Options{Container: spec.Container, Program: "wasm:" + spec.Name}); err != nil {
		m.machine.Close()
		return nil, err
	}
	m.ctx, m.cancel = context.WithCancel(h.ctx)
	others := slices.DeleteFunc(slices.Clone(spec.Nodes), func(n string) bool { return n == h.o.Name })
	m.replica, err = replica.New(replica.Options{
		Group: spec.ID, Self: h.o.Name, Peers: others, Kind: spec.Kind, Machine: &replicated{Process: m.machine}, Log: h.o.Log,
		Store: register.NewStore(proposer(h.o.Name), spec.Nodes, m.ask), Dial: m.dial, OnChange: m.changed,
	})
	if err != nil {
		m.cancel()
		m.session.Close()
		m.machine.Close()
		return nil, err
	}
	close(m.ready)
	for _, n := range others {
		if p := h.peer(n); p != nil {
			m.wg.Go(func() { m.invite(p) })
		}
	}
	m.wg.Go(m.attend)
	return m, nil
}

// attend notices when the replica has ended by itself, because its machine has failed.
func (m *member) attend() {
	select {
	case <-m.ctx.Done():
	case <-m.replica.Done():
		if m.ctx.Err() == nil {
			m.fail(m.replica.Err())
		}
	}
}

// fail ends this life of a member that is of no use any more. The next one begins with nothing, and is given the state of the others.
func (m *member) fail(err error) {
	m.h.o.Log.Error("DVS replica failed, and begins again", "endpoint", m.spec.key(), "err", err)
	m.h.start(func() {
		h := m.h
		h.mu.Lock()
		mine := h.groups[m.spec.key()] == m
		if mine {
			delete(h.groups, m.spec.key())
		}
		h.mu.Unlock()
		if !mine {
			return // somebody else ends it
		}
		m.close()
		select {
		case <-h.ctx.Done():
			return
		case <-time.After(inviteEvery):
		}
		if err := h.Join(m.spec); err != nil {
			h.o.Log.Info("DVS replica not begun again", "endpoint", m.spec.key(), "err", err)
		}
	})
}

// close ends this node's part; the others go on.
func (m *member) close() {
	m.cancel()
	m.replica.Close()
	m.session.Close()
	m.wg.Wait()
	m.machine.Close()
}

// ask asks one that keeps the group's record.
func (m *member) ask(ctx context.Context, name string, q register.Ask) (register.Answer, error) {
	all := GroupAsk{ID: m.spec.ID, Ask: q}
	if name == m.h.o.Name {
		return m.h.Ask(all)
	}
	p, err := m.h.peerOf(name)
	if err != nil {
		return register.Answer{}, err
	}
	return p.Ask(ctx, all)
}

func (m *member) dial(ctx context.Context, name string) (net.Conn, error) {
	p, err := m.h.peerOf(name)
	if err != nil {
		return nil, err
	}
	return p.Link(ctx, m.spec.ID, m.h.o.Name)
}

// invite has another join, again and again: it may have begun again.
func (m *member) invite(p *Peer) {
	for {
		err := m.inviteOnce(p)
		if errors.Is(err, ErrModule) && m.send(p) == nil {
			err = m.inviteOnce(p)
		}
		if errors.Is(err, node.ErrOver) {
			m.h.start(func() { m.h.endHere(context.WithoutCancel(m.ctx), m.spec) })
			return
		}
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(inviteEvery):
		}
	}
}

func (m *member) inviteOnce(p *Peer) error {
	ctx, cancel := context.WithTimeout(m.ctx, inviteTime)
	defer cancel()
	return p.Join(ctx, m.spec)
}

// send sends the module, which takes the other some time to compile.
func (m *member) send(p *Peer) error {
	ctx, cancel := context.WithTimeout(m.ctx, prepareTime)
	defer cancel()
	return p.SendModule(ctx, m.module.Bytes())
}

// changed binds the endpoint when this replica is the one that answers. Another that binds later with a higher epoch ends that.
func (m *member) changed(c replica.Change) {
	<-m.ready
	if c.Verdict != "" {
		m.h.o.Log.Info("DVS replica watches who answers", "endpoint", m.spec.key(), "verdict", c.Verdict, "primary", c.Primary)
		return
	}
	if !c.Serving || m.bound {
		m.bound = c.Serving
		return
	}
	for m.replica.Last().Serving {
		// Without a limit of time: what the node has done and this one gave up could not be done again with the same epoch.
		e, err := m.session.Bind(m.ctx, m.spec.Name, dvs.BindOptions{
			Replicated: true, Epoch: m.spec.Line + c.Epoch, Line: m.spec.Line, Gone: m.replica.Gone,
		})
		switch {
		case err == nil:
			m.bound = true
			m.mu.Lock()
			m.endpoint = e
			m.mu.Unlock()
			m.wg.Go(func() { m.serve(e) })
			return
		case errors.Is(err, dvs.ErrEpoch):
			return // another is
		case errors.Is(err, dvs.ErrNotConnected):
			m.fail(err)
			return
		}
		m.h.o.Log.Info("DVS replica cannot bind", "endpoint", m.spec.key(), "err", err)
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(bindPause):
		}
	}
}

// unbind ends the endpoint, if it is here: so its callers are told that the group has ended.
func (m *member) unbind(ctx context.Context) {
	m.mu.Lock()
	e := m.endpoint
	m.mu.Unlock()
	if e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	_ = e.Unbind(ctx) // another may have it
}

// serve gives the group what comes, until another answers for it.
func (m *member) serve(e *dvs.Endpoint) {
	for {
		q, err := e.Receive(m.ctx, dvs.Any)
		if errors.Is(err, dvs.ErrNotConnected) {
			m.fail(err)
		}
		if err != nil {
			return
		}
		if q.Kind == endpoint.Notify {
			continue // nobody would say it again if it were lost
		}
		m.wg.Go(func() { m.answer(e, q) })
	}
}

func (m *member) answer(e *dvs.Endpoint, q dvs.Message) {
	caller, seq := q.Caller()
	m.calls.Add(1)
	reply, err := m.replica.Handle(m.ctx, state.Request{Caller: caller, Seq: seq, Payload: encodeMessage(kindOf(q.Kind), q.From, q.Payload)})
	var refused *replica.Failure
	switch {
	case errors.As(err, &refused):
		m.failures.Add(1)
		_ = e.Refuse(q, refused.Text)
	case err != nil:
		e.Drop(q)
	default:
		_ = e.Reply(q, reply) // a caller that has gone needs none
	}
}

func (m *member) info() ProcessInfo {
	state := "replica"
	if m.replica.Last().Serving {
		state = "answering"
	}
	return ProcessInfo{
		Container: m.spec.Container, Name: m.spec.Name, State: state, Module: m.spec.Module, Memory: m.machine.Memory(),
		Calls: m.calls.Load(), Failures: m.failures.Load(), Replicas: len(m.replica.Members()),
	}
}
