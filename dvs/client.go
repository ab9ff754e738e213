package dvs

import (
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// Client makes calls of its own over a session, one at a time: a program that has many under way at once takes one for each, which
// costs far less than a session each.
type Client struct{ *caller }

// Client returns another caller of the session, without a name. Close it when it is not needed any more.
func (s *Session) Client() (*Client, error) {
	c := newCaller(s, "", newIncarnation())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, fault("make a client", s.container, s.err)
	}
	s.callers[c.core.ID()] = c
	s.sendLocked(wire.Caller{Caller: c.core.ID()}.Append(nil), 0) // the way of its requests
	return &Client{c}, nil
}

// Close ends the client. A call under way fails with ErrClosed.
func (c *Client) Close() {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	c.endLocked(endpoint.Reply{}, ErrClosed)
	delete(s.callers, c.core.ID())
	if s.err == nil {
		s.sendLocked(wire.Gone{Caller: c.core.ID()}.Append(nil), 0)
	}
}
