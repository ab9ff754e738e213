package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// fromProgram takes in a frame of a program. An error ends the session.
func (n *Node) fromProgram(s *session, e wire.Encoded) error {
	f := e.Frame()
	switch f.Kind {
	case wire.KindBind:
		m, err := wire.ParseBind(f.Body)
		if err != nil {
			return err
		}
		return n.bind(s, m)
	case wire.KindUnbind:
		m, err := wire.ParseUnbind(f.Body)
		if err == nil {
			n.unbind(s, m)
		}
		return err
	case wire.KindWatch:
		m, err := wire.ParseWatch(f.Body)
		if err == nil {
			n.mu.Lock()
			err = n.watchLocked(s, m.Name)
			n.mu.Unlock()
		}
		return err
	case wire.KindCaller:
		m, err := wire.ParseCaller(f.Body)
		if err == nil {
			n.mu.Lock()
			err = n.callerLocked(s, m)
			n.mu.Unlock()
		}
		return err
	case wire.KindGone:
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.leftLocked(s, e)
	case wire.KindRevoke:
		m, err := wire.ParseRevoke(f.Body)
		if err == nil {
			n.revoke(s, m.Channel)
		}
		return err
	case wire.KindDone:
		m, err := wire.ParseDone(f.Body)
		if err == nil {
			n.mu.Lock()
			if !n.reportLocked(s, m) {
				n.doneLocked(m)
			}
			n.mu.Unlock()
		}
		return err
	case wire.KindChunk:
		m, err := wire.ParseChunk(f.Body)
		if err != nil {
			return err
		}
		return n.chunk(s, m, e)
	case wire.KindPiece, wire.KindCredit:
		n.mu.Lock()
		defer n.mu.Unlock()
		if f.Kind == wire.KindPiece {
			return n.pieceLocked(s, e)
		}
		return n.creditLocked(s, e)
	case wire.KindRequest, wire.KindReply, wire.KindProbe, wire.KindCancel:
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.messageLocked(s, e)
	default:
		return fmt.Errorf("%w: unexpected %s", wire.ErrFrame, f.Kind)
	}
}

