package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// converge has the owner give its state in pieces, round after round, while it runs, until the rest is small enough for the outage, or
// does not get smaller.
func (n *Node) converge(ctx context.Context, r *record, c Command) error {
	if err := n.headFor(r, c); err != nil {
		return err
	}
	rounds := endpoint.Rounds{Outage: c.Outage}
	order := wire.OrderBegin
	for {
		n.mu.Lock()
		r.work.pieces = 0
		n.mu.Unlock()
		began := time.Now()
		if err := n.orderTo(ctx, r, c, order, func() *session { return r.owner }, ErrNotHere); err != nil {
			return err
		}
		n.mu.Lock()
		more := rounds.Another(r.work.pieces, time.Since(began))
		r.work.rounds = rounds
		n.mu.Unlock()
		if !more {
			n.o.Log.Debug("DVS state converged", "container", r.container, "endpoint", r.name, "rounds", rounds.Count, "bytes", rounds.Bytes, "last", rounds.Last)
			return nil
		}
		order = wire.OrderRound
	}
}

// headFor notes where the state goes.
func (n *Node) headFor(r *record, c Command) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case r.owner == nil:
		return ErrNotHere
	case c.Peer != n.o.Name && n.links[c.Peer] == nil:
		return fmt.Errorf("no link to node %q", c.Peer)
	}
	r.work.dest, r.work.report = c.Peer, nil
	return nil
}

// pieceLocked passes on a piece of a state from its owner.
func (n *Node) pieceLocked(s *session, f wire.Encoded) error {
	m, err := wire.ParsePiece(f.Body())
	if err != nil {
		return err
	}
	r := n.records[key{s.container, m.Endpoint}]
	if r == nil || r.owner != s || r.work.epoch != m.Epoch {
		return nil
	}
	r.work.pieces += uint64(len(m.Data))
	if r.work.dest == n.o.Name {
		r.work.from = nil
	}
	if !n.toPeerLocked(r, f) {
		_ = s.conn.Send(refused(m, endpoint.NoStandby, "nobody is there"))
	}
	return nil
}

func refused(m wire.Piece, code endpoint.Code, text string) []byte {
	return wire.Credit{Endpoint: m.Endpoint, Epoch: m.Epoch, Number: m.Number, Code: code, Text: text}.Append(nil)
}

// creditLocked passes on what a standby has applied.
func (n *Node) creditLocked(s *session, f wire.Encoded) error {
	m, err := wire.ParseCredit(f.Body())
	if r := n.records[key{s.container, m.Endpoint}]; err == nil && r != nil && r.standby == s {
		n.toSourceLocked(r, f)
	}
	return err
}

// toSourceLocked sends a credit to where the pieces come from.
func (n *Node) toSourceLocked(r *record, frame []byte) {
	if l := r.work.from; l != nil {
		l.stateLocked(r.container, frame)
	} else if r.owner != nil {
		_ = r.owner.conn.Send(frame)
	}
}

// arrivedLocked takes in a piece from another node, for the standby, or a credit, for the owner.
func (n *Node) arrivedLocked(l *link, m wire.Forward) error {
	if m.Frame.Kind() == wire.KindCredit {
		q, err := wire.ParseCredit(m.Frame.Body())
		if r := n.records[key{m.Container, q.Endpoint}]; err == nil && r != nil && r.owner != nil {
			_ = r.owner.conn.Send(m.Frame)
		}
		return err
	}
	q, err := wire.ParsePiece(m.Frame.Body())
	if err != nil {
		return err
	}
	r := n.records[key{m.Container, q.Endpoint}]
	switch {
	case r == nil || r.standby == nil:
		l.stateLocked(m.Container, refused(q, endpoint.NoStandby, "nobody is there"))
	case q.Epoch < r.fence.Epoch || q.Epoch == r.fence.Epoch && r.fence.Aborted:
		l.stateLocked(m.Container, refused(q, endpoint.Stale, "the epoch is over"))
	default:
		r.work.from = l
		_ = r.standby.conn.Send(m.Frame)
	}
	return nil
}

// standbyGoneLocked tells a source that what it gives has no destination any more.
func (n *Node) standbyGoneLocked(r *record) {
	c := wire.Credit{Endpoint: r.id, Epoch: r.fence.Epoch, Code: endpoint.NoStandby, Text: "the standby has ended"}
	n.toSourceLocked(r, c.Append(nil))
	r.work.from = nil
}

// peerGoneLocked ends what is being sent to a node that is away.
func (n *Node) peerGoneLocked(l *link) {
	for _, r := range n.records {
		if r.owner == nil || r.work.dest != l.name {
			continue
		}
		c := wire.Credit{Endpoint: r.id, Epoch: r.work.epoch, Code: endpoint.NodeGone, Text: "its node is away"}
		_ = r.owner.conn.Send(c.Append(nil))
		n.doneLocked(wire.Done{
			Order: wire.Order{Endpoint: r.id, Epoch: r.work.epoch, Order: wire.OrderStage}, Code: endpoint.NodeGone, Text: "the peer's node is away",
		})
	}
}

// errNoPeer is the cause when the node that a state was to go to is away.
var errNoPeer = errors.New("the node at the other end cannot be reached: look at the link between them")
