package dvs

import (
	"context"
	"errors"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// copyStep is how much of a copy travels in one message; directStep how much where two processes share memory: it fits into a ring.
const (
	copyStep   = 256 << 10
	directStep = 32 << 10
)

// Access says what others may do with a buffer.
type Access struct{ Read, Write bool }

// Place is where a copy begins: an offset in a registered buffer of an endpoint.
type Place struct {
	Endpoint string
	Buffer   string
	Offset   uint64
}

type buffer struct {
	b []byte
	Access
}

// Register lets others copy from or to b under a name, while this process is blocked in a call of the endpoint.
func (e *Endpoint) Register(name string, b []byte, a Access) {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	if e.buffers == nil {
		e.buffers = map[string]*buffer{}
	}
	e.buffers[name] = &buffer{b, a}
}

// Unregister ends that.
func (e *Endpoint) Unregister(name string) {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	delete(e.buffers, name)
}

// Copy copies n bytes from one registered buffer to another. Either may be the caller's own endpoint's; the other owners have to be
// blocked in a call meanwhile. A copy that fails may have been made in part.
func (c *caller) Copy(ctx context.Context, to, from Place, n uint64) error {
	if from.Offset+n < n || to.Offset+n < n {
		return fault("copy", from.Endpoint, ErrRange)
	}
	for n > 0 {
		step := min(n, c.step(to, from))
		data, err := c.fetch(ctx, from, uint32(step))
		if err != nil {
			return fault("copy", from.Endpoint, err)
		}
		if err := c.store(ctx, to, data); err != nil {
			return fault("copy", to.Endpoint, err)
		}
		from.Offset += step
		to.Offset += step
		n -= step
	}
	return nil
}

func (c *caller) step(places ...Place) uint64 {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, p := range places {
		own := c.own != nil && c.own.name == p.Endpoint
		if r := c.s.names[p.Endpoint]; !own && (r == nil || r.channel == 0) {
			return copyStep
		}
	}
	return directStep
}

func (c *caller) fetch(ctx context.Context, p Place, n uint32) ([]byte, error) {
	m := wire.Range{Buffer: p.Buffer, Offset: p.Offset, Length: n}
	if e := c.own; e != nil && e.name == p.Endpoint {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		return e.buffers[p.Buffer].slice(m.Offset, uint64(n))
	}
	r, err := c.call(ctx, "copy", p.Endpoint, endpoint.Request{Kind: endpoint.CopyRead, Payload: m.Append(nil)})
	if err == nil && len(r.Payload) != int(n) {
		err = wire.ErrFrame
	}
	return r.Payload, bare(err)
}

func (c *caller) store(ctx context.Context, p Place, data []byte) error {
	if e := c.own; e != nil && e.name == p.Endpoint {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		b, err := e.buffers[p.Buffer].slice(p.Offset, uint64(len(data)))
		copy(b, data)
		return err
	}
	m := wire.Range{Buffer: p.Buffer, Offset: p.Offset, Length: uint32(len(data)), Data: data}
	_, err := c.call(ctx, "copy", p.Endpoint, endpoint.Request{Kind: endpoint.CopyWrite, Payload: m.Append(nil)})
	return bare(err)
}

// bare takes the operation off an error, because the caller names it itself.
func bare(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (b *buffer) slice(offset, n uint64) ([]byte, error) {
	switch {
	case b == nil:
		return nil, ErrNoBuffer
	case offset > uint64(len(b.b)) || n > uint64(len(b.b))-offset:
		return nil, ErrRange
	default:
		return b.b[offset : offset+n], nil
	}
}

// copiesLocked serves the copies that wait, if the program is blocked.
func (e *Endpoint) copiesLocked() {
	for e.blocked > 0 {
		r, ok := e.box.TakeCopy()
		if !ok {
			return
		}
		code, data := e.serveCopy(r)
		if reply, ok := e.box.Reply(r.Caller, r.Seq, code, data); ok {
			e.s.replyLocked(reply)
		}
	}
}

func (e *Endpoint) serveCopy(r endpoint.Request) (endpoint.Code, []byte) {
	m, err := wire.ParseRange(r.Payload)
	if err != nil {
		return endpoint.Range, nil
	}
	b := e.buffers[m.Buffer]
	part, err := b.slice(m.Offset, uint64(m.Length))
	switch {
	case errors.Is(err, ErrNoBuffer):
		return endpoint.NoBuffer, nil
	case err != nil || m.Length > copyStep:
		return endpoint.Range, nil
	case r.Kind == endpoint.CopyRead && !b.Read, r.Kind == endpoint.CopyWrite && !b.Write:
		return endpoint.Denied, nil
	case r.Kind == endpoint.CopyWrite && len(m.Data) != len(part):
		return endpoint.Range, nil
	case r.Kind == endpoint.CopyWrite:
		copy(part, m.Data)
		return endpoint.OK, nil
	default:
		return endpoint.OK, append([]byte(nil), part...)
	}
}
