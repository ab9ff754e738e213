package dvs

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/godwit-project/godwit/dvs/ring"
	"github.com/godwit-project/godwit/dvs/wire"
)

// A waiting goroutine polls the rings itself for a moment, because a wake-up by the kernel costs several times what an answer by shared
// memory takes; then it sleeps, and the bell wakes one of those who sleep, which polls for all. Whether spinning pays is learnt from
// whether it did: on a machine whose processors are busy it does not.
const (
	spinTime   = 25 * time.Microsecond  // for each of those who talk at once
	crowdMost  = 8                      // of whom so many count
	spinMost   = 500 * time.Microsecond // until somebody sleeps nevertheless
	scoreTop   = 16
	scoreGain  = 1  // for a spin that was worth it
	scoreLoss  = 2  // for one that was not: it takes longer than to sleep and be woken
	scoreTry   = 64 // with the lowest score, after so many waits some spin nevertheless
	scoreSome  = 4
	restRounds = 8  // rounds until nobody need be woken by a stream any more
	holdRounds = 8  // rounds until what is held is written
	waveRounds = 32 // rounds until those who have not asked are not waited for
	checkTime  = 16 // rounds between two looks at the clock
)

// spin is the state of waiting, guarded by the session's lock.
type spin struct {
	spinners, sleepers int
	waiting            int // goroutines in await: the page stays mapped for them
	score, skipped     int
	crowd              int       // how many talk at once, about: those who wait here, or messages since somebody waited
	noted              uint64    // visits by then
	polled             time.Time // when somebody began to poll
	rested             time.Time // when nobody had for a while
	excused            int       // polls in vain that do not count after that: the peer sleeps too
	pieces             uint64    // parts of frames that came by streams
	visits             uint64    // channels that had something
	linger             int       // the score of spinning for others
	waking             int       // waiters that have been woken and have not run yet
	expected, wave     int       // keen callers of this wave that have been answered and have not asked again
}

// waiter is somebody who waits for one event of a session.
type waiter struct {
	s       *Session
	ready   atomic.Bool
	leading atomic.Bool   // it reads the bell, so that only the bell wakes it
	wake    chan struct{} // of capacity 1
	waits   bool          // it is in await; guarded by the session's lock
	woken   bool          // and has been woken there
}

func newWaiter(s *Session) *waiter { return &waiter{s: s, wake: make(chan struct{}, 1)} }

