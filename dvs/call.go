package dvs

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/socket"
	"github.com/godwit-project/godwit/dvs/wire"
)

// remindEvery is how often callers that have waited for at least so long ask whether their request has been lost on the way. It is a net below
// the protocol, not a part of it: nothing should ever fall into it.
const remindEvery = time.Second

// caller makes the calls of a session or of an endpoint, one at a time.
type caller struct {
	s    *Session
	from string
	own  *Endpoint     // whose calls they are; nil for a session's
	turn chan struct{} // holds one token
	w    *waiter

	// guarded by the session's lock
	core     *endpoint.Caller
	route    *route
	since    uint64 // the session's tick when the call began
	asked    bool   // the outstanding request was sent at least once
	askedAt  endpoint.Version
	line     uint64 // that was asked
	patient  bool   // not NoWait
	finished bool
	into     []byte         // where the data of a copy go
	landed   bool           // they are there
	landing  *socket.Stream // puts them there
	keen     bool           // it asked at once when it was answered
	counted  int            // the wave in which it is counted as keen; 0 if it is not
	answered time.Time
	closed   bool // of a Client
	reply    endpoint.Reply
	err      error
}

func newCaller(s *Session, from string, id uint64) *caller {
	c := &caller{s: s, from: from, turn: make(chan struct{}, 1), w: newWaiter(s), core: endpoint.NewCaller(id)}
	c.turn <- struct{}{}
	return c
}

// Send delivers a message to the endpoint's Receive and returns when it has been taken.
func (c *caller) Send(ctx context.Context, to string, payload []byte) error {
	_, err := c.call(ctx, "send", to, endpoint.Request{Kind: endpoint.Send, Payload: payload})
	return err
}

// SendRec delivers a request and returns the endpoint's reply to it.
func (c *caller) SendRec(ctx context.Context, to string, payload []byte) ([]byte, error) {
	r, err := c.call(ctx, "sendrec", to, endpoint.Request{Kind: endpoint.SendRec, Payload: payload})
	return r.Payload, err
}

// Notify leaves a notification at the endpoint and never blocks. Until it is received, further ones of the same caller are the same one.
// It reaches an endpoint that is moving or not yet bound when it is there; it is lost if the endpoint's process dies.
func (c *caller) Notify(to string) error {
	if err := checkName(to); err != nil {
		return fault("notify", to, err)
	}
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cmp.Or(c.barredLocked(), s.goneLocked()); err != nil {
		return fault("notify", to, err)
	}
	r := s.routeLocked(to)
	m := c.core.Begin(endpoint.Request{Kind: endpoint.Notify, From: c.from, To: r.id})
	via := r.channel
	if r.State != endpoint.Open || s.streams[via] != nil { // nobody would send it again if the stream broke
		via = 0
	}
	s.transmitLocked(m, via)
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > wire.MaxName {
		return ErrName
	}
	return nil
}

func (c *caller) call(ctx context.Context, op, to string, r endpoint.Request) (endpoint.Reply, error) {
	reply, _, err := c.callInto(ctx, op, to, r, nil)
	return reply, err
}

// callInto has the reply's payload put where it belongs, if that is possible as it comes; landed tells.
func (c *caller) callInto(ctx context.Context, op, to string, r endpoint.Request, into []byte) (reply endpoint.Reply, landed bool, err error) {
	if err := checkName(to); err != nil {
		return endpoint.Reply{}, false, fault(op, to, err)
	}
	if int64(len(r.Payload)) > c.s.maxLen.Load() {
		return endpoint.Reply{}, false, fault(op, to, ErrTooLong)
	}
	if err := c.myTurn(ctx); err != nil {
		return endpoint.Reply{}, false, fault(op, to, err)
	}
	reply, landed, err = c.ask(ctx, to, r, into)
	c.turn <- struct{}{}
	if err != nil {
		err = fault(op, to, err)
	}
	return reply, landed, err
}

// myTurn waits for the call before this one.
func (c *caller) myTurn(ctx context.Context) error {
	select {
	case <-c.turn:
		return nil
	default:
	}
	if !waits(ctx) {
		return ErrBusy
	}
	select {
	case <-c.turn:
		return nil
	case <-ctx.Done():
		return errors.Join(ErrTimeout, ErrBusy, ctx.Err())
	}
}

