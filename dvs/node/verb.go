package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// Errors of verbs.
var (
	ErrNoStandby = errors.New("no program waits there to take the endpoint over: start it, bound as a standby")
	ErrNotHere   = errors.New("the endpoint is not active on this node")
	ErrOver      = errors.New("refused")
)

// Refusal is a program's answer to an order.
type Refusal struct {
	Code endpoint.Code
	Text string
}

// Error returns the text.
func (r *Refusal) Error() string {
	return fmt.Sprintf("the program refuses (code %d): %s", r.Code, r.Text)
}

// Unwrap returns the error that stands for the code.
func (r *Refusal) Unwrap() error {
	switch r.Code {
	case endpoint.NoStandby:
		return ErrNoStandby
	case endpoint.NotBound, endpoint.Died:
		return ErrNotHere
	case endpoint.NodeGone:
		return errNoPeer
	default:
		return nil
	}
}

// Command is one step of a migration: the verbs and roles of package migration, for the participants "process" and "endpoint".
type Command struct {
	Container, Endpoint string
	Participant         string // process, endpoint
	Role                string // source, destination
	Verb                string
	Epoch               uint64
	Peer                string // the node at the other end
	// Outage is how long the process may stand still while the last of its state moves: converge goes on until that is so, or
	// does not get better. 0 is endpoint.DefaultOutage.
	Outage time.Duration
	// Raise has an owner that goes on after an abort do so with the epoch of the abort, so that whoever comes back as the owner of an older one
	// is refused: where the commit that is given up may have been obeyed.
	Raise bool
}

func (c Command) step() string { return c.Participant + "/" + c.Role + "/" + c.Verb }

// work is the command at work for one endpoint: one at a time.
type work struct {
	turn   chan struct{} // holds one token
	cancel context.CancelCauseFunc
	epoch  uint64
	dest   string // where a state is sent
	report *link  // who wants to know that it was restored
	from   *link  // where the pieces for the standby come from; nil is here
	pieces uint64 // bytes of the round
	rounds endpoint.Rounds
}

func newWork() work {
	w := work{turn: make(chan struct{}, 1)}
	w.turn <- struct{}{}
	return w
}

// Do carries out a step. It is idempotent, refuses epochs that are over, and is ended by ctx, by an abort, and by a newer epoch.
// What each step does:
//
//	process/destination/prepare    a standby is there
//	endpoint/source/prepare        the owner is here and can move
//	process/source/converge        the state is sent in rounds of pieces while the process runs, if it gives pieces
//	endpoint/source/quiesce        hold; request in work ends; state sent to the peer and restored there. Callers wait in their own process
//	endpoint/destination/commit    the standby becomes the owner, everybody is told
//	endpoint/source/commit         the old owner is told to end
//	endpoint/source/abort          the owner goes on; everybody is told
//	process/destination/abort      the standby forgets the state
//	                               only a destination that is known to be dead before it became the owner may be given up: then the source still
//	                               holds, and a new epoch begins again with prepare
//	optimize, release              everybody has been told already; nothing is left
func (n *Node) Do(ctx context.Context, c Command) error {
	if err := n.do(ctx, c); err != nil {
		return fmt.Errorf("DVS node %s: %s of %s/%s, epoch %d: %w", n.o.Name, c.step(), c.Container, c.Endpoint, c.Epoch, err)
	}
	return nil
}

func (n *Node) do(ctx context.Context, c Command) error {
	if c.Container == "" || c.Endpoint == "" {
		return errors.New("a container and an endpoint are needed")
	}
	n.mu.Lock()
	r := n.recordLocked(c.Container, c.Endpoint)
	run, err := r.fence.Admit(c.Epoch, c.step(), c.Verb)
	if err == nil && run && r.work.cancel != nil && (c.Verb == endpoint.VerbAbort || c.Epoch > r.work.epoch) {
		r.work.cancel(fmt.Errorf("%w: epoch %d is aborted or over", ErrOver, r.work.epoch))
	}
	n.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOver, err)
	}
	if !run {
		return nil
	}
	select {
	case <-r.work.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { r.work.turn <- struct{}{} }()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n.mu.Lock()
	run, err = r.fence.Admit(c.Epoch, c.step(), c.Verb) // something may have come in between
	r.work.cancel, r.work.epoch = cancel, c.Epoch
	n.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOver, err)
	}
	if run {
		err = n.carryOut(ctx, r, c)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r.work.cancel = nil
	if err != nil {
		return err
	}
	return r.fence.Record(c.Epoch, c.step(), c.Verb)
}