func (n *Node) bind(s *session, m wire.Bind) error {
	if m.Name == "" {
		return s.conn.Send(wire.Answer{Call: m.Call, Code: endpoint.BadName}.Append(nil))
	}
	var claimed uint64
	if n.o.Claim != nil && !m.Standby && !m.Again {
		var err error
		if claimed, err = n.o.Claim(n.ctx, s.container, m.Name); err != nil {
			return s.conn.Send(wire.Answer{Call: m.Call, Code: endpoint.NameUsed, Text: err.Error()}.Append(nil))
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.recordLocked(s.container, m.Name)
	a := wire.Answer{Call: m.Call}
	live := r.state == endpoint.Open || r.state == endpoint.Moving
	switch {
	case n.maskLocked(s, m.Name)&MayBind == 0:
		a.Code = endpoint.Denied
	case m.Replicated:
		a.Code = n.bindReplicatedLocked(r, s, m)
		a.Version = r.version
	case r.replicated && r.shown() == endpoint.Moving:
		a.Code = endpoint.NameUsed
	case m.Again:
		a.Code = r.bindAgain(s, m)
		a.Version = r.version
	case m.Standby && r.standby == nil:
		r.standby = s
	case m.Standby, live && !r.cut:
		a.Code = endpoint.NameUsed
	default:
		r.owner, r.node, r.cut, r.state, r.movable, r.replicated = s, "", false, endpoint.Open, m.Movable, false
		r.version = endpoint.Version{Epoch: max(r.version.Epoch+1, claimed)}
		r.line, a.Version = r.version.Epoch, r.version
		r.fence.Raise(r.line)
		r.left = false
	}
	if a.Code == endpoint.OK {
		s.served[r.id] = true
		n.partLocked(s)
	}
	err := s.conn.Send(a.Append(nil))
	if r.owner == s && a.Code == endpoint.OK {
		n.publishLocked(r)
	}
	return err
}

// bindAgain makes a session the owner of what it owned before this node ended, or before it lost its connection: the state and what
// belongs to it are still there.
func (r *record) bindAgain(s *session, m wire.Bind) endpoint.Code {
	switch {
	case r.owner != nil || (r.state == endpoint.Open || r.state == endpoint.Moving) && r.node != "" && !r.cut:
		return endpoint.NameUsed
	case m.Line == 0 || m.Epoch < m.Line || m.Epoch > maxEpoch || m.Epoch < r.version.Epoch || r.left:
		return endpoint.Stale
	}
	if m.Epoch == r.version.Epoch {
		m.Serial = max(m.Serial, r.version.Serial)
	}
	r.owner, r.node, r.cut, r.state, r.movable, r.replicated = s, "", false, endpoint.Open, m.Movable, false
	if m.Held {
		r.state = endpoint.Moving
	}
	r.version, r.line = endpoint.Version{Epoch: m.Epoch, Serial: m.Serial + 1}, m.Line
	r.fence.Raise(m.Epoch)
	return endpoint.OK
}

// maxEpoch bounds what a program may say, so that there is always a higher one.
const maxEpoch = 1 << 62

// bindReplicatedLocked makes a session the owner with the epoch of its group, instead of whoever is it.
func (n *Node) bindReplicatedLocked(r *record, s *session, m wire.Bind) endpoint.Code {
	other := !r.replicated && (r.state == endpoint.Open || r.state == endpoint.Moving) && !r.cut
	switch {
	case other || m.Standby || r.standby != nil:
		return endpoint.NameUsed
	case m.Line == 0 || m.Epoch < m.Line || m.Epoch <= r.version.Epoch || m.Epoch <= r.fence.Epoch && !r.replicated:
		return endpoint.Stale
	}
	if r.owner != nil && r.owner != s {
		n.orderLocked(r.owner, wire.Order{Endpoint: r.id, Order: wire.OrderLeave, Epoch: m.Epoch})
		n.movedLocked(r)
	}
	r.owner, r.node, r.cut, r.left, r.state, r.movable, r.replicated = s, "", false, false, endpoint.Open, false, true
	r.version, r.line = endpoint.Version{Epoch: m.Epoch}, m.Line
	r.fence.Raise(m.Epoch)
	return endpoint.OK
}

func (n *Node) unbind(s *session, m wire.Unbind) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.records[key{s.container, m.Endpoint}]; r != nil {
		if r.standby == s {
			r.standby = nil
		}
		if r.owner == s { // of a replicated one as well: it is the end of the group
			r.replicated = false
			n.endLocked(r, endpoint.Nowhere)
		}
	}
	if m.Call != 0 {
		_ = s.conn.Send(wire.Answer{Call: m.Call}.Append(nil))
	}
}

// maxNames bounds what one program can make the node remember: names that it watches, callers that it has.
const maxNames = 1 << 16

func (n *Node) watchLocked(s *session, name string) error {
	if len(s.watched) >= maxNames {
		return fmt.Errorf("a program may talk to %d names", maxNames)
	}
	r := n.recordLocked(s.container, name)
	r.watchers[s] = struct{}{}
	s.watched[r] = struct{}{}
	n.tellLocked(r, s)
	return nil
}

// callerLocked notes that a session makes the requests of an endpoint, or (endpoint 0) those of another caller without a name.
func (n *Node) callerLocked(s *session, m wire.Caller) error {
	if m.Caller == 0 || len(s.callers) >= maxNames {
		return fmt.Errorf("a program may have %d callers, each with a number", maxNames)
	}
	if p, ok := n.callers[m.Caller]; ok && p.session != nil && p.session != s {
		r := n.records[key{s.container, m.Endpoint}]
		takesOver := r != nil && (r.standby == s || r.owner == s)
		if !takesOver || p.container != s.container || p.session.callers[m.Caller] != m.Endpoint {
			return nil // it is somebody else's
		}
		delete(p.session.callers, m.Caller)
	}
	s.callers[m.Caller] = m.Endpoint
	n.callers[m.Caller] = place{container: s.container, session: s}
	return nil
}

// leftLocked forgets a caller that a program has given up.
func (n *Node) leftLocked(s *session, e wire.Encoded) error {
	m, err := wire.ParseGone(e.Body())
	if err != nil {
		return err
	}
	if id, own := s.callers[m.Caller]; own && id == 0 && m.Caller != s.caller {
		delete(s.callers, m.Caller)
		n.goneLocked(s.container, m.Caller)
	}
	return nil
}

// messageLocked passes on a message of a program.
func (n *Node) messageLocked(s *session, f wire.Encoded) error {
	switch f.Kind() {
	case wire.KindReply:
		m, err := wire.ParseReply(f.Body())
		if err != nil {
			return err
		}
		p, ok := n.callers[m.Caller]
		if !ok || !s.served[m.To] || p.container != s.container {
			return nil // the caller has gone
		}
		p.send(n, s.container, f)
		return nil
	case wire.KindRequest:
		m, err := wire.ParseRequest(f.Body())
		if err != nil {
			return err
		}
		id, own := s.callers[m.Caller]
		own = own && (m.From == "" && id == 0 || m.From != "" && endpoint.Resolve(s.container, m.From) == id)
		r := n.records[key{s.container, m.To}]
		switch {
		case r == nil || !own && !(m.Kind == endpoint.Notify && s.served[m.To]):
			return nil
		case own && !n.maskLocked(s, r.name).allows(m.Kind):
			s.denyLocked(m)
		case m.Kind == endpoint.Notify && (r.shown() != endpoint.Open || !own && r.owner == s):
			r.pendLocked(m)
		case r.shown() == endpoint.Open:
			n.routeLocked(r, m.Caller, f)
			if r.owner == nil {
				n.talkLocked(s, r, m)
			}
		}
		return nil // a caller is told of the next route, and sends its request again
	default:
		m, err := wire.ParseInquiry(f.Body())
		if err != nil {
			return err
		}
		if _, own := s.callers[m.Caller]; own {
			if r := n.records[key{s.container, m.To}]; r != nil {
				n.routeLocked(r, m.Caller, f)
			}
		}
		return nil
	}
}

// send passes a frame on to a session or a link.
func (p place) send(n *Node, container string, frame wire.Encoded) {
	if p.session != nil {
		n.stats.Relayed++
		p.session.sendLocked(frame)
	} else if p.link != nil {
		p.link.sendLocked(container, frame)
	}
}

// forwardedLocked takes in a message from another node.
func (n *Node) forwardedLocked(l *link, m wire.Forward) error {
	here := func(caller uint64, to endpoint.ID) *record {
		if p, ok := n.callers[caller]; !ok || p.session == nil {
			n.callers[caller] = place{container: m.Container, link: l}
		}
		return n.records[key{m.Container, to}]
	}
	switch m.Frame.Kind() {
	case wire.KindReply:
		q, err := wire.ParseReply(m.Frame.Body())
		if p, ok := n.callers[q.Caller]; err == nil && ok && p.container == m.Container && p.session != nil {
			p.session.sendLocked(m.Frame)
		}
		return err
	case wire.KindRequest:
		q, err := wire.ParseRequest(m.Frame.Body())
		if err != nil {
			return err
		}
		r := here(q.Caller, q.To)
		switch {
		case r != nil && q.Kind == endpoint.Notify && r.shown() != endpoint.Open:
			r.pendLocked(q)
		case r != nil && r.owner != nil:
			r.owner.sendLocked(m.Frame)
		case q.Kind == endpoint.Notify && r != nil:
			n.routeLocked(r, q.Caller, m.Frame)
		case q.Kind != endpoint.Notify:
			refusal := endpoint.Reply{To: q.To, Caller: q.Caller, Seq: q.Seq, Code: endpoint.Held}
			if r != nil {
				refusal.Version = r.version
			}
			l.sendLocked(m.Container, wire.AppendReply(nil, refusal))
		}
		return nil
	case wire.KindProbe, wire.KindCancel:
		q, err := wire.ParseInquiry(m.Frame.Body())
		if err != nil {
			return err
		}
		if r := here(q.Caller, q.To); r != nil && r.owner != nil {
			r.owner.sendLocked(m.Frame)
		}
		return nil
	case wire.KindGone:
		q, err := wire.ParseGone(m.Frame.Body())
		if p, ok := n.callers[q.Caller]; err == nil && ok && p.link == l {
			delete(n.callers, q.Caller)
		}
		for s := range n.sessions {
			if s.container == m.Container && len(s.served) > 0 {
				_ = s.conn.Send(m.Frame)
			}
		}
		return err
	default:
		return fmt.Errorf("%w: unexpected %s", wire.ErrFrame, m.Frame.Kind())
	}
}

// errGone is the cause when a session or a link ends while an order is under way.
var errGone = errors.New("it has gone")

// awaited is an answer that is waited for, and the program here that has to give it, if it is one.
type awaited struct {
	ch   chan wire.Done
	from *session
}

// order sends an order and waits for its answer. from is the program that has to answer, or nil if it is at another node.
func (n *Node) order(ctx context.Context, from *session, send func(frame []byte) bool, o wire.Order) error {
	k := wire.Order{Endpoint: o.Endpoint, Epoch: o.Epoch, Order: o.Order}
	ch := make(chan wire.Done, 1)
	n.mu.Lock()
	n.orders[k] = awaited{ch, from}
	ok := send(o.Append(nil))
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.orders[k].ch == ch {
			delete(n.orders, k)
		}
	}()
	if !ok {
		return errGone
	}
	select {
	case d := <-ch:
		if d.Code != endpoint.OK {
			return &Refusal{Code: d.Code, Text: d.Text}
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.ctx.Done():
		return errGone
	}
}

func (n *Node) doneLocked(d wire.Done) {
	k := wire.Order{Endpoint: d.Endpoint, Epoch: d.Epoch, Order: d.Order.Order}
	if a, ok := n.orders[k]; ok {
		delete(n.orders, k)
		a.ch <- d
	}
}