func (c *caller) ask(ctx context.Context, to string, r endpoint.Request, into []byte) (reply endpoint.Reply, landed bool, err error) {
	if err := ctx.Err(); err != nil {
		return endpoint.Reply{}, false, errors.Join(ErrTimeout, err)
	}
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := c.barredLocked(); err != nil {
		return endpoint.Reply{}, false, err
	}
	c.w.reset()
	c.asksLocked()
	c.patient = waits(ctx)
	c.asked, c.finished, c.err = false, false, nil
	c.into, c.landed = into, false
	c.route = s.routeLocked(to)
	c.route.waiting[c] = struct{}{}
	r.From, r.To, r.NoWait = c.from, c.route.id, !c.patient
	c.core.Begin(r)
	c.evaluateLocked()
	c.since = s.ticks
	if !s.reminding {
		s.reminding = true
		s.reminder.Reset(remindEvery)
	}
	own := c.own
	own.blockedLocked(1)
	err = s.awaitLocked(ctx, c.w)
	own.blockedLocked(-1)
	delete(c.route.waiting, c)
	if c.into = nil; c.landing != nil {
		c.landing.Divert()
		c.landing = nil
	}
	if !c.finished {
		c.giveUpLocked(err)
	}
	if c.err == nil {
		c.err = coded(c.reply.Code, string(c.reply.Payload))
	}
	return c.reply, c.landed, c.err
}

// barredLocked says why no call can be made now. An endpoint that is frozen makes none: it goes on elsewhere with the same
// numbers.
func (c *caller) barredLocked() error {
	switch {
	case c.s.err != nil:
		return c.s.err
	case c.closed:
		return ErrClosed
	case c.own != nil && c.own.err != nil:
		return c.own.err
	case c.own != nil && c.own.move.stage >= freezing:
		return ErrMigrating
	default:
		return nil
	}
}

// evaluateLocked does what the route now allows for the outstanding request.
func (c *caller) evaluateLocked() {
	out, ok := c.core.Outstanding()
	if !ok || !c.route.known {
		return
	}
	if c.asked && c.route.Version == (endpoint.Version{}) {
		return // the node has begun anew: the owner may come back
	}
	if c.asked && c.route.Line != c.line { // the state that was asked is lost
		c.endLocked(endpoint.Reply{Code: endpoint.Died}, nil)
		return
	}
	switch c.route.State {
	case endpoint.Open:
		if !c.asked || c.askedAt.Compare(c.route.Version) < 0 {
			out.Repeat = c.asked
			c.asked, c.askedAt, c.line = true, c.route.Version, c.route.Line
			out.Line = c.line
			c.s.transmitLocked(out, c.route.channel)
		}
	case endpoint.Moving:
		if !c.patient && !c.asked {
			c.endLocked(endpoint.Reply{Code: endpoint.Held}, nil)
		}
	case endpoint.Cut:
		if c.asked {
			c.endLocked(endpoint.Reply{Code: endpoint.NodeGone}, nil)
		} else if !c.patient {
			c.endLocked(endpoint.Reply{Code: endpoint.NotBound}, nil)
		}
	case endpoint.Dead, endpoint.Nowhere:
		if c.asked {
			c.endLocked(endpoint.Reply{Code: endpoint.Died}, nil)
		} else if !c.patient {
			c.endLocked(endpoint.Reply{Code: endpoint.NotBound}, nil)
		}
	}
}

// endLocked ends the outstanding call.
func (c *caller) endLocked(r endpoint.Reply, err error) {
	c.core.Abandon()
	if c.finished {
		return
	}
	c.finished, c.reply, c.err = true, r, err
	c.w.signal()
}

