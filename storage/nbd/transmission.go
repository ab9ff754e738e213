package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// maxInFlight bounds the requests that one connection has waiting in the backend; the client's next ones wait in the socket.
	maxInFlight = 32
	// maxBuffered bounds the payloads of waiting requests of one connection in memory, in bytes.
	maxBuffered = 2 * MaxRequest
	// maxPrompt is the largest payload that is tried on the reading goroutine.
	maxPrompt = 1 << 20
	// inputSize is how much is read ahead: several small writes, so that one system call brings many.
	inputSize = 256 << 10
	// maxHeld is how much of replies is held back while there are more requests to look at.
	maxHeld = 128 << 10
)

// cutter is a connection as the transmission needs it.
type cutter interface {
	io.ReadWriter
	// cut makes reads and writes that are under way, and later ones, fail.
	cut()
}

// transmission is the second part of a connection: requests and replies.
type transmission struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	conn    cutter
	backend Backend
	prompt  Prompt  // nil if the backend is none
	source  Splicer // nil if there is none, or the connection cannot take what it gives
	direct  splicer // … the connection, then
	pipes   pipes
	terms   terms
	in      input
	ahead   ahead
	yielded time.Time
	held    []byte // replies that the reading goroutine has not sent yet
	slots   *semaphore.Weighted
	memory  *semaphore.Weighted
	wg      sync.WaitGroup
	pool    sync.Pool

	write sync.Mutex // one writer at a time on the connection
}

func newTransmission(ctx context.Context, over cutter, backend Backend, agreed terms) *transmission {
	t := &transmission{
		conn: over, backend: backend, terms: agreed, in: input{from: over, buf: make([]byte, inputSize)},
		slots: semaphore.NewWeighted(maxInFlight), memory: semaphore.NewWeighted(maxBuffered),
	}
	t.prompt, _ = backend.(Prompt)
	t.ahead.backend, _ = backend.(Starter)
	if c, ok := over.(*conn); ok && c.fd >= 0 {
		if t.source, ok = backend.(Splicer); ok {
			t.direct = c
		}
	}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	return t
}

