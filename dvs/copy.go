package dvs

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/ring"
	"github.com/godwit-project/godwit/dvs/wire"
)

// copyStep is how much of a copy travels at a time.
const copyStep = ring.AreaSize

// copyWindow is how many steps of one copy may be under way.
const copyWindow = 8

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
	if n > copyStep && (c.far(to) || c.far(from)) {
		return c.copyWide(ctx, to, from, n)
	}
	for at := uint64(0); at < n; at += copyStep {
		if err := c.step(ctx, c, to.after(at), from.after(at), min(n-at, copyStep)); err != nil {
			return err
		}
	}
	return nil
}

func (p Place) after(n uint64) Place {
	p.Offset += n
	return p
}

// far tells whether copies from or to there travel by messages: then several are under way at once.
func (c *caller) far(p Place) bool {
	if c.own != nil && c.own.name == p.Endpoint {
		return false
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	r := c.s.names[p.Endpoint]
	return r == nil || c.s.channels[r.channel] == nil || r.channel == 0
}

// copyWide copies with several steps under way, so that the way there and back is not waited for each time.
func (c *caller) copyWide(ctx context.Context, to, from Place, n uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Uint64
	var wg sync.WaitGroup
	run := func(by *caller) {
		for ctx.Err() == nil {
			at := next.Add(copyStep) - copyStep
			if at >= n {
				return
			}
			if err := c.step(ctx, by, to.after(at), from.after(at), min(n-at, copyStep)); err != nil {
				cancel(err)
			}
		}
	}
	for range min(copyWindow, (n+copyStep-1)/copyStep) - 1 {
		help, err := c.s.Client()
		if err != nil {
			cancel(err)
			break
		}
		wg.Go(func() {
			defer help.Close()
			run(help.caller)
		})
	}
	run(c)
	wg.Wait()
	if next.Load() < n || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// step copies up to copyStep bytes; the requests are made by a caller.
func (c *caller) step(ctx context.Context, by *caller, to, from Place, n uint64) error {
	if at, err := c.tryStep(ctx, by, to, from, n); err != nil {
		return fault("copy", at, err)
	}
	return nil
}

// tryStep names the endpoint at which it failed.
func (c *caller) tryStep(ctx context.Context, by *caller, to, from Place, n uint64) (at string, err error) {
	own, dest, err := c.ownPart(to, n)
	if err != nil {
		return to.Endpoint, err
	}
	if own {
		return from.Endpoint, by.fetch(ctx, from, dest)
	}
	own, data, err := c.ownPart(from, n)
	if err == nil && !own {
		data = make([]byte, n)
		err = by.fetch(ctx, from, data)
	}
	if err != nil {
		return from.Endpoint, err
	}
	return to.Endpoint, by.store(ctx, to, data)
}

// ownPart returns a part of a buffer of the caller's own endpoint, if it is one.
func (c *caller) ownPart(p Place, n uint64) (own bool, b []byte, err error) {
	e := c.own
	if e == nil || e.name != p.Endpoint {
		return false, nil, nil
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	b, err = e.buffers[p.Buffer].slice(p.Offset, n)
	return true, b, err
}

// area takes the memory of the introduction to an endpoint for a copy, if it is there and free. It belongs to the caller until release.
func (c *caller) area(name string) *ring.Channel {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	r := c.s.names[name]
	if r == nil || r.channel == 0 || r.State != endpoint.Open {
		return nil
	}
	ch := c.s.channels[r.channel]
	if ch == nil || c.s.areas[ch] {
		return nil
	}
	c.s.areas[ch] = true
	return ch
}

// use calls f with the memory, and tells whether it is still there.
func (c *caller) use(ch *ring.Channel, f func(area []byte)) bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if !c.s.areas[ch] {
		return false
	}
	f(ch.Area())
	return true
}

func (c *caller) release(ch *ring.Channel) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	delete(c.s.areas, ch)
}

func (c *caller) fetch(ctx context.Context, p Place, into []byte) error {
	m := wire.Range{Buffer: p.Buffer, Offset: p.Offset, Length: uint32(len(into))}
	ch := c.area(p.Endpoint)
	m.Area = ch != nil
	r, landed, err := c.callInto(ctx, "copy", p.Endpoint, endpoint.Request{Kind: endpoint.CopyRead, Payload: m.Append(nil)}, into)
	passed := false // through the memory
	if ch != nil {
		if passed = err == nil && !landed && len(r.Payload) == 0; passed && !c.use(ch, func(area []byte) { copy(into, area) }) {
			return c.fetch(ctx, p, into) // the memory has gone, and the data with it
		}
		c.release(ch)
	}
	if err == nil && !passed && !landed && copy(into, r.Payload) != len(into) {
		err = wire.ErrFrame
	}
	return bare(err)
}

func (c *caller) store(ctx context.Context, p Place, data []byte) error {
	m := wire.Range{Buffer: p.Buffer, Offset: p.Offset, Length: uint32(len(data))}
	if ch := c.area(p.Endpoint); ch != nil {
		err := errInline
		if c.use(ch, func(area []byte) { copy(area, data) }) {
			m.Area = true
			_, err = c.call(ctx, "copy", p.Endpoint, endpoint.Request{Kind: endpoint.CopyWrite, Payload: m.Append(nil)})
			m.Area = false
		}
		c.release(ch)
		if !errors.Is(err, errInline) {
			return bare(err)
		}
	}
	m.Data = data
	_, err := c.call(ctx, "copy", p.Endpoint, endpoint.Request{Kind: endpoint.CopyWrite, Payload: m.Append(nil)})
	return bare(err)
}

// errInline is the error of a copy that was to pass through memory that its owner has not.
var errInline = errors.New("the data have to come along")

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
	data := m.Data
	var area []byte
	if ch := e.s.channels[e.s.paths[r.Caller]]; m.Area && ch != nil && e.s.paths[r.Caller] != 0 && m.Length <= copyStep {
		area = ch.PeerArea()[:m.Length]
		data = area
	}
	switch {
	case errors.Is(err, ErrNoBuffer):
		return endpoint.NoBuffer, nil
	case err != nil || m.Length > copyStep:
		return endpoint.Range, nil
	case r.Kind == endpoint.CopyRead && !b.Read, r.Kind == endpoint.CopyWrite && !b.Write:
		return endpoint.Denied, nil
	case r.Kind == endpoint.CopyWrite && m.Area && area == nil:
		return endpoint.Inline, nil
	case r.Kind == endpoint.CopyWrite && len(data) != len(part):
		return endpoint.Range, nil
	case r.Kind == endpoint.CopyWrite:
		copy(part, data)
		return endpoint.OK, nil
	case area != nil:
		copy(area, part)
		return endpoint.OK, nil
	default:
		return endpoint.OK, part // sent before anybody else may change it
	}
}
