// Package socket has the sockets that carry frames: a Conn, with descriptors, between a program and its node, and a Stream between programs on
// two machines. Sending never blocks, so that nobody who is slow, stopped or hostile can hold up anybody else.
//
// A Conn is read by one goroutine; Send may be called by any. Close waits for the goroutine that the Conn has.
package socket

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/dvs/wire"
)

// maxQueue bounds what waits for a peer that does not read, in bytes. A state that moves has to fit.
const maxQueue = 1 << 30

// groupSize is that of a group id, in bytes.
const groupSize = uint32(unsafe.Sizeof(uint32(0)))

// ErrSlow is returned by Send when the peer has not read for too long; the connection is closed then.
var ErrSlow = errors.New("the peer does not read")

// Conn is one connection.
type Conn struct {
	c     *net.UnixConn
	raw   syscall.RawConn
	r     *bufio.Reader
	files []int // received and not taken; of the reading goroutine

	mu struct {
		sync.Mutex
		room    *sync.Cond
		queue   []item
		queued  int // bytes
		writing bool
		err     error
	}
	wg sync.WaitGroup
}

type item struct {
	b   []byte
	fds []int
}

// New wraps a connection, which then belongs to the Conn.
func New(c *net.UnixConn) (*Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("DVS socket: %w", err)
	}
	s := &Conn{c: c, raw: raw}
	s.mu.room = sync.NewCond(&s.mu)
	s.r = bufio.NewReaderSize(receiver{s}, 64<<10)
	return s, nil
}

// Peer returns who is at the other end of the socket.
func (c *Conn) Peer() (cred unix.Ucred, err error) {
	cerr := c.raw.Control(func(fd uintptr) {
		var u *unix.Ucred
		if u, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			cred = *u
		}
	})
	return cred, errors.Join(cerr, err)
}

// Groups returns the supplementary groups of who is at the other end of the socket, as they were when it connected.
func (c *Conn) Groups() (groups []uint32, err error) {
	size := uint32(0)
	get := func(fd uintptr, to *uint32) syscall.Errno {
		_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS, uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(&size)), 0)
		return e
	}
	cerr := c.raw.Control(func(fd uintptr) {
		var none uint32
		e := get(fd, &none) // says how long the list is
		if e == unix.ERANGE {
			groups = make([]uint32, size/groupSize)
			e = get(fd, &groups[0])
		}
		if e != 0 {
			groups, err = nil, fmt.Errorf("groups of the program: %w", e)
		}
	})
	return groups, errors.Join(cerr, err)
}

// Read returns the next frame.
func (c *Conn) Read() (wire.Frame, error) { return wire.Read(c.r) }

// ReadEncoded returns the next frame as it came.
func (c *Conn) ReadEncoded() (wire.Encoded, error) { return wire.ReadEncoded(c.r) }

// Files takes n descriptors that came with the frame just read. They belong to the caller.
func (c *Conn) Files(n int) ([]int, error) {
	if len(c.files) < n {
		return nil, fmt.Errorf("%w: %d descriptors expected, %d came", wire.ErrFrame, n, len(c.files))
	}
	fds := c.files[:n:n]
	c.files = c.files[n:]
	return fds, nil
}

// Send sends a frame, or queues it. The descriptors belong to the Conn, whatever happens; the frame does not.
func (c *Conn) Send(frame []byte, fds ...int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		closeAll(fds)
		return c.mu.err
	}
	if !c.mu.writing {
		n, err := c.try(frame, fds)
		switch {
		case err != nil:
			closeAll(fds)
			return c.failLocked(err)
		case n == len(frame):
			closeAll(fds)
			return nil
		case n > 0:
			closeAll(fds)
			fds, frame = nil, frame[n:]
		}
	}
	if c.mu.queued+len(frame) > maxQueue {
		closeAll(fds)
		return c.failLocked(ErrSlow)
	}
	c.mu.queue = append(c.mu.queue, item{append([]byte(nil), frame...), fds})
	c.mu.queued += len(frame)
	if !c.mu.writing {
		c.mu.writing = true
		c.wg.Go(c.write)
	}
	return nil
}

// Wait blocks until less than limit bytes are queued, or the connection is closed.
func (c *Conn) Wait(limit int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.mu.err == nil && c.mu.queued >= limit {
		c.mu.room.Wait()
	}
	return c.mu.err
}

// Close ends the connection and waits for its goroutine. What is queued is lost.
func (c *Conn) Close() {
	c.Shut(net.ErrClosed)
	c.wg.Wait()
	closeAll(c.files)
	c.files = nil
}

// Shut ends the connection without waiting: Read returns soon, and Close is still to be called.
func (c *Conn) Shut(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.failLocked(err)
}

// failLocked ends the connection; the first reason stays.
func (c *Conn) failLocked(err error) error {
	if c.mu.err == nil {
		c.mu.err = err
		for _, it := range c.mu.queue {
			closeAll(it.fds)
		}
		c.mu.queue = nil
		c.mu.room.Broadcast()
		_ = c.c.Close()
	}
	return err
}

// try writes without waiting, and returns how much went.
func (c *Conn) try(b []byte, fds []int) (n int, err error) {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	werr := c.raw.Write(func(fd uintptr) bool {
		for {
			if oob == nil {
				n, err = unix.Write(int(fd), b)
			} else {
				n, err = unix.SendmsgN(int(fd), b, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			}
			if err != unix.EINTR {
				return true
			}
		}
	})
	if err == unix.EAGAIN {
		return 0, nil
	}
	return max(n, 0), errors.Join(werr, err)
}

// write empties the queue; it ends when the queue is empty or the connection closed.
func (c *Conn) write() {
	for {
		c.mu.Lock()
		if c.mu.err != nil || len(c.mu.queue) == 0 {
			c.mu.writing = false
			c.mu.Unlock()
			return
		}
		batch, fds := c.batchLocked()
		c.mu.Unlock()

		var oob []byte
		if len(fds) > 0 {
			oob = unix.UnixRights(fds...)
		}
		n, _, err := c.c.WriteMsgUnix(batch, oob, nil)
		if err == nil && n < len(batch) {
			_, err = c.c.Write(batch[n:])
		}
		closeAll(fds)

		c.mu.Lock()
		c.mu.queued -= len(batch)
		c.mu.room.Broadcast()
		if err != nil {
			_ = c.failLocked(err)
		}
		c.mu.Unlock()
	}
}

// batchLocked takes the first item, and what follows as long as it has no descriptors and is small.
func (c *Conn) batchLocked() (b []byte, fds []int) {
	const limit = 64 << 10
	q := c.mu.queue
	b, fds = q[0].b, q[0].fds
	n := 1
	for n < len(q) && len(q[n].fds) == 0 && len(b)+len(q[n].b) <= limit {
		b = append(b, q[n].b...)
		n++
	}
	c.mu.queue = q[n:]
	return b, fds
}

// receiver reads bytes and collects the descriptors that come with them.
type receiver struct{ c *Conn }

func (r receiver) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*8))
	n, oobn, _, _, err := r.c.c.ReadMsgUnix(p, oob)
	if oobn > 0 {
		msgs, perr := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range msgs {
			if fds, ferr := unix.ParseUnixRights(&m); ferr == nil {
				r.c.files = append(r.c.files, fds...)
			}
		}
		err = errors.Join(err, perr)
	}
	if len(r.c.files) > 64 {
		return 0, fmt.Errorf("%w: descriptors without a frame", wire.ErrFrame)
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