func (n *Node) carryOut(ctx context.Context, r *record, c Command) error {
	switch c.step() {
	case "process/destination/prepare":
		return n.orderTo(ctx, r, c, wire.OrderPrepare, func() *session { return r.standby }, ErrNoStandby)
	case "endpoint/source/prepare":
		return n.orderTo(ctx, r, c, wire.OrderPrepare, func() *session { return r.owner }, ErrNotHere)
	case "process/source/converge":
		return n.converge(ctx, r, c)
	case "endpoint/source/quiesce":
		return n.quiesce(ctx, r, c)
	case "endpoint/destination/commit":
		return n.commit(ctx, r, c)
	case "endpoint/source/commit":
		return n.leave(ctx, r, c)
	case "endpoint/source/abort":
		return n.resume(ctx, r, c)
	case "process/destination/abort":
		err := n.orderTo(ctx, r, c, wire.OrderDiscard, func() *session { return r.standby }, nil)
		if errors.Is(err, ErrNotHere) {
			return nil // the standby has gone, and its state with it
		}
		return err
	default:
		return nil
	}
}

// orderTo sends an order to the session that who names (under the lock), and waits. Without one it returns none.
func (n *Node) orderTo(ctx context.Context, r *record, c Command, o wire.Orders, who func() *session, none error) error {
	n.mu.Lock()
	s, version := who(), r.version
	n.mu.Unlock()
	if s == nil {
		return none
	}
	send := func(frame []byte) bool { return s.conn.Send(frame) == nil }
	return n.order(ctx, s, send, wire.Order{Endpoint: r.id, Epoch: c.Epoch, Order: o, Version: version})
}

// quiesce holds the endpoint, and has its state restored at the peer.
func (n *Node) quiesce(ctx context.Context, r *record, c Command) error {
	if err := n.headFor(r, c); err != nil {
		return err
	}
	n.mu.Lock()
	if r.state == endpoint.Open {
		r.state = endpoint.Moving
		r.version.Serial++
		n.publishLocked(r)
	}
	n.mu.Unlock()
	if err := n.orderTo(ctx, r, c, wire.OrderHold, func() *session { return r.owner }, ErrNotHere); err != nil {
		return err
	}
	stage := wire.Order{Endpoint: r.id, Epoch: c.Epoch, Order: wire.OrderStage}
	var from *session
	if c.Peer == n.o.Name {
		n.mu.Lock()
		from = r.standby
		n.mu.Unlock()
	}
	return n.order(ctx, from, func(frame []byte) bool { return n.toPeerLocked(r, frame) }, stage)
}

// toPeerLocked sends an order or a piece of a state to where the endpoint is moving.
func (n *Node) toPeerLocked(r *record, frame []byte) bool {
	if r.work.dest == n.o.Name {
		return r.standby != nil && r.standby.conn.Send(frame) == nil
	}
	l := n.links[r.work.dest]
	if l == nil || l.away {
		return false
	}
	l.stateLocked(r.container, frame)
	return true
}

// chunk passes on a piece of a state. The program waits while the link is busy.
func (n *Node) chunk(s *session, m wire.Chunk, e wire.Encoded) error {
	n.mu.Lock()
	r := n.records[key{s.container, m.Endpoint}]
	if r == nil || r.owner != s || r.work.epoch != m.Epoch {
		n.mu.Unlock()
		return nil
	}
	n.toPeerLocked(r, e)
	l, there := n.links[r.work.dest], r.standby
	here := r.work.dest == n.o.Name
	n.mu.Unlock()
	switch {
	case here && there != nil:
		_ = there.conn.Wait(linkRoom)
	case l != nil:
		l.waitRoom()
	}
	return nil
}

