package dvshost

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/server/process"
)

const (
	// few is how many pages may be left for the time when nobody is served; rounds bounds how often that is tried.
	few    = 128
	rounds = 12
	// batch is how many pages are sent at once.
	batch = 1024
	// checkEvery is how often the destination is asked while callers wait whether it is there, and checkTime how long it may take to say so.
	checkEvery = 200 * time.Millisecond
	checkTime  = 3 * time.Second
)

// do carries out a step: at this node, or by asking the destination's host.
func (m *mover) do(ctx context.Context, step migration.StepID) error {
	if step.Role() == migration.Destination {
		return m.ask(ctx, step)
	}
	if done, err := m.nativeStep(ctx, step); done || err != nil {
		return err
	}
	switch step {
	case convergeProcess:
		if m.p == nil { // the program's own pieces, if it gives any
			return m.h.o.Node.Do(ctx, m.command(step))
		}
		return m.converge(ctx)
	case quiesceEndpoint:
		m.set(func() { m.heldAt = time.Now() })
		return m.quiesce(ctx)
	case abortProcess:
		if m.p != nil {
			m.p.forget()
		}
		return nil
	case releaseProcess:
		return m.release(ctx)
	case abortOwner:
		err := m.h.o.Node.Do(ctx, m.command(step))
		if errors.Is(err, node.ErrOver) {
			return nil // a newer epoch has been here: there is nothing of this one
		}
		return err
	case commitOwner:
		err := m.commitHere(ctx)
		m.set(func() { m.freeAt = time.Now() })
		return err
	default:
		return m.h.o.Node.Do(ctx, m.command(step))
	}
}

func (m *mover) command(step migration.StepID) node.Command {
	return command(m.k, StepRequest{Epoch: m.epoch, From: m.to}, step)
}

// ask has the destination's host do a step.
func (m *mover) ask(ctx context.Context, step migration.StepID) error {
	peer, err := m.h.peerOf(m.to)
	if err != nil {
		return err
	}
	r := StepRequest{Container: m.k.container, Name: m.k.name, From: m.h.o.Name, Step: step, Epoch: m.epoch, Memory: m.memory, Native: m.h.nativeSpec(m.k, step)}
	if step == prepareProcess && m.p != nil {
		module := m.p.machine.Module()
		r.Module, r.Limit, r.Time, r.Message = module.ID().String(), m.p.limits.Memory, m.p.limits.Time, m.p.limits.Message
		a, err := peer.Step(ctx, r)
		if err == nil && a.Module {
			if err = peer.SendModule(ctx, module.Bytes()); err != nil {
				return err
			}
			a, err = peer.Step(ctx, r)
		}
		return answered(step, a, err)
	}
	a, err := peer.Step(ctx, r)
	return answered(step, a, err)
}

// answered makes an error of an answer that says no.
func answered(step migration.StepID, a StepAnswer, err error) error {
	switch {
	case err != nil:
		return err
	case a.Fate == migration.Over && step.Verb() == migration.AbortVerb:
		return nil // what is there is of a newer epoch
	case a.Failed != "":
		return &stepError{a}
	default:
		return nil
	}
}

// converge sends pages until few are left, or as many change as are sent.
func (m *mover) converge(ctx context.Context) error {
	var b base
	_, _ = rand.Read(b.id[:]) // never fails
	last := 0
	for round := 1; round <= rounds; round++ {
		pages, _, mark := m.p.machine.Changes(b.mark)
		if round > 1 && (len(pages) <= few || round > 3 && len(pages) > last*9/10) {
			break // the rest goes with the final state
		}
		if err := m.sendPages(ctx, b.id, pages); err != nil {
			return err
		}
		b.mark, last = mark, len(pages)
		m.set(func() { m.rounds, m.pages = round, m.pages+len(pages) })
	}
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	m.p.base = b
	return nil
}

func (m *mover) sendPages(ctx context.Context, id baseID, pages []process.Page) error {
	peer, err := m.h.peerOf(m.to)
	if err != nil {
		return err
	}
	for {
		part := pages[:min(batch, len(pages))]
		pages = pages[len(part):]
		if err = peer.SendPages(ctx, m.k, m.epoch, id, part); err != nil {
			return err
		}
		if len(pages) == 0 {
			return nil
		}
	}
}

// quiesce holds the endpoint and sends the rest. It ends when the destination no longer answers: callers are waiting.
func (m *mover) quiesce(ctx context.Context) error {
	peer, err := m.h.peerOf(m.to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watch sync.WaitGroup
	defer watch.Wait()
	ended := make(chan struct{})
	defer close(ended)
	watch.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(checkEvery):
			}
			asking, stop := context.WithTimeout(ctx, checkTime)
			err := peer.check(asking)
			stop()
			if err != nil {
				cancel(fmt.Errorf("the destination does not answer: %w", err))
				return
			}
		}
	})
	err = m.h.o.Node.Do(ctx, m.command(quiesceEndpoint))
	if err != nil && ctx.Err() != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	return err
}

// release waits until the process has ended here.
func (m *mover) release(ctx context.Context) error {
	if m.p == nil {
		return nil
	}
	select {
	case <-m.p.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