// signal is called under the session's lock.
func (w *waiter) signal() {
	w.ready.Store(true)
	if w.waits && !w.woken {
		w.woken = true
		w.s.waking++
	}
	if w.leading.Load() {
		if b := w.s.bell; b != nil {
			ring.Kick(b) // the session's own
		}
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *waiter) reset() {
	w.ready.Store(false)
	select {
	case <-w.wake:
	default:
	}
}

// awaitLocked waits until w is ready or ctx ends. It gives the lock away meanwhile.
func (s *Session) awaitLocked(ctx context.Context, w *waiter) (err error) {
	s.waiting++
	w.waits = true
	s.crowd = max(s.waiting, int(s.visits-s.noted), s.crowd-1)
	s.noted = s.visits
	if s.calmLocked() {
		s.flushLocked()
	}
	if !s.spinForLocked(w) {
		s.sleepers++
		s.restLocked()
		s.mu.Unlock()
		err = s.sleep(ctx, w)
		s.mu.Lock()
		s.sleepers--
	}
	if w.woken {
		s.waking--
	}
	if w.waits, w.woken = false, false; s.calmLocked() && s.spinners == 0 {
		s.flushLocked()
	}
	s.restLocked()
	if s.waiting--; s.waiting == 0 && s.err != nil {
		s.room.Broadcast()
	}
	return err
}

// sleep waits; one of those who sleep reads the bell and polls for all.
func (s *Session) sleep(ctx context.Context, w *waiter) error {
	for !w.ready.Load() {
		s.mu.Lock()
		p := s.post
		lead := p.lead
		if s.err != nil {
			lead = nil // whoever ended the session wakes w
		}
		s.mu.Unlock()
		select {
		case <-w.wake:
		case <-p.changed:
		case <-ctx.Done():
			return ctx.Err()
		case lead <- struct{}{}:
			err := s.leadUntil(ctx, w, p)
			<-lead
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// leadUntil reads the bell until w is ready or ctx ends.
func (s *Session) leadUntil(ctx context.Context, w *waiter, p *post) error {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { ring.Kick(p.bell) })
		defer stop()
	}
	due := func() bool { return w.ready.Load() || ctx.Err() != nil || p.page.Rung() }
	bell := p.bell
	if p.ears != nil {
		bell = p.ears.file
	}
	for {
		looked := false
		over := func() bool { // what came before is not reported; afterwards whoever is woken looks
			again := looked
			looked = true
			return again || due() || p.over() || p.ears.heard()
		}
		w.leading.Store(true)
		if w.ready.Load() || ctx.Err() != nil {
			w.leading.Store(false)
			return ctxUnless(w.ready.Load(), ctx)
		}
		err := ring.Wait(bell, over)
		w.leading.Store(false)
		if err != nil || p.over() {
			return nil // another post, or none
		}
		s.mu.Lock()
		if p.page.Rung() {
			p.page.Wake()
		}
		s.pollLocked()
		s.mu.Unlock()
		s.lingerFor(w)
		if !w.ready.Load() {
			s.mu.Lock()
			s.restLocked()
			s.mu.Unlock()
		}
	}
}

// lingerFor goes on polling as long as there is something, on behalf of all who sleep: an owner of buffers that others copy, for instance.
func (s *Session) lingerFor(w *waiter) {
	s.mu.Lock()
	if w.ready.Load() || s.err != nil || s.page == nil || s.spinners > 0 || runtime.GOMAXPROCS(0) < 2 {
		s.mu.Unlock()
		return
	}
	if s.linger == 0 {
		if s.skipped++; s.skipped%scoreTry != 0 {
			s.mu.Unlock()
			return
		}
		s.linger = scoreTop
	}
	s.spinners++
	s.page.Wake()
	seen := s.visits
	s.mu.Unlock()
	end, gain := time.Now().Add(spinTime), -scoreLoss
	for i := 1; !w.ready.Load(); i++ {
		calm := true
		if s.mu.TryLock() {
			calm = s.lookLocked(i)
			if s.visits != seen {
				seen, end, gain = s.visits, time.Now().Add(spinTime), scoreGain
			}
			s.mu.Unlock()
		}
		if i%checkTime == 0 && time.Now().After(end) {
			break
		}
		if !calm || i%checkTime == 0 {
			runtime.Gosched()
		}
	}
	s.mu.Lock()
	s.spinners--
	s.flushLocked()
	s.linger = min(max(s.linger+gain, 0), scoreTop)
	s.mu.Unlock()
}

func ctxUnless(ready bool, ctx context.Context) error {
	if ready {
		return nil
	}
	return ctx.Err()
}

// spinForLocked polls for a short while, if that has been worth it lately. It gives the lock away meanwhile.
func (s *Session) spinForLocked(w *waiter) bool {
	if w.ready.Load() || s.page == nil || !s.worthLocked() {
		return w.ready.Load()
	}
	now, long := time.Now(), spinTime
	if len(s.streams) > 0 {
		if now.Sub(s.polled) > spinMost {
			s.rested = now
		}
		s.polled = now
		if len(s.endpoints) == 0 && now.Sub(s.rested) > spinMost { // others of this program hear the kernel only when a processor has nothing to run
			s.rested, s.excused = now, 2
			return false
		}
		long *= time.Duration(min(s.crowd, crowdMost))
	}
	s.spinners++
	s.page.Wake()
	s.pollLocked()
	s.mu.Unlock()
	end, seen := now.Add(long), uint64(0)
	for i := 1; !w.ready.Load(); i++ {
		calm := true
		if s.mu.TryLock() {
			calm = s.lookLocked(i)
			if s.pieces != seen { // a long frame is coming
				seen, end = s.pieces, time.Now().Add(long)
			}
			s.mu.Unlock()
		}
		if i%checkTime == 0 && time.Now().After(end) {
			break
		}
		if !calm || i%checkTime == 0 {
			runtime.Gosched()
		}
	}
	s.mu.Lock()
	s.spinners--
	s.flushLocked()
	ok := w.ready.Load()
	if ok {
		s.score = min(s.score+scoreGain, scoreTop)
	} else if s.excused > 0 {
		s.excused--
	} else {
		s.score = max(s.score-scoreLoss, 0)
	}
	return ok
}

// calmLocked tells whether nobody is about to say something, as far as one can know.
func (s *Session) calmLocked() bool { return s.waking == 0 && s.expected == 0 }

// lookLocked is a round of somebody who polls. It is false if others should run first: they are about to say something.
func (s *Session) lookLocked(round int) (calm bool) {
	if round == restRounds {
		s.ears.rest()
	}
	if round%waveRounds == 0 {
		s.waveLocked()
	}
	if s.pollPageLocked(); len(s.streams) > 0 && s.err == nil && (s.calmLocked() || round%holdRounds == 0) {
		s.flushLocked()
		s.pollStreamsLocked()
	}
	return s.calmLocked()
}

func (s *Session) worthLocked() bool {
	if runtime.GOMAXPROCS(0) < 2 || s.spinners > 0 {
		return false
	}
	if s.score > 0 {
		return true
	}
	if s.skipped++; s.skipped%scoreTry == 0 {
		s.score = scoreSome
	}
	return s.score > 0
}

// restLocked asks for the bell if somebody sleeps and nobody polls. What came before is taken in.
func (s *Session) restLocked() {
	switch {
	case s.page == nil || s.err != nil || s.waking > 0: // the last of those who have been woken does it
	case s.spinners == 0 && s.sleepers > 0:
		s.page.Sleep()
		if s.pollPageLocked(); s.ears.listen() {
			s.pollStreamsLocked()
		}
	default:
		s.page.Wake()
	}
}

// pollLocked takes in what peers have written.
func (s *Session) pollLocked() {
	s.pollPageLocked()
	if len(s.streams) > 0 && s.err == nil {
		s.pollStreamsLocked()
	}
}

// pollPageLocked takes in what peers on this machine have written.
func (s *Session) pollPageLocked() {
	if s.page != nil && s.err == nil && s.page.Pending() {
		s.page.Sweep(s.pollChannelLocked)
	}
}

// pollChannelLocked takes in what one peer has written, and writes what had no room before. A peer that breaks the rules is cut off.
func (s *Session) pollChannelLocked(index uint32) {
	c := s.channels[index]
	if c == nil {
		return
	}
	s.visits++
	for {
		f, err := c.Receive(false)
		if err == nil && f != nil {
			err = s.messageLocked(f.Frame(), index)
		}
		if err == nil && f == nil {
			if c.Waiting() {
				err = c.Flush()
			}
			if err == nil {
				return
			}
		}
		if err != nil {
			s.cutLocked(index)
			return
		}
		if s.channels[index] != c {
			return
		}
	}
}

// cutLocked drops a channel whose peer breaks the rules; the node is the way from now on.
func (s *Session) cutLocked(index uint32) {
	if c := s.channels[index]; c != nil {
		delete(s.channels, index)
		s.closeLocked(c)
		_ = s.conn.Send(wire.Revoke{Channel: index}.Append(nil)) // the node tells the peer
	}
	for _, r := range s.routes {
		if r.channel == index {
			r.channel = 0
		}
	}
}
