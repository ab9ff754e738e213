package dvs

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

// A waiting goroutine polls the rings itself for a moment, because a wake-up by the kernel costs several times what an answer by shared
// memory takes; then it sleeps, and the bell wakes the pump, which polls for all. Whether spinning pays is learnt from
// whether it did: on a machine whose processors are busy it does not.
const (
	spinTime  = 25 * time.Microsecond
	scoreTop  = 8
	scoreTry  = 64 // with the lowest score, every so many waits spin nevertheless
	checkTime = 16 // rounds between two looks at the clock
)

// spin is the state of waiting, guarded by the session's lock.
type spin struct {
	spinners, sleepers int
	score, skipped     int
}

// waiter is somebody who waits for one event of a session.
type waiter struct {
	ready atomic.Bool
	wake  chan struct{} // of capacity 1
}

func newWaiter() *waiter { return &waiter{wake: make(chan struct{}, 1)} }

func (w *waiter) signal() {
	w.ready.Store(true)
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

// await waits until w is ready or ctx ends. Every now and then it calls remind. The lock is not held.
func (s *Session) await(ctx context.Context, w *waiter, remind func()) error {
	if s.spinFor(w) {
		return nil
	}
	s.mu.Lock()
	s.sleepers++
	s.restLocked()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.sleepers--
		s.restLocked()
		s.mu.Unlock()
	}()
	if remind == nil {
		select {
		case <-w.wake:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	again := time.NewTicker(remindEvery)
	defer again.Stop()
	for {
		select {
		case <-w.wake:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
			remind()
		}
	}
}

// spinFor polls for a short while, if that has been worth it lately.
func (s *Session) spinFor(w *waiter) bool {
	s.mu.Lock()
	if w.ready.Load() || s.page == nil || !s.worthLocked() {
		s.mu.Unlock()
		return w.ready.Load()
	}
	s.spinners++
	s.page.asleep().Store(0)
	s.pollLocked()
	s.mu.Unlock()
	end := time.Now().Add(spinTime)
	for i := 1; !w.ready.Load(); i++ {
		if s.mu.TryLock() {
			s.pollLocked()
			s.mu.Unlock()
		}
		if i%checkTime == 0 {
			if time.Now().After(end) {
				break
			}
			runtime.Gosched()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spinners--
	ok := w.ready.Load()
	if ok {
		s.score = min(s.score+1, scoreTop)
	} else {
		s.score = max(s.score-2, 0)
	}
	s.restLocked()
	return ok
}

func (s *Session) worthLocked() bool {
	if runtime.GOMAXPROCS(0) < 2 || s.spinners > 0 {
		return false
	}
	if s.score > 0 {
		return true
	}
	s.skipped++
	return s.skipped%scoreTry == 0
}

// restLocked asks for the bell if somebody sleeps and nobody polls. What came before is taken in.
func (s *Session) restLocked() {
	switch {
	case s.page == nil || s.err != nil:
	case s.spinners == 0 && s.sleepers > 0:
		s.page.asleep().Store(1)
		s.pollLocked()
	default:
		s.page.asleep().Store(0)
	}
}

// pump polls whenever the bell rings.
func (s *Session) pump() {
	var b [8]byte
	for {
		if _, err := s.bell.Read(b[:]); err != nil {
			return // closed with the session
		}
		s.mu.Lock()
		s.pollLocked()
		s.restLocked()
		s.mu.Unlock()
	}
}

// pollLocked takes in what peers have written.
func (s *Session) pollLocked() {
	if s.page == nil || s.err != nil || !s.page.pending() {
		return
	}
	s.page.sweep(s.pollChannelLocked)
}

// pollChannelLocked takes in what one peer has written, and writes what had no room before. A peer that breaks the rules is cut off.
func (s *Session) pollChannelLocked(index uint32) {
	c := s.channels[index]
	if c == nil {
		return
	}
	for {
		f, ok, err := c.receive()
		if err == nil && ok {
			err = s.messageLocked(f, index)
		}
		if err == nil && !ok {
			if len(c.overflow) > 0 {
				err = c.flush()
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
		c.close()
	}
	for _, r := range s.routes {
		if r.channel == index {
			r.channel = 0
		}
	}
}
