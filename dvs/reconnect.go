package dvs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// Pauses between two tries to connect again.
const (
	againPause  = 5 * time.Millisecond
	againLonger = 250 * time.Millisecond
)

// reconnect finds the node again after cause, or says why not. It belongs to the goroutine that reads.
func (s *Session) reconnect(cause error) error {
	if s.o.Reconnect <= 0 || s.reason() != nil {
		return cause
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.o.Reconnect)
	defer cancel()
	conn := s.leave()
	conn.Close()
	for pause := againPause; ; pause = min(2*pause, againLonger) {
		n, err := s.open(ctx)
		if err == nil {
			return s.comeBack(n)
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("for %v it was tried again", s.o.Reconnect), err, cause)
		case <-time.After(pause):
		}
	}
}

// goneLocked tells why the node can be asked nothing now.
func (s *Session) goneLocked() error {
	if s.err == nil && s.away {
		return ErrNotConnected
	}
	return s.err
}

// leave gives up everything that the node had given, and returns the connection. What was asked stays so, until the node says where.
func (s *Session) leave() interface{ Close() } {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = true
	for i := range s.channels {
		s.onRevokeLocked(i)
	}
	s.endStreamsLocked()
	clear(s.paths)
	if s.bell != nil {
		_ = s.bell.Close()
		s.old = append(s.old, s.page)
	}
	close(s.post.changed)
	s.post = &post{changed: make(chan struct{})}
	for call, ch := range s.calls {
		close(ch)
		delete(s.calls, call)
	}
	for call, e := range s.binding {
		delete(s.binding, call)
		e.early = nil
	}
	for _, r := range s.routes {
		r.known, r.channel, r.Route = false, 0, endpoint.Route{}
		for c := range r.waiting {
			c.askedAt = endpoint.Version{}
			if !c.patient {
				c.endLocked(endpoint.Reply{}, c.uncertain())
			}
		}
	}
	for _, e := range s.endpoints {
		switch {
		case e.opts.Replicated: // its group decides what comes next
			e.failLocked(ErrNotConnected)
			e.endLocked(endpoint.Reply{}, e.uncertain())
		case e.box.Status() == endpoint.Standby:
			e.discardLocked()
		default:
			e.endRoundsLocked()
		}
	}
	return s.conn
}

// uncertain is the error of a call that ends because there is no node.
func (c *caller) uncertain() error {
	if c.asked {
		return errors.Join(ErrOutcomeUnknown, ErrNotConnected)
	}
	return ErrNotConnected
}

// comeBack tells the node what the session is, and asks what it has asked.
func (s *Session) comeBack(n *opened) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil { // closed meanwhile
		n.conn.Close()
		n.post.page.Unmap()
		if n.desk != nil {
			n.desk.Close()
		}
		return s.err
	}
	before := s.post
	s.arriveLocked(n.node)
	s.adoptLocked(n)
	s.away = false
	for id, c := range s.callers {
		m := wire.Caller{Caller: id}
		if c.own != nil {
			m.Endpoint = c.own.id
		}
		b := m.Append(nil)
		_ = s.conn.Send(b)
		s.sendLocked(b, 0) // also the way of its requests, which does not wait for the other
	}
	for _, e := range s.endpoints {
		e.bindAgainLocked()
	}
	for name := range s.names {
		s.watchLocked(name)
	}
	close(before.changed)
	s.restLocked()
	s.lost = time.AfterFunc(s.o.Reconnect, s.giveUpLost)
	return nil
}

// bindAgainLocked gives the node an endpoint as it is: the same line, the same table.
func (e *Endpoint) bindAgainLocked() {
	status := e.box.Status()
	if !e.bound || e.err != nil || status == endpoint.Left {
		return
	}
	s := e.s
	s.nextCall++
	s.binding[s.nextCall] = e
	m := wire.Bind{Call: s.nextCall, Name: e.name, Movable: e.opts.movable()}
	if m.Standby = status == endpoint.Standby; !m.Standby {
		m.Again, m.Held, m.Line = true, status == endpoint.Holding, e.box.Line()
		m.Epoch, m.Serial = e.box.Version().Epoch, e.box.Version().Serial
	}
	_ = s.conn.Send(m.Append(nil))
}

// answeredLocked takes in the node's answer to a bind.
func (e *Endpoint) answeredLocked(m wire.Answer) {
	switch again := e.bound; {
	case m.Code != endpoint.OK && again: // somebody else has it now
		e.failLocked(errors.Join(ErrUnbound, coded(m.Code, m.Text)))
		e.endLocked(endpoint.Reply{}, e.err)
	case m.Code != endpoint.OK:
	case e.box.Status() == endpoint.Standby:
		e.bound = true
	case again && e.box.Status() == endpoint.Holding:
		e.box.Hold(m.Version)
	case again:
		e.box.Resume(m.Version)
	default:
		e.bound = true
		e.renewLocked(m.Version)
	}
}

// giveUpLost ends the calls that were made before the node went and whose endpoint has not come back since.
func (s *Session) giveUpLost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.routes {
		if !r.known || r.Version != (endpoint.Version{}) {
			continue
		}
		for c := range r.waiting {
			if c.asked && c.askedAt == (endpoint.Version{}) {
				c.endLocked(endpoint.Reply{Code: endpoint.Died}, nil)
			}
		}
	}
}
