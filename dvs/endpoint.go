package dvs

import (
	"context"
	"errors"
	"slices"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// Any is the source of a Receive that takes from everybody.
const Any = ""

// BindOptions say what an endpoint can do.
type BindOptions struct {
	// Snapshot and Restore make the endpoint movable: the program's whole state as bytes. Restore may be called more than once, when
	// a migration is repeated; the last one counts.
	Snapshot func() ([]byte, error)
	Restore  func([]byte) error
	// Pieces makes it movable as well, and most of the state moves while the program runs. Snapshot and Restore are not needed then, and
	// not used.
	Pieces Pieces
	// Standby waits to take over an endpoint that moves here. It needs Restore or Pieces. Bind then returns when it has.
	Standby bool
	// Replicated binds on behalf of a group of processes that have one state and one table of replies together, which has agreed that this one
	// answers now. An older owner is told to leave (ErrMoved), wherever it is; when this one ends without Unbind, callers wait until another
	// of the group has bound. Its messages have to be answered with Reply, a Send too, or dropped. It cannot move.
	Replicated bool
	// Epoch is that of the agreement: above those of all that were bound before. Line is the same for all of the group, and at most its
	// first Epoch: so callers know that the state is the same.
	Epoch, Line uint64
	// Gone is told of callers that have ended: what the group remembers of them can be forgotten. It must not wait for anything.
	Gone func(caller uint64)
	// Queue bounds how many requests wait to be received: more fail with ErrOverrun. 0 is no bound but one request for each caller.
	Queue int
}

// Message is what an endpoint received.
type Message struct {
	Kind    endpoint.Kind // endpoint.Send, endpoint.SendRec or endpoint.Notify
	From    string        // name of the endpoint that sent it; "" for a session
	Payload []byte
	caller  uint64
	seq     uint64
}

// Caller returns the number of who sent the message, which no other caller ever has, and the number of the message, which grows with each of
// that caller's requests (and, apart from those, notifications). A message that comes again has the same.
func (m Message) Caller() (caller, seq uint64) { return m.caller, m.seq }

// Endpoint is a name that this process answers to, and a caller of that name. It is safe for concurrent use.
type Endpoint struct {
	*caller
	name string
	id   endpoint.ID
	opts BindOptions

	// guarded by the session's lock
	box       *endpoint.Mailbox
	err       error // why it receives nothing any more
	receivers []*receiver
	blocked   int // goroutines of the program inside a call
	buffers   map[string]*buffer
	bound     bool      // the node has said so
	early     []arrival // what came before the node's answer
	move      move
	active    chan struct{} // closed when it is the owner
}

// arrival is a request, and the way it came.
type arrival struct {
	endpoint.Request
	via uint32
}

// maxEarly bounds the requests that came before the node has said that they may.
const maxEarly = 4096

type receiver struct {
	*waiter
	from     *string
	requests bool
	got      bool
	m        endpoint.Request
	err      error
}

// Bind gives the process a name. It fails with ErrNameUsed if another process of the container has it.
func (s *Session) Bind(ctx context.Context, name string, o BindOptions) (*Endpoint, error) {
	e, err := s.bind(ctx, name, o)
	if err != nil {
		return nil, fault("bind", name, err)
	}
	return e, nil
}

func (s *Session) bind(ctx context.Context, name string, o BindOptions) (*Endpoint, error) {
	name, o = s.startedAs(name, o)
	if err := checkName(name); err != nil {
		return nil, err
	}
	switch {
	case o.Replicated && (o.Standby || o.movable() || o.Line == 0 || o.Epoch < o.Line):
		return nil, errors.New("a replicated endpoint does not move, and needs an Epoch and a Line that is no higher")
	case o.Pieces != nil:
	case o.Standby && o.Restore == nil:
		return nil, errors.New("a standby needs Restore or Pieces")
	case !o.Standby && (o.Snapshot == nil) != (o.Restore == nil):
		return nil, errors.New("an endpoint that moves needs both Snapshot and Restore, or Pieces")
	}
	e := &Endpoint{name: name, id: endpoint.Resolve(s.container, name), opts: o, active: make(chan struct{})}
	e.caller = newCaller(s, name, newIncarnation())
	e.caller.own = e
	status := endpoint.Active
	if o.Standby {
		status = endpoint.Standby
	}
	e.box = endpoint.NewMailbox(e.id, endpoint.Version{}, status)
	e.box.Limit(o.Queue)
	if o.Replicated {
		e.box.Share(endpoint.Version{Epoch: o.Epoch}, o.Line)
	}
	s.mu.Lock()
	if old := s.endpoints[e.id]; old != nil && old.box.Status() != endpoint.Left {
		if !o.Replicated || !old.opts.Replicated || old.opts.Epoch >= o.Epoch {
			s.mu.Unlock()
			return nil, ErrNameUsed
		}
		old.leaveLocked()
	}
	s.endpoints[e.id] = e
	s.callers[e.core.ID()] = e.caller
	s.mu.Unlock()
	_, err := s.ask(ctx, func(call uint32) []byte {
		s.binding[call] = e
		b := wire.Caller{Endpoint: e.id, Caller: e.core.ID()}.Append(nil)
		return wire.Bind{Call: call, Name: name, Standby: o.Standby, Movable: o.movable(), Replicated: o.Replicated, Epoch: o.Epoch, Line: o.Line}.Append(b)
	})
	if err == nil && o.Standby {
		err = e.waitActive(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.endpoints[e.id] == e {
			delete(s.endpoints, e.id)
			delete(s.callers, e.core.ID())
			if !o.Replicated { // others may have it
				_ = s.conn.Send(wire.Unbind{Endpoint: e.id}.Append(nil))
			}
		}
		return nil, err
	}
	return e, nil
}

func (e *Endpoint) waitActive(ctx context.Context) error {
	select {
	case <-e.active:
		e.s.mu.Lock()
		defer e.s.mu.Unlock()
		return e.err
	case <-ctx.Done():
		return errors.Join(ErrTimeout, ctx.Err())
	}
}

// Name returns the endpoint's name.
func (e *Endpoint) Name() string { return e.name }

// Session returns the session that the endpoint belongs to.
func (e *Endpoint) Session() *Session { return e.s }

// Pending returns how many messages and notifications wait to be received.
func (e *Endpoint) Pending() int {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	e.s.pollLocked()
	return e.box.Len()
}

// Unbind gives the name back. Requests that wait for an answer fail as if the process had died.
func (e *Endpoint) Unbind(ctx context.Context) error {
	_, err := e.s.ask(ctx, func(call uint32) []byte { return wire.Unbind{Call: call, Endpoint: e.id}.Append(nil) })
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	e.failLocked(ErrUnbound)
	if e.s.endpoints[e.id] == e {
		delete(e.s.endpoints, e.id)
		delete(e.s.callers, e.core.ID())
	}
	e.endLocked(endpoint.Reply{}, ErrUnbound)
	if err != nil {
		return fault("unbind", e.name, err)
	}
	return nil
}

// Receive returns the next message: notifications first, then requests in the order in which they came. from names the only source
// wanted; Any takes all. A SendRec has to be answered with Reply.
func (e *Endpoint) Receive(ctx context.Context, from string) (Message, error) {
	var source *string
	if from != Any {
		source = &from
	}
	return e.receive(ctx, "receive", source, false)
}

// ReceiveRequest returns the next SendRec. It has to be answered with Reply.
func (e *Endpoint) ReceiveRequest(ctx context.Context) (Message, error) {
	return e.receive(ctx, "receive request", nil, true)
}

// Reply answers a request. It never blocks. ErrNotWaiting says that the caller is not there for it.
func (e *Endpoint) Reply(m Message, payload []byte) error {
	if int64(len(payload)) > e.s.maxLen.Load() {
		return fault("reply", m.From, ErrTooLong)
	}
	return e.end("reply", m, endpoint.OK, slices.Clone(payload))
}

// Drop gives up a request of a replicated endpoint without an answer: its caller sends it again, to whoever answers for the group then.
func (e *Endpoint) Drop(m Message) {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	if e.opts.Replicated {
		e.box.Drop(m.caller, m.seq)
	}
}

// Refuse answers a request with an error: the caller gets ErrRefused with the text, once, as it would get a reply.
func (e *Endpoint) Refuse(m Message, text string) error {
	const most = 4096
	return e.end("refuse", m, endpoint.Failed, []byte(text[:min(len(text), most)]))
}

func (e *Endpoint) end(op string, m Message, code endpoint.Code, payload []byte) error {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	if e.s.err != nil {
		return fault(op, m.From, e.s.err)
	}
	r, ok := e.box.Reply(m.caller, m.seq, code, payload)
	e.freezeLocked()
	if !ok {
		return fault(op, m.From, ErrNotWaiting)
	}
	e.s.replyLocked(r)
	return nil
}

func (e *Endpoint) receive(ctx context.Context, op string, from *string, requests bool) (Message, error) {
	s := e.s
	w := &receiver{waiter: newWaiter(s), from: from, requests: requests}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.err
	if err == nil {
		if s.pollPageLocked(); e.box.Len() == 0 {
			s.pollLocked()
		}
		e.copiesLocked()
		if err = e.err; err == nil {
			e.receivers = append(e.receivers, w)
			e.deliverLocked()
		}
	}
	if err != nil {
		return Message{}, fault(op, e.name, err)
	}
	if from != nil {
		if r := s.routeLocked(*from); !w.got && r.known && (r.State == endpoint.Dead || r.State == endpoint.Cut) {
			e.dropLocked(w)
			return Message{}, fault(op, e.name, ErrSourceDied)
		}
	}
	if !w.got && !waits(ctx) {
		e.dropLocked(w)
		return Message{}, fault(op, e.name, ErrAgain)
	}
	e.blockedLocked(1)
	e.freezeLocked()
	if !w.ready.Load() {
		err = s.awaitLocked(ctx, w.waiter)
	}
	e.waitThawedLocked(w)
	e.blockedLocked(-1)
	e.dropLocked(w)
	switch {
	case w.got:
		return Message{Kind: w.m.Kind, From: w.m.From, Payload: w.m.Payload, caller: w.m.Caller, seq: w.m.Seq}, nil
	case w.err != nil:
		return Message{}, fault(op, e.name, w.err)
	default:
		return Message{}, fault(op, e.name, errors.Join(ErrTimeout, err))
	}
}

// deliverLocked hands what is there to those who wait for it.
func (e *Endpoint) deliverLocked() {
	for _, w := range e.receivers {
		if w.got || w.err != nil {
			continue
		}
		m, receipt, ok := e.box.Take(w.from, w.requests)
		if !ok {
			continue
		}
		w.got, w.m = true, m
		if receipt != nil {
			e.s.replyLocked(*receipt)
		}
		w.signal()
	}
}

func (e *Endpoint) dropLocked(w *receiver) {
	e.receivers = slices.DeleteFunc(e.receivers, func(o *receiver) bool { return o == w })
}

// failLocked ends receiving, and a standby's waiting.
func (e *Endpoint) failLocked(err error) {
	if e.err == nil {
		e.err = err
	}
	for _, w := range e.receivers {
		if !w.got && w.err == nil {
			w.err = e.err
			w.signal()
		}
	}
	e.openLocked()
	e.thawLocked()
}

// openLocked ends a standby's waiting.
func (e *Endpoint) openLocked() {
	select {
	case <-e.active:
	default:
		close(e.active)
	}
}

// sourceDiedLocked wakes those who wait for a message of that name only.
func (e *Endpoint) sourceDiedLocked(name string) {
	for _, w := range e.receivers {
		if w.from != nil && *w.from == name && !w.got && w.err == nil {
			w.err = ErrSourceDied
			w.signal()
		}
	}
}

// idleLocked tells whether a message of that kind and source would be taken at once.
func (e *Endpoint) idleLocked(r endpoint.Request) bool {
	if r.Kind.Copies() {
		return e.blocked > 0
	}
	return slices.ContainsFunc(e.receivers, func(w *receiver) bool {
		return !w.got && w.err == nil && (w.from == nil || *w.from == r.From) && (!w.requests || r.Kind == endpoint.SendRec)
	})
}

// blockedLocked counts the goroutines that are inside a call: while there are any, buffers may be used by others.
func (e *Endpoint) blockedLocked(by int) {
	if e == nil {
		return
	}
	e.blocked += by
	e.copiesLocked()
}

// onRequestLocked takes in a request.
func (s *Session) onRequestLocked(r endpoint.Request, via uint32) {
	s.paths[r.Caller] = via
	e := s.endpoints[r.To]
	if e == nil {
		if r.Kind != endpoint.Notify {
			s.replyLocked(endpoint.Reply{To: r.To, Caller: r.Caller, Seq: r.Seq, Code: endpoint.Held})
		}
		return
	}
	if e.box.Early(r) && len(e.early) < maxEarly {
		e.early = append(e.early, arrival{r, via}) // rings and the socket are not ordered among each other
		return
	}
	outcome, reply := e.box.Offer(r, e.idleLocked(r))
	switch outcome {
	case endpoint.Queued:
		e.copiesLocked()
		e.deliverLocked()
	case endpoint.Answer:
		s.replyLocked(reply)
	case endpoint.Bounce:
		if e.box.Status() != endpoint.Standby {
			b := wire.AppendRequest(nil, r)
			_ = s.conn.Send(b) // the node keeps it until the endpoint is somewhere
		}
	case endpoint.Ignored:
	}
}

// renewLocked gives the mailbox the version that the node says, and takes in what came before that was known.
func (e *Endpoint) renewLocked(v endpoint.Version) {
	e.box.Renew(v)
	early := e.early
	e.early = nil
	for _, a := range early {
		e.s.onRequestLocked(a.Request, a.via)
	}
}

// onInquiryLocked answers a Probe or carries out a Cancel.
func (s *Session) onInquiryLocked(k wire.Kind, q wire.Inquiry, via uint32) {
	s.paths[q.Caller] = via
	e := s.endpoints[q.To]
	if e == nil {
		return
	}
	if k == wire.KindCancel {
		e.box.Cancel(q.Caller, q.Seq)
		return
	}
	if outcome, reply := e.box.Probe(q.Caller, q.Seq); outcome == endpoint.Answer {
		s.replyLocked(reply)
	}
}

// replyLocked sends a reply the way its request came. If that way is gone, the caller will ask again.
func (s *Session) replyLocked(r endpoint.Reply) {
	via, ok := s.paths[r.Caller]
	if !ok {
		return
	}
	if st := s.streams[via]; st != nil {
		s.streamReplyLocked(st, via, r, s.followsLocked(r.To, via))
		return
	}
	b := wire.AppendReply(s.scratch[:0], r)
	s.sendLocked(b, via)
	s.keepScratch(b)
}

// followsLocked tells whether the endpoint will probably answer another request of the same stream next.
func (s *Session) followsLocked(id endpoint.ID, via uint32) bool {
	e := s.endpoints[id]
	if e == nil {
		return false
	}
	next, ok := e.box.Next()
	return ok && s.paths[next] == via
}
