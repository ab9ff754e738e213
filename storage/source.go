package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/godwit-project/godwit/storage/changes"
	"github.com/godwit-project/godwit/storage/wire"
)

const (
	// convergedBytes is a remainder that counts as small on any link.
	convergedBytes = 1 << 20
)

// Dialer makes a fresh, authenticated connection to the agent that holds the replica.
type Dialer = func(context.Context) (net.Conn, error)

// source is the sending half of a replication session: it lives from Replicate to Unfence, Delete or Close and makes one
// link after another.
//
// What the replica lacks is always in one of two places: in dirty, or in the flights of the link. In async mode a writer
// marks what it wrote and the copier reads it later. When mirroring, a writer puts its data on the stream itself. Both do so
// holding the range, so the stream has the order of the file.
type source struct {
	v       *Volume
	epoch   uint64
	session uint64
	enc     *wire.Encoder
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	// syncTurn is held by the one who is turning a link synchronous.
	syncTurn chan struct{}

	mu          sync.Mutex
	changed     sync.Cond
	dial        Dialer
	dirty       *changes.Set
	link        *link // nil while down
	connections uint64
	linked      bool   // has been up once
	boot        uint64 // of the replica's machine
	downSince   time.Time
	mirroring   bool // writes go on the stream themselves and wait for it
	inSync      bool // … and nothing older is missing
	wantSync    bool // return to sync by itself after a reconnect
	completed   bool // the replica has confirmed the completion marker
	stopped     bool
	refused     error // the session is over for good
	trouble     error
	copied      int64
	shipped     int64
	rate        meter
}

func newSource(v *Volume, epoch uint64, dial Dialer) (*source, error) {
	enc, err := wire.NewEncoder()
	if err != nil {
		return nil, err
	}
	s := &source{
		v: v, epoch: epoch, session: rand.Uint64(), enc: enc, dial: dial,
		dirty: changes.NewSet(v.size), downSince: time.Now(), syncTurn: make(chan struct{}, 1),
	}
	s.changed.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// scan marks all data of the file. Writers mark theirs already.
func (s *source) scan() error {
	for off := int64(0); off < s.v.size; {
		start, end, ok, err := nextData(s.v.file, off, s.v.size)
		if err != nil || !ok {
			return err
		}
		s.mark(start, end-start)
		off = end
	}
	return nil
}

// mark says that the replica lacks the range.
func (s *source) mark(off, length int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty.Mark(off, length)
	s.changed.Broadcast()
}

// stop ends the session and returns when nothing of it runs any more. Writers that wait for it go on.
func (s *source) stop() {
	s.mu.Lock()
	s.stopped = true
	l := s.link
	s.changed.Broadcast()
	s.mu.Unlock()
	s.cancel()
	if l != nil {
		s.breakLink(l, ErrClosed)
	}
	s.wg.Wait()
}

// run makes links until the session is stopped or refused.
func (s *source) run() {
	backoff := s.v.opts.Backoff
	for s.ctx.Err() == nil {
		up, err := s.connect()
		if s.ctx.Err() != nil {
			return
		}
		if up {
			backoff = s.v.opts.Backoff
		}
		s.mu.Lock()
		if err != nil {
			s.trouble = err
		}
		if errors.Is(err, ErrRefused) {
			s.refused = err
		}
		refused := s.refused
		s.changed.Broadcast()
		s.mu.Unlock()
		if refused != nil {
			s.v.log.Info("replication is over", "epoch", s.epoch, "err", refused)
			return
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(100*s.v.opts.Backoff, backoff*2)
	}
}

// connect makes one link and serves it until it breaks; up says that it came to be.
func (s *source) connect() (up bool, err error) {
	s.mu.Lock()
	dial := s.dial
	s.connections++
	number := s.connections
	s.mu.Unlock()
	conn, err := dial(s.ctx)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrLink, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	defer stop()
	r, err := wire.NewReader(conn)
	if err != nil {
		return false, err
	}
	defer r.Close()
	welcome, err := s.greet(conn, r, number)
	if err != nil {
		return false, err
	}
	l := s.linkUp(conn, welcome)
	if l == nil {
		return false, ErrClosed
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.send(l) })
	wg.Go(func() { s.copy(l) })
	wg.Go(func() { s.watch(l) })
	wg.Go(func() { s.resynchronize(l) })
	s.receive(l, r)
	wg.Wait()
	return true, nil
}

// greet says hello and waits for the welcome.
func (s *source) greet(conn net.Conn, r *wire.Reader, number uint64) (wire.Header, error) {
	_ = conn.SetDeadline(time.Now().Add(s.v.opts.LinkTimeout))
	hello := wire.Hello{Version: wire.Version, Session: s.session, Connection: number, Size: uint64(s.v.size), Name: s.v.name}
	f := s.enc.Encode(wire.Header{Type: wire.TypeHello, Epoch: s.epoch}, hello.Append(nil))
	_, err := conn.Write(f.B)
	f.Release()
	if err != nil {
		return wire.Header{}, fmt.Errorf("%w: say hello: %w", ErrLink, err)
	}
	h, content, err := r.Next()
	switch {
	case err != nil:
		return h, fmt.Errorf("%w: wait for the welcome: %w", ErrLink, err)
	case h.Type == wire.TypeReject:
		return h, fmt.Errorf("%w: %s", ErrRefused, content)
	case h.Type != wire.TypeWelcome || h.Epoch != s.epoch:
		return h, fmt.Errorf("%w: type %d of epoch %d instead of a welcome", wire.ErrCorrupt, h.Type, h.Epoch)
	}
	return h, conn.SetDeadline(time.Time{})
}

// linkUp puts a new link in its place and decides what the replica lacks: what is known to be dirty, or, if it is not the
// replica that we left, everything (holes travel as one frame each, so that is cheap for them).
func (s *source) linkUp(conn net.Conn, welcome wire.Header) *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	fresh, complete := welcome.Seq&wire.WelcomeFresh != 0, welcome.Seq&wire.WelcomeComplete != 0
	switch {
	case complete && *s.v.role.Load() == RoleFenced:
		// The marker was sent after we were fenced, and nothing was written since: it is true.
		s.dirty.Clear(0, s.v.size)
		s.completed = true
	case !s.linked && !fresh, s.linked && (fresh || welcome.Offset != s.boot):
		s.dirty.Mark(0, s.v.size)
	}
	s.linked, s.boot = true, welcome.Offset
	l := &link{conn: conn, next: 1, window: firstWindow, progress: time.Now(), done: make(chan struct{})}
	l.ready.L = &s.mu
	s.link, s.trouble = l, nil
	s.changed.Broadcast()
	return l
}

