package dvshost

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

// arrival has the endpoint of a program that comes as a whole, from the moment that it is prepared until the program itself has it. Nothing is
// taken out of the mailbox meanwhile.
type arrival struct {
	p       *program
	peer    *Peer
	epoch   uint64
	session *dvs.Session
	ctx     context.Context // ends with it
	cancel  context.CancelFunc
	bound   chan struct{} // closed when the endpoint is here, or will never be
	// set before bound is closed
	endpoint *dvs.Endpoint
	err      error
}

// newArrival binds a standby.
func (h *Host) newArrival(ctx context.Context, p *program, peer *Peer, epoch uint64) (*arrival, error) {
	session, err := dvs.Connect(ctx, h.o.Socket, dvs.Options{Container: p.spec.Container, Program: "arrival of " + p.spec.Name})
	if err != nil {
		return nil, err
	}
	a := &arrival{p: p, peer: peer, epoch: epoch, session: session, bound: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancel(h.ctx)
	nothing := func() ([]byte, error) { return nil, nil } // the state is the process
	h.start(func() {
		defer close(a.bound)
		a.endpoint, a.err = session.Bind(a.ctx, p.spec.Name, dvs.BindOptions{Snapshot: nothing, Restore: a.fetch, Standby: true})
	})
	return a, nil
}

// fetch is called when the endpoint is held at the source: it brings the program's image, and restores the program, stopped.
func (a *arrival) fetch([]byte) error {
	dir, err := os.MkdirTemp(a.p.h.scratch, "godwit-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := a.peer.image(a.ctx, a.p.spec.key(), a.epoch, dir); err != nil {
		return fmt.Errorf("fetch the process: %w", err)
	}
	return a.p.place.Restore(a.ctx, dir)
}

// handOver lets the program run, and gives it the endpoint when it is back at its node.
func (a *arrival) handOver(ctx context.Context) (err error) {
	select {
	case <-a.bound:
	case <-ctx.Done():
		return ctx.Err()
	}
	if a.err != nil {
		return a.err
	}
	p, h, k := a.p, a.p.h, a.p.spec.key()
	ctx, t := h.claim(ctx, k, h.o.Name)
	if t == nil {
		return errors.New("it is moving already")
	}
	defer func() { h.release(k, t, err) }()
	if err := p.place.Continue(ctx); err != nil {
		return err
	}
	if err := p.waitFor(ctx, func(e node.EndpointInfo) bool { return e.Standby }); err != nil {
		return err
	}
	if err := a.moveOn(ctx, k); err != nil {
		return err
	}
	a.end()
	return nil
}

// moveOn moves the endpoint to the program, within this node.
func (a *arrival) moveOn(ctx context.Context, k key) error {
	h := a.p.h
	epoch, err := h.allocate(k)
	if err != nil {
		return err
	}
	h.start(func() { _, _ = a.endpoint.Receive(a.ctx, a.endpoint.Name()) }) // waits, as who can be frozen does; it sends nothing to itself
	r := StepRequest{Epoch: epoch, From: h.o.Name}
	for _, step := range []struct{ participant, role, verb string }{
		{"process", "destination", "prepare"}, {"endpoint", "source", "prepare"}, {"endpoint", "source", "quiesce"}, {"endpoint", "destination", "commit"},
	} {
		c := node.Command{
			Container: k.container, Endpoint: k.name, Participant: step.participant, Role: step.role, Verb: step.verb, Epoch: r.Epoch, Peer: r.From,
		}
		if err := h.o.Node.Do(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (a *arrival) end() {
	a.cancel()
	a.session.Close()
}
