package node

import (
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

type key struct {
	container string
	id        endpoint.ID
}

// record is what a node knows of an endpoint, guarded by the node's lock.
type record struct {
	container, name string
	id              endpoint.ID
	version         endpoint.Version
	line            uint64
	state           endpoint.RouteState
	node            string   // where it is, if elsewhere
	owner           *session // if it is here
	standby         *session // waits here to take over
	movable         bool
	replicated      bool             // another goes on when the owner ends
	cut             bool             // its node is away
	left            bool             // it has left this node, and the new owner has not been heard of
	gave            endpoint.Version // what this node told last of it, before another node took it over
	watchers        map[*session]struct{}
	notes           []endpoint.Request // pending until it is somewhere, one for each caller
	fence           endpoint.Fence
	work            work
}

// recordLocked returns the record of a name, and makes one if there is none.
func (n *Node) recordLocked(container, name string) *record {
	k := key{container, endpoint.Resolve(container, name)}
	r := n.records[k]
	if r == nil {
		r = &record{container: container, name: name, id: k.id, watchers: map[*session]struct{}{}, work: newWork()}
		n.records[k] = r
	}
	return r
}

// shown is the state that callers are told.
func (r *record) shown() endpoint.RouteState {
	switch lost := r.cut || r.state == endpoint.Dead; {
	case r.replicated && lost:
		return endpoint.Moving
	case r.cut && (r.state == endpoint.Open || r.state == endpoint.Moving):
		return endpoint.Cut
	default:
		return r.state
	}
}

// tellLocked sends a watcher the route.
func (n *Node) tellLocked(r *record, s *session) {
	m := wire.Route{Endpoint: r.id, Version: r.version, Line: r.line, State: r.shown()}
	if m.State == endpoint.Open {
		m.Channel = n.introduceLocked(s, r.owner)
		if t := s.talks[r]; t != nil {
			m.Channel = max(m.Channel, t.useLocked(r)) // one of them is 0
		}
	}
	_ = s.conn.Send(m.Append(nil))
}

// changedLocked tells everybody here of a change, and sends what has waited for it.
func (n *Node) changedLocked(r *record) {
	for s := range r.watchers {
		n.tellLocked(r, s)
	}
	if r.shown() == endpoint.Open {
		notes := r.notes
		r.notes = nil
		for _, m := range notes {
			n.routeLocked(r, m.Caller, wire.AppendRequest(nil, m))
		}
	}
}

// publishLocked tells everybody everywhere of a change of an endpoint that is here.
func (n *Node) publishLocked(r *record) {
	n.changedLocked(r)
	for _, l := range n.links {
		l.announceLocked(announcement(r))
	}
}

// endLocked ends an endpoint that is here, because it was unbound or its process died.
func (n *Node) endLocked(r *record, state endpoint.RouteState) {
	r.owner, r.state = nil, state
	r.version.Serial++
	n.publishLocked(r)
}

// overLocked tells everybody that the part of this node in an endpoint is over: its owner now is at a node that is away, and they may not have
// heard of it. Who has knows something newer.
func (n *Node) overLocked(r *record) {
	if r.gave == (endpoint.Version{}) {
		return
	}
	a := announcement(r)
	a.State, a.Version = endpoint.Dead, endpoint.Version{Epoch: r.gave.Epoch, Serial: r.gave.Serial + 1}
	for _, l := range n.links {
		l.announceLocked(a)
	}
}

// learnLocked takes in what another node says of an endpoint.
func (n *Node) learnLocked(l *link, a wire.Announce) {
	r := n.recordLocked(a.Container, a.Name)
	switch c := a.Version.Compare(r.version); {
	case r.owner != nil && !r.replicated && (a.State == endpoint.Dead || a.State == endpoint.Nowhere) && c >= 0:
		// An earlier owner's end is newer than what we could know when the name was bound here.
		r.version = endpoint.Version{Epoch: a.Version.Epoch + 1}
		r.line = r.version.Epoch
		r.fence.Raise(r.line)
		n.orderLocked(r.owner, wire.Order{Endpoint: r.id, Order: wire.OrderVersion, Version: r.version})
		n.publishLocked(r)
	case r.owner != nil && (c > 0 || c == 0 && l.name < n.o.Name):
		if c > 0 || a.State == endpoint.Open || r.replicated { // another owns it by a newer epoch, or by the order of names
			n.orderLocked(r.owner, wire.Order{Endpoint: r.id, Order: wire.OrderLeave, Epoch: a.Version.Epoch})
			n.setLocked(l, r, a)
		}
	case r.owner != nil:
		l.announceLocked(announcement(r))
	case c > 0 || c == 0 && r.node == l.name && r.cut:
		n.setLocked(l, r, a)
	case c <= 0 && (r.node != l.name || c < 0 && r.cut) && a.State == endpoint.Open && r.shown() != endpoint.Open && r.shown() != endpoint.Moving:
		l.endOfLocked(r)
	}
}

// movedLocked ends an owner's part in an endpoint that goes on elsewhere: so does its caller, which must not be thought gone when
// the process ends.
func (n *Node) movedLocked(r *record) {
	if r.owner == nil {
		return
	}
	for c, id := range r.owner.callers {
		if id == r.id {
			delete(r.owner.callers, c)
			delete(n.callers, c)
		}
	}
	r.owner = nil
}

func (n *Node) setLocked(l *link, r *record, a wire.Announce) {
	if r.owner != nil || r.left {
		r.gave = r.version
	}
	n.movedLocked(r)
	r.version, r.line, r.state, r.cut = a.Version, a.Line, a.State, false
	r.left, r.replicated = false, a.Replicated
	r.fence.Raise(a.Version.Epoch)
	if r.node = ""; a.State == endpoint.Open || a.State == endpoint.Moving {
		r.node = l.name
	}
	n.changedLocked(r)
}

// orderLocked sends an order that needs no answer.
func (n *Node) orderLocked(s *session, o wire.Order) { _ = s.conn.Send(o.Append(nil)) }

// routeLocked passes a message on to where the endpoint is. It is false if it is nowhere now.
func (n *Node) routeLocked(r *record, caller uint64, frame wire.Encoded) bool {
	switch {
	case r.owner != nil:
		n.stats.Relayed++
		r.owner.sendLocked(frame)
		return true
	case r.node != "" && n.links[r.node] != nil && !r.cut:
		n.links[r.node].sendLocked(r.container, frame)
		return true
	default:
		return false
	}
}

// pendLocked keeps a notification until its endpoint is somewhere.
func (r *record) pendLocked(m endpoint.Request) {
	for i := range r.notes {
		if r.notes[i].Caller == m.Caller {
			r.notes[i].Seq = max(r.notes[i].Seq, m.Seq)
			return
		}
	}
	const most = 4096
	if len(r.notes) < most {
		m.Payload = nil
		r.notes = append(r.notes, m)
	}
}
