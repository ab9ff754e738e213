package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/sync/semaphore"
)

const (
	// maxInFlight bounds the requests that one connection has in work; the client's next ones wait in the socket.
	maxInFlight = 32
	// maxBuffered bounds the payloads of one connection in memory, in bytes.
	maxBuffered = 2 * MaxRequest
)

// transmission is the second part of a connection: requests and replies.
type transmission struct {
	ctx        context.Context
	cancel     context.CancelCauseFunc
	conn       net.Conn
	backend    Backend
	size       int64
	structured bool
	meta       bool
	slots      *semaphore.Weighted
	memory     *semaphore.Weighted
	wg         sync.WaitGroup
	pool       sync.Pool

	write sync.Mutex // one reply at a time on the connection
}

func newTransmission(ctx context.Context, conn net.Conn, backend Backend, n *negotiation) *transmission {
	t := &transmission{
		conn: conn, backend: backend, size: n.size, structured: n.structured, meta: n.meta,
		slots: semaphore.NewWeighted(maxInFlight), memory: semaphore.NewWeighted(maxBuffered),
	}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	return t
}

// run takes requests until the client disconnects, breaks the protocol or the server closes; it returns when all workers
// have ended.
func (t *transmission) run() error {
	stop := context.AfterFunc(t.ctx, func() { _ = t.conn.Close() })
	defer stop()
	err := t.receive()
	if errors.Is(err, errDisc) {
		// The document asks to finish what is in flight; what waits in the backend must not hold the connection though.
		err = nil
	}
	t.cancel(err)
	t.wg.Wait()
	if cause := context.Cause(t.ctx); err == nil || errors.Is(cause, ErrHangUp) {
		return cause
	}
	return err
}

// errDisc means that the client has said goodbye.
var errDisc = errors.New("client disconnected")

func (t *transmission) receive() error {
	r := bufio.NewReaderSize(t.conn, 64<<10)
	var b [requestSize]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		req, err := parseRequest(b[:])
		if err != nil {
			return err
		}
		if req.cmd == cmdDisc {
			return errDisc
		}
		if err := t.dispatch(r, req); err != nil {
			return err
		}
	}
}

// dispatch reads the request's payload and hands it to a worker of its own.
func (t *transmission) dispatch(r io.Reader, req request) error {
	no := req.check(t.size, t.structured, t.meta)
	if req.cmd == cmdWrite && req.length > MaxRequest {
		return fmt.Errorf("%w: write of %d bytes", ErrProtocol, req.length)
	}
	if no != 0 {
		if req.cmd == cmdWrite {
			if _, err := io.CopyN(io.Discard, r, int64(req.length)); err != nil {
				return err
			}
		}
		return t.fail(&req, no)
	}
	if err := t.slots.Acquire(t.ctx, 1); err != nil {
		return err
	}
	var buf *[]byte
	if req.cmd == cmdRead || req.cmd == cmdWrite {
		if err := t.memory.Acquire(t.ctx, int64(req.length)); err != nil {
			t.slots.Release(1)
			return err
		}
		buf = t.buffer(int(req.length))
	}
	release := func() {
		if buf != nil {
			t.pool.Put(buf)
			t.memory.Release(int64(req.length))
		}
		t.slots.Release(1)
	}
	if req.cmd == cmdWrite {
		if _, err := io.ReadFull(r, *buf); err != nil {
			release()
			return err
		}
	}
	t.wg.Go(func() {
		defer release()
		if err := t.handle(&req, buf); err != nil {
			t.cancel(err)
		}
	})
	return nil
}

func (t *transmission) buffer(n int) *[]byte {
	if b, ok := t.pool.Get().(*[]byte); ok && cap(*b) >= n {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, max(n, 4096))
	return &b
}

// handle carries out one request and answers it; an error means that the connection is over.
func (t *transmission) handle(req *request, buf *[]byte) error {
	var err error
	var extents []Extent
	off, length, fua := int64(req.off), int64(req.length), req.flags&cmdFlagFUA != 0
	switch req.cmd {
	case cmdRead:
		err = t.backend.ReadAt(t.ctx, *buf, off)
	case cmdWrite:
		err = t.backend.WriteAt(t.ctx, *buf, off, fua)
	case cmdTrim:
		err = t.backend.Trim(t.ctx, off, length, fua)
	case cmdWriteZeroes:
		err = t.backend.Zero(t.ctx, off, length, req.flags&cmdFlagNoHole != 0, fua)
	case cmdFlush:
		err = t.backend.Flush(t.ctx)
	case cmdBlockStatus:
		most := maxExtents
		if req.flags&cmdFlagReqOne != 0 {
			most = 1
		}
		extents, err = t.backend.Extents(t.ctx, off, length, most)
		if err == nil && len(extents) == 0 {
			err = errors.New("backend described nothing")
		}
	}
	switch {
	case errors.Is(err, ErrHangUp) || t.ctx.Err() != nil:
		return ErrHangUp
	case err != nil:
		return t.fail(req, errno(err))
	case req.cmd == cmdRead && t.structured:
		return t.chunk(req, chunkOffsetData, binary.BigEndian.AppendUint64(make([]byte, 0, 8), req.off), *buf)
	case req.cmd == cmdRead:
		return t.simple(req, 0, *buf)
	case req.cmd == cmdBlockStatus:
		return t.chunk(req, chunkBlockStatus, encodeExtents(extents, length, req.flags&cmdFlagReqOne != 0), nil)
	default: // also on a structured connection: only READ and BLOCK_STATUS must be answered in chunks there
		return t.simple(req, 0, nil)
	}
}

func (t *transmission) fail(req *request, no uint32) error {
	if t.structured && (req.cmd == cmdRead || req.cmd == cmdBlockStatus) {
		b := binary.BigEndian.AppendUint32(make([]byte, 0, 6), no)
		return t.chunk(req, chunkError, append(b, 0, 0), nil)
	}
	return t.simple(req, no, nil)
}

func (t *transmission) simple(req *request, no uint32, data []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 16), magicSimple)
	b = binary.BigEndian.AppendUint32(b, no)
	return t.send(binary.BigEndian.AppendUint64(b, req.cookie), data)
}

func (t *transmission) chunk(req *request, kind uint16, head, data []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 20+len(head)), magicStructured)
	b = binary.BigEndian.AppendUint16(b, chunkDone)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, req.cookie)
	b = binary.BigEndian.AppendUint32(b, uint32(len(head)+len(data)))
	return t.send(append(b, head...), data)
}

func (t *transmission) send(head, data []byte) error {
	t.write.Lock()
	defer t.write.Unlock()
	if len(data) == 0 {
		_, err := t.conn.Write(head)
		return err
	}
	buffers := net.Buffers{head, data}
	_, err := buffers.WriteTo(t.conn)
	return err
}

// encodeExtents makes the payload of a block status chunk. Only the last extent may reach beyond the request, and not if
// one alone was asked for; so all are cut to it.
func encodeExtents(extents []Extent, length int64, one bool) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+8*len(extents)), contextID)
	for i, e := range extents {
		n := min(e.Length, length)
		if n <= 0 || one && i > 0 {
			break
		}
		length -= n
		flags := uint32(0)
		if e.Hole {
			flags |= 1
		}
		if e.Zero {
			flags |= 2
		}
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = binary.BigEndian.AppendUint32(b, flags)
	}
	return b
}
