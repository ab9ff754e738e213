package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

const (
	outBytes  = 64 << 20 // queued for a peer; what comes then is lost, and sent again by the cores
	dialPause = 20 * time.Millisecond
)

// link sends to one other replica, over one connection after another.
type link struct {
	r    *Replica
	peer string
	out  outbox
}

func newLink(r *Replica, peer string) *link {
	l := &link{r: r, peer: peer}
	l.out.wake = sync.NewCond(&l.out.mu)
	return l
}

// outbox holds what waits to be written: messages in order, and images in parts between them.
type outbox struct {
	mu     sync.Mutex
	wake   *sync.Cond
	short  [][]byte
	long   [][]byte
	bytes  int
	turn   int // counts connections
	up     bool
	closed bool
	failed error // of the last connection, or attempt
}

// String tells how the connection is.
func (o *outbox) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.up {
		return fmt.Sprintf("down: %v", o.failed)
	}
	return fmt.Sprintf("up, change %d, %d messages and %d images queued", o.turn, len(o.short), len(o.long))
}

// fail notes why there is no connection.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = err
}

// send queues a message, if there is a connection and room. Bulk is overtaken by what is not.
func (o *outbox) send(body []byte, bulk bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.up || o.closed || !bulk && o.bytes > outBytes {
		return
	}
	if bulk {
		o.long = append(o.long, body)
	} else {
		o.short = append(o.short, body)
		o.bytes += len(body)
	}
	o.wake.Signal()
}

func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.wake.Broadcast()
}

// set begins or ends the use of a connection; what was queued before is lost.
func (o *outbox) set(up bool) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up, o.short, o.long, o.bytes = up, nil, nil, 0
	o.turn++
	o.wake.Broadcast()
	return o.turn
}

// next waits for something to write, and encodes it; false when the connection is over.
func (o *outbox) next(b []byte, turn int) ([]byte, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.short) == 0 && len(o.long) == 0 && o.turn == turn && !o.closed {
		o.wake.Wait()
	}
	if o.turn != turn || o.closed {
		return nil, false
	}
	for _, m := range o.short {
		b = appendFrame(b, frameMessage, m)
	}
	o.short, o.bytes = nil, 0
	if len(o.long) > 0 {
		m := o.long[0]
		n := min(len(m), partSize)
		if o.long[0] = m[n:]; n < len(m) {
			return appendFrame(b, framePart, m[:n]), true
		}
		o.long = o.long[1:]
		b = appendFrame(b, frameEnd, m)
	}
	return b, true
}

func (l *link) keepDialing() {
	r := l.r
	for r.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(r.ctx, 4*r.o.Patience)
		c, err := r.o.Dial(ctx, l.peer)
		cancel()
		if err == nil {
			err = l.write(c)
		}
		l.out.fail(err)
		r.o.Log.Debug("replica link down", "group", r.o.Group, "replica", r.o.Self, "peer", l.peer, "err", err)
		select {
		case <-r.ctx.Done():
		case <-time.After(dialPause):
		}
	}
}

// write uses a connection until it breaks.
func (l *link) write(c net.Conn) error {
	r := l.r
	if !r.keep(c) {
		return ErrClosed
	}
	defer r.unkeep(c)
	turn := l.out.set(true)
	var watch sync.WaitGroup
	watch.Go(func() { // the peer says nothing: what comes is the end
		_, _ = c.Read(make([]byte, 1))
		l.out.set(false)
		_ = c.Close()
	})
	defer watch.Wait()
	defer c.Close()
	r.events.put(func() { r.engine.lost(l.peer) })
	b := appendFrame(nil, frameHello, hello{wireVersion, r.o.Kind, r.o.Group, r.self, l.peer}.encode())
	out := moving{c, 4 * r.o.Patience}
	for {
		if _, err := out.Write(b); err != nil {
			return err
		}
		if cap(b) > 4*partSize {
			b = nil
		}
		var ok bool
		if b, ok = l.out.next(b[:0], turn); !ok {
			return net.ErrClosed
		}
	}
}

// movedBytes is how much is read or written at once; that has to pass a connection within its limit.
const movedBytes = 64 << 10

// moving is a connection that is given up when nothing passes it any more. However long a message is, and however slow the line: what
// still passes is not given up.
type moving struct {
	c     net.Conn
	limit time.Duration
}

func (m moving) Read(b []byte) (int, error) {
	_ = m.c.SetReadDeadline(time.Now().Add(m.limit)) // a closed connection says so below
	return m.c.Read(b)
}

func (m moving) Write(b []byte) (done int, err error) {
	for done < len(b) && err == nil {
		_ = m.c.SetWriteDeadline(time.Now().Add(m.limit))
		var n int
		n, err = m.c.Write(b[done:min(len(b), done+movedBytes)])
		done += n
	}
	return done, err
}

// keep notes a connection so that the end of the replica ends it.
func (r *Replica) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		_ = c.Close()
		return false
	}
	r.conns[c] = struct{}{}
	return true
}

func (r *Replica) unkeep(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	_ = c.Close()
}

// Accept takes in what another replica sends on a connection that it has dialled, until it ends. name is who it is, as far as whoever
// accepted the connection has proof; "" takes its word for it.
func (r *Replica) Accept(c net.Conn, name string) error {
	if !r.keep(c) {
		return ErrClosed
	}
	defer r.unkeep(c)
	in := reader{r: bufio.NewReaderSize(moving{c, 4 * r.o.Patience}, movedBytes)}
	kind, body, err := in.frame()
	if err != nil {
		return err
	}
	h, err := parseHello(body)
	switch {
	case err != nil || kind != frameHello:
		return errors.Join(ErrFrame, err)
	case h.version != wireVersion || h.kind != r.o.Kind || h.group != r.o.Group || h.to != r.o.Self || name != "" && h.from.Name != name || r.links[h.from.Name] == nil:
		return fmt.Errorf("replica %s of group %s: %s replica %q of group %q, version %d, was not expected", r.o.Self, r.o.Group, h.kind, h.from.Name, h.group, h.version)
	}
	for {
		m, err := in.message()
		if err != nil {
			if r.ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := r.deliver(m, h.from); err != nil {
			return err
		}
	}
}

// deliver gives the loop a message, and waits until it has been taken: so a peer cannot send faster than is worked.
func (r *Replica) deliver(m []byte, from state.Member) error {
	done := make(chan error, 1)
	r.events.put(func() {
		err := r.engine.message(m, from)
		r.pace.heard(from.Name, time.Since(r.began), r.engine.regular(from.Name))
		done <- err
	})
	select {
	case err := <-done:
		return err
	case <-r.ctx.Done():
		return ErrClosed
	}
}