// watch breaks the link when the replica is silent for too long.
func (s *source) watch(l *link) {
	tick := time.NewTicker(min(100*time.Millisecond, s.v.opts.SyncTimeout/4))
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-l.done:
			return
		case now := <-tick.C:
			if err := s.late(l, now); err != nil {
				s.breakLink(l, err)
				return
			}
		}
	}
}

func (s *source) isBroken(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.broken
}

// await waits under mu until done says so or fails, the session ends, or the context does.
func (s *source) await(ctx context.Context, done func() (bool, error)) error {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if s.refused != nil {
			return s.refused
		}
		if s.stopped {
			return fmt.Errorf("%w: it was stopped", ErrNoSession)
		}
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), s.trouble)
		}
		s.changed.Wait()
	}
}

// command puts a frame without content of the volume on the stream; under mu.
func (s *source) commandLocked(l *link, typ wire.Type) uint64 {
	h := wire.Header{Type: typ, Flags: wire.FlagSync, Epoch: s.epoch, Seq: l.next}
	var content []byte
	if typ == wire.TypeComplete {
		h.Offset = l.frames
		content = binary.BigEndian.AppendUint64(nil, l.content)
	}
	f := &flight{frame: s.enc.Encode(h, content)}
	l.reserve(f, true)
	l.ready.Signal()
	return f.seq
}

// remainingLocked is what the replica lacks, what is under way included, in bytes.
func (s *source) remainingLocked() int64 {
	n := min(s.dirty.Count()*changes.BlockSize, s.v.size)
	if s.link != nil {
		n += s.link.underway
	}
	return n
}

func (s *source) report(st *Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Mode = ModeAsync
	if s.inSync {
		st.Mode = ModeSync
	}
	st.Dirty, st.Copied, st.Shipped, st.Rate = s.remainingLocked(), s.copied, s.shipped, s.rate.perSecond
	st.Total = st.Copied + st.Dirty
	st.Connected = s.link != nil
	st.Complete = st.Complete || s.completed
	if s.trouble != nil && st.Err == "" {
		st.Err = s.trouble.Error()
	}
}

// meter estimates a speed.
type meter struct {
	perSecond int64
	since     time.Time
	bytes     int64
}

// meterSpan is how long a sample is.
const meterSpan = 100 * time.Millisecond

func (m *meter) add(n int64, now time.Time) {
	m.bytes += n
	took := now.Sub(m.since)
	if m.since.IsZero() || took > 10*meterSpan { // nothing to ship for a while says nothing of the link
		m.since, m.bytes = now, 0
		return
	}
	if took < meterSpan {
		return
	}
	sample := int64(float64(m.bytes) / took.Seconds())
	if m.perSecond == 0 {
		m.perSecond = sample
	}
	m.perSecond += (sample - m.perSecond) * 3 / 10
	m.since, m.bytes = now, 0
}
