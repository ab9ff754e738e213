package endpoint

// CallerState is the part of a Caller that moves with its endpoint.
type CallerState struct{ ID, Seq, NoteSeq uint64 }

// Caller numbers the requests of one calling endpoint or session, and keeps the outstanding one until it is answered.
// It is not safe for concurrent use.
type Caller struct {
	state CallerState
	out   *Request
}

// NewCaller returns a caller. The ID must not have been used by another one, ever: take 64 random bits.
func NewCaller(id uint64) *Caller { return &Caller{state: CallerState{ID: id}} }

// ID returns the caller's incarnation.
func (c *Caller) ID() uint64 { return c.state.ID }

// State returns what moves. There must be no outstanding request.
func (c *Caller) State() CallerState { return c.state }

// Restore makes the caller go on where another has stopped.
func (c *Caller) Restore(s CallerState) { c.state, c.out = s, nil }

// Begin numbers a request and makes it the outstanding one. A notification is numbered apart and not kept.
func (c *Caller) Begin(r Request) Request {
	r.Caller = c.state.ID
	if r.Kind == Notify {
		c.state.NoteSeq++
		r.Seq = c.state.NoteSeq
		return r
	}
	c.state.Seq++
	r.Seq = c.state.Seq
	c.out = &r
	return r
}

// Outstanding returns the request that has not been answered.
func (c *Caller) Outstanding() (Request, bool) {
	if c.out == nil {
		return Request{}, false
	}
	return *c.out, true
}

// End tells whether the reply ends the outstanding request. One that says Held or Unknown does not.
func (c *Caller) End(r Reply) bool {
	if c.out == nil || c.out.Seq != r.Seq || c.out.To != r.To || r.Code == Held || r.Code == Unknown {
		return false
	}
	c.out = nil
	return true
}

// Abandon gives the outstanding request up. An answer that still comes is ignored.
func (c *Caller) Abandon() { c.out = nil }