// giveUpLocked ends the outstanding call because its time is over, and says what is known.
func (c *caller) giveUpLocked(cause error) {
	out, ok := c.core.Outstanding()
	errs := []error{ErrTimeout}
	switch {
	case !c.asked && c.route.State == endpoint.Moving:
		errs = append(errs, ErrMigrating)
	case !c.asked:
		errs = append(errs, ErrNotBound)
	case ok:
		b := wire.Inquiry{To: out.To, Caller: out.Caller, Seq: out.Seq}.Append(c.s.scratch[:0], wire.KindCancel)
		c.s.sendLocked(b, c.route.channel)
		c.s.keepScratch(b)
	}
	c.endLocked(endpoint.Reply{}, errors.Join(append(errs, cause)...))
}

// remind asks what has become of the requests that have waited for long, and will again. One timer for all: one for each call would be heard of
// by the kernel.
func (s *Session) remind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ticks++
	s.reminding = false
	if s.err != nil {
		return
	}
	for _, c := range s.callers {
		out, ok := c.core.Outstanding()
		if !ok {
			continue
		}
		s.reminding = true
		if s.ticks-c.since > 1 && c.asked && c.route.State == endpoint.Open {
			b := wire.Inquiry{To: out.To, Caller: out.Caller, Seq: out.Seq}.Append(s.scratch[:0], wire.KindProbe)
			s.sendLocked(b, 0)
			s.keepScratch(b)
		}
	}
	if s.reminding {
		s.reminder.Reset(remindEvery)
	}
}

// routeLocked returns what is known of a name, and asks the node the first time.
func (s *Session) routeLocked(name string) *route {
	r := s.names[name]
	if r == nil {
		r = &route{name: name, id: endpoint.Resolve(s.container, name), waiting: map[*caller]struct{}{}}
		s.routes[r.id], s.names[name] = r, r
		s.watchLocked(name)
	}
	return r
}

// watchLocked has the node tell of a name. That goes the way of requests: a notification may follow, which nobody sends again, and which a node that has not
// heard of the name drops.
func (s *Session) watchLocked(name string) { s.sendLocked(wire.Watch{Name: name}.Append(nil), 0) }

func (s *Session) transmitLocked(r endpoint.Request, via uint32) {
	if r.NoWait || r.Repeat {
		via = 0 // a peer that computes looks into its rings later; what the node says it hears at once, and may have the answer ready
	}
	b := wire.AppendRequest(s.scratch[:0], r)
	s.sendLocked(b, via)
	s.keepScratch(b)
}

// onRouteLocked learns where an endpoint is, and lets those go on who wait for that.
func (s *Session) onRouteLocked(m wire.Route) {
	r := s.routes[m.Endpoint]
	if r == nil {
		return
	}
	if m.Version.Compare(r.Version) < 0 {
		return // a peer has told already what comes after it
	}
	r.channel = m.Channel
	if r.known && r.Version == m.Version && r.State == m.State {
		return
	}
	r.Version, r.Line, r.State, r.known = m.Version, m.Line, m.State, true
	for c := range r.waiting {
		c.evaluateLocked()
	}
	if m.State != endpoint.Open && m.State != endpoint.Moving && m.Version != (endpoint.Version{}) {
		for _, e := range s.endpoints {
			e.sourceDiedLocked(r.name)
		}
	}
}

// onReplyLocked ends the call that the reply answers, or has it wait for another route, or sends it again.
func (s *Session) onReplyLocked(m endpoint.Reply) {
	c := s.callers[m.Caller]
	if c == nil {
		return
	}
	out, ok := c.core.Outstanding()
	switch {
	case !ok || out.Seq != m.Seq || out.To != m.To:
	case m.Code == endpoint.Held:
		if c.route.Learn(endpoint.Route{Version: m.Version, Line: c.line, State: endpoint.Moving}) || !c.patient {
			c.heldLocked()
		} else if c.route.State == endpoint.Open && c.askedAt.Compare(c.route.Version) < 0 {
			c.evaluateLocked()
		}
	case m.Code == endpoint.Unknown:
		c.askedAt = endpoint.Version{}
		c.evaluateLocked()
	case c.core.End(m):
		c.finished, c.reply = true, m
		c.answeredLocked()
		c.w.signal()
	}
}

// heldLocked ends a call that does not wait.
func (c *caller) heldLocked() {
	if !c.patient {
		c.endLocked(endpoint.Reply{Code: endpoint.Held}, nil)
	}
}
