package storage

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/godwit-project/godwit/storage/wire"
)

const (
	// minWindow and maxWindow bound the bulk bytes under way, as they are on the wire.
	minWindow   = frameRun
	firstWindow = 256 << 10
	maxWindow   = 16 << 20
	// queueTarget is how much later than the quickest answer those of bulk frames may come before less is sent: a mirrored
	// write waits no longer behind bulk.
	queueTarget = 40 * time.Millisecond
	// frameCost is counted for frames without payload, so that zeroes too are bounded.
	frameCost = 512
)

// flight is a frame that the replica has not confirmed.
type flight struct {
	seq         uint64
	off, length int64 // length 0: nothing of the volume is lost with it
	frame       *wire.Frame
	cost        int64 // bulk bytes on the wire
	bulk        bool
	since       time.Time
}

// link is one connection of a session. Its fields are guarded by the session's mu.
type link struct {
	conn      net.Conn
	ready     sync.Cond // the first of outbox is encoded, or the link is broken
	flights   []*flight // unconfirmed, in order
	outbox    []*flight // those of them that were not sent yet
	next      uint64    // the next sequence number
	applied   uint64
	durable   uint64
	syncSeq   uint64 // the last frame that someone waits for
	syncSince time.Time
	progress  time.Time
	frames    uint64 // data and zero frames, for the completion marker
	content   uint64 // their bytes
	underway  int64  // content not confirmed, bytes
	bulk      int64  // bulk not confirmed, bytes on the wire
	window    int64
	quickest  time.Duration
	slowed    time.Time // when the window was last cut
	marked    bool      // the completion marker was sent
	broken    bool
	why       error         // it broke
	done      chan struct{} // closed when it breaks
}

// lost is the error of a verb that needed this link.
func (l *link) lost() error { return fmt.Errorf("%w: %w", ErrLink, l.why) }

// reserve gives the next place in the stream to a frame that is encoded afterwards; the caller holds the frame's range, so
// that the order of places is the order of writes.
func (l *link) reserve(f *flight, sync bool) {
	f.since = time.Now()
	if len(l.flights) == 0 {
		l.progress = f.since
	}
	f.seq = l.next
	l.next++
	if f.length > 0 {
		l.frames++
		l.content += uint64(f.length)
		l.underway += f.length
	}
	if sync {
		if l.durable >= l.syncSeq {
			l.syncSince = f.since
		}
		l.syncSeq = f.seq
	}
	if f.bulk {
		f.cost = frameCost
		l.bulk += f.cost
	}
	l.flights = append(l.flights, f)
	l.outbox = append(l.outbox, f)
}

// publish adds the encoded frame to its place; on a broken link it is dropped.
func (s *source) publish(l *link, f *flight, frame *wire.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.broken {
		frame.Release()
		return
	}
	f.frame = frame
	if f.bulk {
		l.bulk += int64(len(frame.B)) - f.cost
		f.cost = int64(len(frame.B))
	}
	if l.outbox[0] == f {
		l.ready.Signal()
	}
}

// send writes the frames of the outbox in order until the link breaks.
func (s *source) send(l *link) {
	w := bufio.NewWriterSize(l.conn, 64<<10)
	for {
		frame := s.takeFrame(l, w.Buffered() == 0)
		var err error
		switch {
		case frame != nil:
			_, err = w.Write(frame.B)
			frame.Release()
		case w.Buffered() > 0:
			err = w.Flush()
		default:
			return
		}
		if err != nil {
			s.breakLink(l, fmt.Errorf("send: %w", err))
			return
		}
	}
}

// takeFrame returns the next frame to send; nil when there is none at the moment, or with wait only when the link is broken.
func (s *source) takeFrame(l *link, wait bool) *wire.Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !l.broken {
		if len(l.outbox) > 0 && l.outbox[0].frame != nil {
			f := l.outbox[0]
			l.outbox[0] = nil
			l.outbox = l.outbox[1:]
			frame := f.frame
			f.frame = nil
			s.shipped += int64(len(frame.B))
			return frame
		}
		if !wait {
			return nil
		}
		l.ready.Wait()
	}
	return nil
}

