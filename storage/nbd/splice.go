package nbd

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// minSplice is the smallest payload that is worth a pipe, in bytes.
	minSplice = 64 << 10
	// maxSplice is what a pipe is asked to hold, in bytes.
	maxSplice = 1 << 20
)

// Splicer is what a [Backend] may offer besides, if it is a file whose content may come and go without being looked at. The next
// bytes of a pipe are given by its descriptor.
type Splicer interface {
	// SpliceAt puts n bytes from off on into a pipe that is empty, or as many as it takes.
	SpliceAt(pipe, n int, off int64) (int, error)
	// SpliceFrom writes n bytes, which the pipe holds.
	SpliceFrom(pipe, n int, off int64) error
}

// pipes are for use again; each is empty.
type pipes struct {
	mu   sync.Mutex
	free []pipePair
}

// pipePair is a pipe: what is written to in comes out of out.
type pipePair struct{ out, in int }

// take returns an empty pipe of maxSplice; false where there is none to be had.
func (p *pipes) take() (pipePair, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.free) - 1; last >= 0 {
		pair := p.free[last]
		p.free = p.free[:last]
		return pair, true
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC) != nil {
		return pipePair{}, false
	}
	pair := pipePair{fds[0], fds[1]}
	if n, err := unix.FcntlInt(uintptr(pair.in), unix.F_SETPIPE_SZ, maxSplice); err != nil || n < maxSplice {
		pair.close()
		return pipePair{}, false
	}
	return pair, true
}

// give takes a pipe back that is empty again.
func (p *pipes) give(pair pipePair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, pair)
}

func (p *pipes) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pair := range p.free {
		pair.close()
	}
	p.free = nil
}

func (p pipePair) close() {
	_ = unix.Close(p.out)
	_ = unix.Close(p.in)
}

// splicer is a connection that takes what is in a pipe.
type splicer interface {
	// splice sends head, and n bytes of the pipe behind it.
	splice(head []byte, pipe, n int) error
	// spliceInto waits for something to come, and puts at most n bytes of it into the pipe, which is empty.
	spliceInto(pipe, n int) (int, error)
}

// readSpliced answers a READ without a copy of ours; done is false if that cannot be done, and nothing has happened then.
func (t *transmission) readSpliced(w *worker) (done bool, err error) {
	n := int(w.req.length)
	pair, ok := t.pipes.take()
	if !ok {
		return false, nil
	}
	got, err := t.source.SpliceAt(pair.in, n, int64(w.req.off))
	if errors.Is(err, ErrHangUp) {
		pair.close()
		return true, err
	}
	if err != nil || got != n {
		pair.close() // with what is in it; who reads into memory will meet the error again
		return false, nil
	}
	head := t.appendReadHead(w.buf[:0], &w.req)
	t.write.Lock()
	defer t.write.Unlock()
	if err := t.direct.splice(head, pair.out, n); err != nil {
		pair.close()
		return true, err
	}
	t.pipes.give(pair)
	return true, nil
}

// writeSpliced carries out a WRITE by way of a pipe, while its payload comes and is still in the processor's cache; done is false if
// that cannot be done, and nothing has happened then.
func (t *transmission) writeSpliced(req *request) (done bool, err error) {
	pair, ok := t.pipes.take()
	if !ok {
		return false, nil
	}
	if err := t.release(); err != nil {
		return true, err
	}
	off, left := int64(req.off), int(req.length)
	var failed error
	if ahead := min(left, t.in.buffered()); ahead > 0 {
		payload, err := t.in.take(ahead)
		if err != nil {
			return true, err
		}
		failed = t.backend.WriteAt(t.ctx, payload, off, false)
		off, left = off+int64(ahead), left-ahead
	}
	for left > 0 && failed == nil {
		n, err := t.direct.spliceInto(pair.in, left)
		if err != nil {
			pair.close()
			return true, err
		}
		failed = t.source.SpliceFrom(pair.out, n, off)
		off, left = off+int64(n), left-n
	}
	if failed == nil {
		t.pipes.give(pair)
		t.held = appendSimple(t.held, req, 0)
		return true, nil
	}
	pair.close() // with what is in it
	if errors.Is(failed, ErrHangUp) {
		return true, failed
	}
	t.held = t.appendError(t.held, req, errno(failed))
	return true, t.in.discard(left)
}

// spliceInto implements splicer.
func (c *conn) spliceInto(pipe, n int) (int, error) {
	for {
		got, err := unix.Splice(c.fd, nil, pipe, nil, n, unix.SPLICE_F_MOVE)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("splice", err)
		case got == 0:
			return 0, unexpected(io.EOF, true)
		default:
			return int(got), nil
		}
	}
}

// splice implements splicer.
func (c *conn) splice(head []byte, pipe, n int) error {
	for done := 0; done < len(head); {
		sent, err := unix.SendmsgN(c.fd, head[done:], nil, nil, unix.MSG_NOSIGNAL|unix.MSG_MORE)
		done += max(sent, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("send", err)
		}
	}
	for n > 0 {
		sent, err := unix.Splice(pipe, nil, c.fd, nil, n, unix.SPLICE_F_MOVE)
		n -= int(max(sent, 0))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("splice", err)
		case sent == 0:
			return io.ErrUnexpectedEOF
		}
	}
	return nil
}
