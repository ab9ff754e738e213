package dvshost

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/server/process"
)

// standbyTime bounds how long it takes until everything is ready for a move.
const standbyTime = 5 * time.Second

// standbyPause is how long the node is given to learn of a standby, before it is asked again.
const standbyPause = time.Millisecond

// orphanEvery is how often the host that a standby waits for is asked whether it still moves it.
const orphanEvery = 2 * time.Second

// linked tells whether the node knows that an endpoint is at another one, which it has heard over the link between them.
func (h *Host) linked(k key, from string) bool {
	return slices.ContainsFunc(h.o.Node.Endpoints(), func(e node.EndpointInfo) bool {
		return e.Container == k.container && e.Name == k.name && e.Node == from
	})
}

// await binds the process as a standby, and has it serve when it is the owner.
func (h *Host) await(p *hosted) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.incoming[p.key] != nil {
		return false
	}
	h.incoming[p.key] = p
	p.waited = make(chan struct{})
	ctx, cancel := context.WithCancel(h.ctx)
	p.stop = cancel
	h.wg.Go(func() {
		defer close(p.waited)
		defer cancel()
		e, err := p.session.Bind(ctx, p.key.name, p.bindOptions(true))
		h.mu.Lock()
		if h.incoming[p.key] == p {
			delete(h.incoming, p.key)
		}
		h.mu.Unlock()
		p.forget()
		if err == nil {
			p.endpoint, p.came = e, time.Now()
			err = h.own(p)
		}
		if err != nil {
			h.o.Log.Debug("DVS standby ended", "endpoint", p.key, "err", err)
			p.end()
		}
	})
	h.wg.Go(func() { h.adopt(p) })
	return true
}

// adopt ends a standby when the host that began the move knows nothing of it: it has begun again without its book.
func (h *Host) adopt(p *hosted) {
	peer := h.peer(p.from)
	if peer == nil {
		return // it will be told
	}
	for {
		select {
		case <-p.waited:
			return
		case <-time.After(orphanEvery):
		}
		ctx, cancel := context.WithTimeout(h.ctx, checkTime)
		known, err := peer.Moves(ctx, p.key, p.epoch)
		cancel()
		if err != nil || known {
			continue
		}
		h.o.Log.Info("DVS standby given up: its move is not known where it began", "endpoint", p.key, "from", p.from, "epoch", p.epoch)
		for _, step := range []migration.StepID{abortStandby, abortBlank} {
			h.Step(h.ctx, StepRequest{Container: p.key.container, Name: p.key.name, From: p.from, Step: step, Epoch: p.epoch, Memory: h.o.book.id})
		}
	}
}

// Moves tells whether this host has a move at work.
func (h *Host) Moves(k key, epoch uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.movers[k], func(m *mover) bool { return m.epoch == epoch })
}

// forget ends a standby, and waits until it has.
func (h *Host) forget(k key) {
	h.natives.forget(k)
	h.mu.Lock()
	p := h.incoming[k]
	h.mu.Unlock()
	if p != nil {
		p.stop()
		<-p.waited
	}
}

// comesFrom returns the node that a standby waits for, or "", and the epoch of the move.
func (h *Host) comesFrom(k key) (from string, epoch uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.incoming[k]; p != nil {
		return p.from, p.epoch
	}
	return "", 0
}

// Pages puts pages into a standby. The first of a base begins anew.
func (h *Host) Pages(k key, epoch uint64, id baseID, pages []process.Page) error {
	h.mu.Lock()
	p := h.incoming[k]
	h.mu.Unlock()
	if p == nil || p.epoch != epoch {
		return fmt.Errorf("pages for %s, epoch %d: %w", k, epoch, node.ErrNoStandby)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.base.id != (baseID{}) && p.base.id != id {
		return fmt.Errorf("pages for %s, epoch %d: it has those of another attempt", k, epoch)
	}
	p.base.id = id
	return p.machine.Apply(pages, nil)
}