// stateLocked takes in a piece of a state from another node, the order to restore it, or the answer to that.
func (n *Node) stateLocked(l *link, m wire.Forward) error {
	switch m.Frame.Kind() {
	case wire.KindChunk:
		q, err := wire.ParseChunk(m.Frame.Body())
		if r := n.records[key{m.Container, q.Endpoint}]; err == nil && r != nil && r.standby != nil && q.Epoch >= r.fence.Epoch {
			_ = r.standby.conn.Send(m.Frame)
		}
		return err
	case wire.KindOrder:
		q, err := wire.ParseOrder(m.Frame.Body())
		if err != nil {
			return err
		}
		r := n.records[key{m.Container, q.Endpoint}]
		refuse := func(code endpoint.Code, text string) {
			l.stateLocked(m.Container, wire.Done{Order: q, Code: code, Text: text}.Append(nil))
		}
		switch {
		case q.Order != wire.OrderStage:
			return fmt.Errorf("%w: order %d from a node", wire.ErrFrame, q.Order)
		case r == nil || r.standby == nil:
			refuse(endpoint.NoStandby, "")
		case q.Epoch < r.fence.Epoch || q.Epoch == r.fence.Epoch && r.fence.Aborted:
			refuse(endpoint.Stale, "the epoch is over")
		default:
			r.work.report = l
			n.orderLocked(r.standby, q)
		}
		return nil
	case wire.KindPiece, wire.KindCredit:
		return n.arrivedLocked(l, m)
	case wire.KindDone:
		q, err := wire.ParseDone(m.Frame.Body())
		if err == nil {
			n.doneLocked(q)
		}
		return err
	default:
		return fmt.Errorf("%w: unexpected %s", wire.ErrFrame, m.Frame.Kind())
	}
}

// reportLocked passes a standby's answer on to the node that asked. It is false if that is this one.
func (n *Node) reportLocked(s *session, d wire.Done) bool {
	r := n.records[key{s.container, d.Endpoint}]
	if r == nil || r.work.report == nil || d.Order.Order != wire.OrderStage {
		return false
	}
	r.work.report.stateLocked(r.container, d.Append(nil))
	r.work.report = nil
	return true
}

// commit makes the standby the owner.
func (n *Node) commit(ctx context.Context, r *record, c Command) error {
	n.mu.Lock()
	s := r.standby
	done := r.owner != nil && r.version.Epoch == c.Epoch
	n.mu.Unlock()
	if done {
		return nil
	}
	if s == nil {
		return ErrNoStandby
	}
	v := endpoint.Version{Epoch: c.Epoch}
	send := func(frame []byte) bool { return s.conn.Send(frame) == nil }
	if err := n.order(ctx, s, send, wire.Order{Endpoint: r.id, Epoch: c.Epoch, Order: wire.OrderActivate, Version: v}); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.standby != s {
		return ErrNoStandby
	}
	if r.owner != nil {
		n.orderLocked(r.owner, wire.Order{Endpoint: r.id, Epoch: c.Epoch, Order: wire.OrderLeave})
		n.movedLocked(r)
	}
	r.owner, r.standby, r.node, r.cut, r.movable = s, nil, "", false, true
	r.version, r.state, r.left = v, endpoint.Open, false
	n.publishLocked(r)
	return nil
}

// leave ends the old owner. Whoever still sends to it is told to wait for the new one.
func (n *Node) leave(ctx context.Context, r *record, c Command) error {
	n.mu.Lock()
	s := r.owner
	if s == nil || r.version.Epoch >= c.Epoch {
		n.mu.Unlock()
		return nil // told already, by the new owner's node, or itself the new owner
	}
	n.movedLocked(r)
	r.node, r.state, r.left = c.Peer, endpoint.Moving, true
	r.version.Serial++
	n.changedLocked(r)
	if l := n.links[c.Peer]; l != nil && l.away {
		l.cutLocked()
	}
	n.mu.Unlock()
	send := func(frame []byte) bool { return s.conn.Send(frame) == nil }
	err := n.order(ctx, s, send, wire.Order{Endpoint: r.id, Epoch: c.Epoch, Order: wire.OrderLeave})
	if errors.Is(err, errGone) || errors.Is(err, ErrNotHere) {
		return nil
	}
	return err
}

// resume lets the owner go on.
func (n *Node) resume(ctx context.Context, r *record, c Command) error {
	n.mu.Lock()
	if r.owner == nil {
		n.mu.Unlock()
		return nil // it has died, and that has been told
	}
	switch at := r.version.Epoch; {
	case c.Raise && at <= c.Epoch:
		r.version, r.state = endpoint.Version{Epoch: c.Epoch}, endpoint.Moving
	case at >= c.Epoch:
		n.mu.Unlock()
		return fmt.Errorf("%w: epoch %d has been committed", ErrOver, at)
	case r.state == endpoint.Moving:
		r.version.Serial++
	}
	n.mu.Unlock()
	if err := n.orderTo(ctx, r, c, wire.OrderResume, func() *session { return r.owner }, nil); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.owner != nil && r.state == endpoint.Moving {
		r.state = endpoint.Open
		n.publishLocked(r)
	}
	return nil
}
