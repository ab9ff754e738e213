package storage

import (
	"context"
	"sync"
)

// gate admits the requests of clients. While it is shut, requests wait in enter: they are parked, never failed, so that an
// abort that opens the gate again harms no guest.
type gate struct {
	mu     sync.Mutex
	inside int
	closed bool
	opened chan struct{} // not nil while shut; closed by open
	empty  chan struct{} // not nil while someone waits for the last one inside to leave
}

// enter waits for the gate to be open and counts the request as inside; each success needs one leave. It fails once the gate is
// closed.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		opened := g.opened
		if g.closed {
			g.mu.Unlock()
			return ErrClosed
		}
		if opened == nil {
			g.inside++
			g.mu.Unlock()
			return nil
		}
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryEnter is enter if that needs no waiting.
func (g *gate) tryEnter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.opened != nil {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// shut parks what comes from now on. Shutting a shut gate changes nothing.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
}

// open lets the parked requests go on.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

// close lets nobody in any more, and those go who are parked.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.open()
}

// drained waits until nothing is inside; only of use while the gate is shut or closed.
func (g *gate) drained(ctx context.Context) error {
	g.mu.Lock()
	if g.inside == 0 {
		g.mu.Unlock()
		return nil
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	empty := g.empty
	g.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