// receive takes the replica's answers until the link breaks.
func (s *source) receive(l *link, r *wire.Reader) {
	for {
		h, content, err := r.Next()
		if err == nil && h.Epoch != s.epoch {
			err = fmt.Errorf("%w: answer of epoch %d", wire.ErrCorrupt, h.Epoch)
		}
		if err == nil {
			switch h.Type {
			case wire.TypeAck:
				err = s.acked(l, h.Seq, h.Offset)
			case wire.TypeCompleted:
				s.markerAcked()
			case wire.TypeReject:
				err = fmt.Errorf("%w: %s", ErrRefused, content)
			default:
				err = fmt.Errorf("%w: type %d from a replica", wire.ErrCorrupt, h.Type)
			}
		}
		if err != nil {
			s.breakLink(l, fmt.Errorf("receive: %w", err))
			return
		}
	}
}

func (s *source) acked(l *link, applied, durable uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if applied >= l.next || durable > applied || applied < l.applied || durable < l.durable {
		return fmt.Errorf("%w: acknowledgement of %d/%d after %d/%d", wire.ErrCorrupt, applied, durable, l.applied, l.durable)
	}
	now := time.Now()
	l.progress = now
	if durable > l.durable {
		l.syncSince = now
	}
	l.applied, l.durable = applied, durable
	for len(l.flights) > 0 && l.flights[0].seq <= applied {
		f := l.flights[0]
		l.flights[0] = nil
		l.flights = l.flights[1:]
		l.underway -= f.length
		s.copied += f.length
		s.rate.add(f.length, now)
		if f.bulk {
			l.bulk -= f.cost
			l.pace(f, now)
		}
	}
	s.changed.Broadcast()
	return nil
}

// pace fits the window to the link: it grows while answers come about as quickly as the quickest did, and shrinks, at most
// once in such a time, when they come more than queueTarget later.
func (l *link) pace(f *flight, now time.Time) {
	took := now.Sub(f.since)
	if l.quickest == 0 || took < l.quickest {
		l.quickest = took
	}
	switch {
	case took > l.quickest+queueTarget:
		if now.Sub(l.slowed) > took {
			l.window = max(minWindow, l.window*3/4)
			l.slowed = now
		}
	case l.slowed.IsZero():
		l.window = min(maxWindow, l.window+f.cost)
	default:
		l.window = min(maxWindow, l.window+f.cost*frameRun/l.window)
	}
}

// late says that the replica has been silent for too long on something it owes an answer.
func (s *source) late(l *link, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inSync && l.durable < l.syncSeq && now.Sub(l.syncSince) > s.v.opts.SyncTimeout {
		return fmt.Errorf("%w: no confirmation of a synchronous write for %v", ErrLink, s.v.opts.SyncTimeout)
	}
	owed := len(l.flights) > 0 || l.durable < l.syncSeq
	if owed && now.Sub(l.progress) > s.v.opts.LinkTimeout {
		return fmt.Errorf("%w: no answer for %v", ErrLink, s.v.opts.LinkTimeout)
	}
	return nil
}

// breakLink ends a link: whatever was not confirmed is dirty again, and writes that waited for it go on.
func (s *source) breakLink(l *link, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.broken {
		return
	}
	l.broken = true
	_ = l.conn.Close()
	for _, f := range l.flights {
		s.dirty.Mark(f.off, f.length)
		if f.frame != nil {
			f.frame.Release()
			f.frame = nil
		}
	}
	l.flights, l.outbox, l.underway = nil, nil, 0
	if s.link == l {
		s.link = nil
		s.downSince = time.Now()
		if s.inSync {
			why = fmt.Errorf("fell back from sync to async: %w", why)
		}
		s.inSync, s.mirroring = false, false
	}
	if errors.Is(why, ErrRefused) {
		s.refused = why
	}
	s.trouble, l.why = why, why
	close(l.done)
	l.ready.Broadcast()
	s.changed.Broadcast()
}
