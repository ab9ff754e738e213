package dvshost

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/server/process"
)

// standbyTime bounds how long it takes until everything is ready for a move.
const standbyTime = 5 * time.Second

// standbyPause is how long the node is given to learn of a standby, before it is asked again.
const standbyPause = time.Millisecond

// Prepare makes a blank process that waits to take over an endpoint, in place of one that waits already. ErrModule says that the module has to be sent
// first.
func (h *Host) Prepare(ctx context.Context, r PrepareRequest) error {
	k := key{r.Container, r.Name}
	var id process.ID
	if b, err := hex.DecodeString(r.Module); err != nil || copy(id[:], b) != len(id) {
		return fmt.Errorf("prepare %s: %q is no module's name", k, r.Module)
	}
	m := h.o.Engine.Loaded(id)
	if m == nil {
		return fmt.Errorf("prepare %s: %w", k, ErrModule)
	}
	limits := process.Limits{Memory: r.Memory, Time: r.Time, Message: r.Message}
	machine, err := m.Start(ctx, process.Options{Limits: limits, Blank: true})
	if err != nil {
		return fmt.Errorf("prepare %s: %w", k, err)
	}
	h.forget(k)
	p, err := h.newHosted(ctx, k, machine, limits)
	if err != nil {
		machine.Close()
		return fmt.Errorf("prepare %s: %w", k, err)
	}
	if !h.await(p) {
		p.end()
		return fmt.Errorf("prepare %s: another is being prepared", k)
	}
	check := node.Command{
		Container: k.container, Endpoint: k.name, Participant: "process", Role: "destination", Verb: endpoint.VerbPrepare, Epoch: r.Epoch, Peer: r.From,
	}
	ctx, cancel := context.WithTimeout(ctx, standbyTime)
	defer cancel()
	for {
		if !h.linked(k, r.From) {
			err = fmt.Errorf("prepare %s: node %s has not told this one of it: is there a link between the two?", k, r.From)
		} else if err = h.o.Node.Do(ctx, check); !errors.Is(err, node.ErrNoStandby) && !errors.Is(err, node.ErrNotHere) {
			return err
		} // else the node has not heard of the standby yet, or an earlier process of that name ends just now
		select {
		case <-ctx.Done():
			return err
		case <-time.After(standbyPause):
		}
	}
}

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
			p.endpoint = e
			err = h.own(p)
		}
		if err != nil {
			h.o.Log.Debug("DVS standby ended", "endpoint", p.key, "err", err)
			p.end()
		}
	})
	return true
}

// do carries out a step. After a commit it waits until the process is this host's.
func (h *Host) do(ctx context.Context, c node.Command) error {
	h.mu.Lock()
	p := h.incoming[key{c.Container, c.Endpoint}]
	h.mu.Unlock()
	err := h.o.Node.Do(ctx, c)
	if err == nil && p != nil && c.Role == "destination" && c.Verb == endpoint.VerbCommit {
		<-p.waited
	}
	return err
}

// forget ends a standby, and waits until it has.
func (h *Host) forget(k key) {
	h.mu.Lock()
	p := h.incoming[k]
	h.mu.Unlock()
	if p != nil {
		p.stop()
		<-p.waited
	}
}

// Pages puts pages into a standby. The first of a base begins anew.
func (h *Host) Pages(k key, epoch uint64, id baseID, pages []process.Page) error {
	h.mu.Lock()
	p := h.incoming[k]
	h.mu.Unlock()
	if p == nil {
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

// Drop ends a standby of an attempt that is over.
func (h *Host) Drop(ctx context.Context, r DropRequest) error {
	k := key{r.Container, r.Name}
	err := h.o.Node.Do(ctx, node.Command{
		Container: k.container, Endpoint: k.name, Participant: "process", Role: "destination", Verb: endpoint.VerbAbort, Epoch: r.Epoch, Peer: r.From,
	})
	if err == nil {
		h.forget(k)
	}
	return err
}
