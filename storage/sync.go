package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-project/godwit/storage/wire"
)

// up waits for a link.
func (s *source) up(ctx context.Context) (l *link, err error) {
	err = s.await(ctx, func() (bool, error) {
		l = s.link
		return l != nil, nil
	})
	return l, err
}

// barrier waits until everything that is on the stream is on stable storage at the replica.
func (s *source) barrier(ctx context.Context, l *link) error {
	seq := uint64(0)
	return s.await(ctx, func() (bool, error) {
		if l.broken {
			return false, l.lost()
		}
		if seq == 0 {
			seq = s.commandLocked(l, wire.TypeBarrier)
		}
		return l.durable >= seq, nil
	})
}

// synchronize turns the link synchronous: first the replica's backlog onto its disk, so that the writes that wait from then
// on do not wait for that; then every write is mirrored, which also throttles writers to the link; then what is dirty is
// drained.
func (s *source) synchronize(ctx context.Context, l *link) (err error) {
	select {
	case s.syncTurn <- struct{}{}:
		defer func() { <-s.syncTurn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := s.barrier(ctx, l); err != nil {
		return err
	}
	s.mu.Lock()
	if s.inSync && s.link == l {
		s.wantSync = true
		s.mu.Unlock()
		return nil
	}
	s.mirroring = !l.broken
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil && s.link == l && !s.inSync {
			s.mirroring = false
		}
	}()
	// A writer that began before mirroring has marked what it wrote once it has let go of its range.
	s.v.ranges.unlock(s.v.ranges.lock(0, s.v.size))
	if err := s.await(ctx, func() (bool, error) {
		if l.broken {
			return false, l.lost()
		}
		return s.dirty.Count() == 0, nil
	}); err != nil {
		return err
	}
	if err := s.barrier(ctx, l); err != nil {
		return err
	}
	return s.await(ctx, func() (bool, error) {
		if l.broken {
			return false, l.lost()
		}
		s.inSync, s.wantSync = true, true
		s.changed.Broadcast()
		return true, nil
	})
}

// resynchronize returns a new link of a session that was synchronous to that mode, once little remains.
func (s *source) resynchronize(l *link) {
	var want bool
	err := s.await(s.ctx, func() (bool, error) {
		if l.broken {
			return false, ErrLink
		}
		want = s.wantSync
		return !want || s.smallLocked(), nil
	})
	if err != nil || !want {
		return
	}
	if err := s.synchronize(s.ctx, l); err != nil && s.ctx.Err() == nil && !s.isBroken(l) {
		s.breakLink(l, err)
	}
}

// smallLocked says that the link would ship what remains in a moment.
func (s *source) smallLocked() bool {
	return s.link != nil && s.remainingLocked() <= max(convergedBytes, s.rate.perSecond/5)
}

// complete drains everything and has the replica record that it is complete. The gate is shut. It gives up when the link
// stays down for longer than patience.
func (s *source) complete(ctx context.Context, patience time.Duration) error {
	timer := time.AfterFunc(patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer timer.Stop()
	return s.await(ctx, func() (bool, error) {
		l := s.link
		if l == nil && !s.completed {
			down := time.Since(s.downSince)
			if down >= patience {
				return false, errors.Join(fmt.Errorf("%w for %v", ErrLink, down.Round(time.Millisecond)), s.trouble)
			}
			timer.Reset(patience - down)
			return false, nil
		}
		if l != nil && s.dirty.Count() == 0 && !l.marked && !s.completed {
			l.marked = true
			s.commandLocked(l, wire.TypeComplete)
		}
		return s.completed, nil
	})
}

func (s *source) markerAcked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.completed = true
	s.changed.Broadcast()
}