// run takes requests until the client disconnects, breaks the protocol or the server closes; it returns when all workers
// have ended.
func (t *transmission) run() error {
	stop := context.AfterFunc(t.ctx, t.conn.cut)
	defer stop()
	err := t.receive()
	if errors.Is(err, errDisc) {
		// The document asks to finish what is in flight; what waits in the backend must not hold the connection though.
		err = t.release()
	}
	t.cancel(err)
	t.wg.Wait()
	t.pipes.close()
	if cause := context.Cause(t.ctx); errors.Is(cause, ErrHangUp) || err == nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// errDisc means that the client has said goodbye.
var errDisc = errors.New("client disconnected")

func (t *transmission) receive() error {
	for {
		// Nobody may be left waiting for an answer while we wait for a request.
		if t.in.buffered() < requestSize {
			if err := t.release(); err != nil {
				return err
			}
			t.ahead.idle()
			t.yield()
		}
		head, err := t.in.take(requestSize)
		if err != nil {
			return err
		}
		req, err := parseRequest(head)
		if err != nil {
			return err
		}
		if req.cmd == cmdDisc {
			return errDisc
		}
		if err := t.dispatch(&req); err != nil {
			return err
		}
		if len(t.held) >= maxHeld {
			if err := t.release(); err != nil {
				return err
			}
		}
	}
}

// dispatch answers the request at once or hands it to a worker of its own.
func (t *transmission) dispatch(req *request) error {
	if req.cmd == cmdWrite && req.length > MaxRequest {
		return fmt.Errorf("%w: write of %d bytes", ErrProtocol, req.length)
	}
	if no := req.check(&t.terms); no != 0 {
		if req.cmd == cmdWrite {
			if err := t.in.discard(int(req.length)); err != nil {
				return err
			}
		}
		t.held = t.appendError(t.held, req, no)
		return nil
	}
	switch req.cmd {
	case cmdWrite:
		t.ahead.wrote()
	case cmdFlush:
		t.ahead.flushed()
	}
	t.in.lean = req.cmd == cmdWrite && req.length > inputSize/2 // as the next one will be
	switch {
	case req.cmd == cmdRead && t.splices(req):
	case req.cmd == cmdWrite && req.length > inputSize/2 && t.splices(req) && req.flags&cmdFlagFUA == 0:
		if done, err := t.writeSpliced(req); done || err != nil {
			return err
		}
	case t.prompt != nil && req.cmd == cmdRead && req.length <= maxPrompt:
		if done, err := t.readAtOnce(req); done || err != nil {
			return err
		}
	case t.prompt != nil && req.cmd == cmdWrite && req.length <= inputSize/2 && req.flags&cmdFlagFUA == 0:
		return t.writeAtOnce(req)
	}
	return t.handOver(req, nil)
}

// splices says that a READ or WRITE is carried out without a copy of ours.
func (t *transmission) splices(req *request) bool {
	return t.source != nil && req.length >= minSplice && req.length <= maxSplice
}

// readAtOnce lets the backend read straight into the replies that are held.
func (t *transmission) readAtOnce(req *request) (done bool, err error) {
	if len(t.held) > 0 && len(t.held)+int(req.length) > maxHeld+replyHead {
		if err := t.release(); err != nil {
			return false, err
		}
	}
	before := len(t.held)
	out, payload := t.appendRead(t.held, req)
	done, err = t.prompt.TryReadAt(payload, int64(req.off))
	switch {
	case !done:
		t.held = out[:before] // keeps what has grown
		return false, nil
	case errors.Is(err, ErrHangUp):
		return true, err
	case err != nil:
		t.held = t.appendError(out[:before], req, errno(err))
	default:
		t.held = out
	}
	return true, nil
}

// writeAtOnce lets the backend write straight from what was received; if it would have to wait, a worker gets a copy.
func (t *transmission) writeAtOnce(req *request) error {
	if t.in.buffered() < int(req.length) {
		if err := t.release(); err != nil {
			return err
		}
	}
	payload, err := t.in.take(int(req.length))
	if err != nil {
		return err
	}
	done, err := t.prompt.TryWriteAt(payload, int64(req.off))
	switch {
	case !done:
		return t.handOver(req, payload)
	case errors.Is(err, ErrHangUp):
		return err
	case err != nil:
		t.held = t.appendError(t.held, req, errno(err))
	default:
		t.held = appendSimple(t.held, req, 0)
	}
	return nil
}

// handOver gives the request to a worker, with the payload of a write if that has been received already.
func (t *transmission) handOver(req *request, payload []byte) error {
	size := int64(0)
	if req.cmd == cmdRead || req.cmd == cmdWrite {
		size = int64(req.length)
	}
	if err := t.acquire(t.slots, 1); err != nil {
		return err
	}
	if err := t.acquire(t.memory, size); err != nil {
		t.slots.Release(1)
		return err
	}
	w := t.worker(int(size) + replyHead)
	w.req = *req
	release := func() {
		t.pool.Put(w)
		t.memory.Release(size)
		t.slots.Release(1)
	}
	if req.cmd == cmdWrite {
		if err := t.fill(w.buf[:size], payload); err != nil {
			release()
			return err
		}
	}
	t.wg.Go(func() {
		defer release()
		if err := t.handle(w); err != nil {
			t.cancel(err)
		}
	})
	t.makeWay()
	return nil
}

// makeWay lets the worker that was just started go on with this thread, if there is nothing else to look at: else it would wait until
// another thread is woken for it, or, where all processors are busy, until the runtime notices that this one sleeps in a read.
func (t *transmission) makeWay() {
	if t.in.buffered() < requestSize {
		runtime.Gosched()
	}
}

// yieldEvery is half of how long a goroutine may have its processor before the runtime takes it away in a system call, at once.
const yieldEvery = 5 * time.Millisecond

// yield has the runtime see this goroutine scheduled again. Of one that was not for 10 ms it takes the processor in each read,
// after 20 µs of waiting; who comes out of the read then has to find another one, and to wake the runtime's monitor.
func (t *transmission) yield() {
	if now := time.Now(); now.Sub(t.yielded) > yieldEvery {
		t.yielded = now
		runtime.Gosched()
	}
}

// acquire takes n, and sends what is held before it waits.
func (t *transmission) acquire(s *semaphore.Weighted, n int64) error {
	if s.TryAcquire(n) {
		return nil
	}
	if err := t.release(); err != nil {
		return err
	}
	return s.Acquire(t.ctx, n)
}

// fill copies the payload, or takes it from the connection if it has not come yet.
func (t *transmission) fill(p, payload []byte) error {
	if payload != nil {
		copy(p, payload)
		return nil
	}
	if t.in.buffered() < len(p) {
		if err := t.release(); err != nil {
			return err
		}
	}
	return t.in.readFull(p)
}

// worker is one request that may have to wait, with room for its payload and its reply.
type worker struct {
	req request
	buf []byte
}

func (t *transmission) worker(size int) *worker {
	w, _ := t.pool.Get().(*worker)
	if w == nil {
		w = &worker{}
	}
	if cap(w.buf) < size {
		w.buf = make([]byte, size, max(size, 4096+replyHead))
	}
	w.buf = w.buf[:cap(w.buf)]
	return w
}

// handle carries out one request and answers it; an error means that the connection is over.
func (t *transmission) handle(w *worker) error {
	if w.req.cmd == cmdRead && t.splices(&w.req) {
		if done, err := t.readSpliced(w); done || err != nil {
			return err
		}
	}
	reply, err := t.carryOut(w)
	if errors.Is(err, ErrHangUp) || t.ctx.Err() != nil {
		return ErrHangUp
	}
	if err != nil {
		reply = t.appendError(w.buf[:0], &w.req, errno(err))
	}
	return t.send(reply)
}

// carryOut makes the reply to the request, in the worker's buffer.
func (t *transmission) carryOut(w *worker) ([]byte, error) {
	req := &w.req
	off, length, fua := int64(req.off), int64(req.length), req.flags&cmdFlagFUA != 0
	var err error
	switch req.cmd {
	case cmdRead:
		reply, payload := t.appendRead(w.buf[:0], req)
		return reply, t.backend.ReadAt(t.ctx, payload, off)
	case cmdWrite:
		err = t.backend.WriteAt(t.ctx, w.buf[:length], off, fua)
	case cmdTrim:
		err = t.backend.Trim(t.ctx, off, length, fua)
	case cmdWriteZeroes:
		allocate := req.flags&cmdFlagNoHole != 0
		if fast, ok := t.backend.(FastZeroer); ok && req.flags&cmdFlagFastZero != 0 {
			err = fast.ZeroFast(t.ctx, off, length, allocate, fua)
		} else {
			err = t.backend.Zero(t.ctx, off, length, allocate, fua)
		}
	case cmdFlush:
		err = t.backend.Flush(t.ctx)
	case cmdCache:
		if cacher, ok := t.backend.(Cacher); ok {
			err = cacher.Cache(t.ctx, off, length)
		}
	case cmdBlockStatus:
		return t.blockStatus(w)
	}
	// Also on a structured connection: only READ and BLOCK_STATUS must be answered in chunks there.
	return appendSimple(w.buf[:0], req, 0), err
}

func (t *transmission) blockStatus(w *worker) ([]byte, error) {
	req := &w.req
	most := maxExtents
	if req.flags&cmdFlagReqOne != 0 {
		most = 1
	}
	extents, err := t.backend.Extents(t.ctx, int64(req.off), int64(req.length), most)
	if err == nil && len(extents) == 0 {
		err = errors.New("backend described nothing")
	}
	if err != nil {
		return nil, err
	}
	return appendExtents(w.buf[:0], req, extents, most), nil
}

// release sends what is held.
func (t *transmission) release() error {
	if len(t.held) == 0 {
		return nil
	}
	err := t.send(t.held)
	t.held = t.held[:0]
	return err
}

func (t *transmission) send(reply []byte) error {
	t.write.Lock()
	defer t.write.Unlock()
	_, err := t.conn.Write(reply)
	return err
}
