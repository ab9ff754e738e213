package storage

import (
	"context"
	"fmt"
	"net"
	"time"
)

// progressEvery is how often Converged reports.
const progressEvery = 100 * time.Millisecond

// attemptLocked checks that an attempt of that epoch may drive this volume as its source.
func (v *Volume) attemptLocked(epoch uint64) error {
	m := &v.meta
	switch {
	case v.closed:
		return ErrClosed
	case epoch <= m.Aborted:
		return fmt.Errorf("%w: attempt %d was aborted (highest aborted: %d)", ErrStale, epoch, m.Aborted)
	case epoch < max(m.Attempt, m.Epoch):
		return fmt.Errorf("%w: attempt %d, seen %d", ErrStale, epoch, max(m.Attempt, m.Epoch))
	case m.Role == RoleReplica:
		return fmt.Errorf("%w: it is a replica at epoch %d", ErrRole, m.Epoch)
	case m.Role == RoleFenced && epoch != m.Epoch:
		return fmt.Errorf("%w: it is fenced for attempt %d: abort or release that first", ErrRole, m.Epoch)
	}
	return nil
}

// Replicate begins to copy the volume to another site in the background, for the attempt of that epoch, and returns once the
// session is established. All data is copied, holes are skipped. Repeated for the same epoch it waits for the same session;
// a newer epoch replaces an older one's. The session makes new connections by itself, through dial, until Unfence, Delete or
// Close; dial must heed its context and give fresh, mutually authenticated
// connections that end in the replica's ServeReplica. A refusal by the
// other end is an [ErrRefused] and ends the session.
func (v *Volume) Replicate(ctx context.Context, epoch uint64, dial func(context.Context) (net.Conn, error)) error {
	src, err := v.session(epoch, dial)
	if err == nil {
		_, err = src.up(ctx)
	}
	if err != nil {
		return fmt.Errorf("replicate volume %s for epoch %d: %w", v.name, epoch, err)
	}
	return nil
}

// session returns the running session of that epoch or starts one.
func (v *Volume) session(epoch uint64, dial Dialer) (*source, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.attemptLocked(epoch); err != nil {
		return nil, err
	}
	old := v.source.Load()
	if old != nil && old.epoch == epoch && old.adopt(dial) {
		return old, nil
	}
	if err := v.updateLocked(func(m *metadata) { m.Attempt = epoch }); err != nil {
		return nil, err
	}
	src, err := newSource(v, epoch, dial)
	if err != nil {
		return nil, err
	}
	// Once all ranges were ours, every write either is in the file or will be told to the session.
	held := v.ranges.lock(0, v.size)
	v.source.Store(src)
	v.ranges.unlock(held)
	if old != nil {
		old.stop()
	}
	if err := src.scan(); err != nil {
		v.source.Store(nil)
		return nil, err
	}
	src.wg.Go(src.run)
	return src, nil
}

// adopt gives a live session the newest dial; false if the session is over.
func (s *source) adopt(dial Dialer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused != nil || s.stopped {
		return false
	}
	s.dial = dial
	return true
}

// Converged returns when what remains is small: at most 1 MiB or what the link ships in 0.2 s. progress, which may be nil, is
// told the state ten times a second, trouble with the link included. It fails when the session is over.
func (v *Volume) Converged(ctx context.Context, progress func(Status)) error {
	src := v.source.Load()
	if src == nil {
		return fmt.Errorf("converge volume %s: %w", v.name, ErrNoSession)
	}
	for {
		wait, cancel := context.WithTimeout(ctx, progressEvery)
		err := src.await(wait, func() (bool, error) { return src.smallLocked(), nil })
		late := wait.Err() != nil
		cancel()
		if progress != nil {
			progress(v.Status())
		}
		if err == nil {
			return nil
		}
		if !late || ctx.Err() != nil {
			return fmt.Errorf("converge volume %s: %w", v.name, err)
		}
	}
}

// Synchronize drains what is pending and turns the session synchronous: from its return on, each write is on stable storage
// at both ends before it is acknowledged. An [ErrLink] means that the link broke meanwhile; the volume is then async still,
// and the verb may be repeated.
func (v *Volume) Synchronize(ctx context.Context, epoch uint64) error {
	src, err := v.running(epoch)
	if err == nil {
		var l *link
		if l, err = src.up(ctx); err == nil {
			err = src.synchronize(ctx, l)
		}
	}
	if err != nil {
		return fmt.Errorf("synchronize volume %s for epoch %d: %w", v.name, epoch, err)
	}
	return nil
}

// running returns the session of that epoch.
func (v *Volume) running(epoch uint64) (*source, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.attemptLocked(epoch); err != nil {
		return nil, err
	}
	return v.runningLocked(epoch)
}

func (v *Volume) runningLocked(epoch uint64) (*source, error) {
	src := v.source.Load()
	if src == nil || src.epoch != epoch {
		return nil, fmt.Errorf("%w of epoch %d: replicate first", ErrNoSession, epoch)
	}
	return src, nil
}

// Drained returns when this replica is complete for that epoch, durably; at once on the primary that it has become.
func (v *Volume) Drained(ctx context.Context, epoch uint64) error {
	err := v.await(ctx, func() (bool, error) {
		m := &v.meta
		switch {
		case m.Role == RolePrimary && m.Epoch == epoch:
			return true, nil
		case m.Role != RoleReplica:
			return false, fmt.Errorf("%w: it is %s at epoch %d", ErrRole, m.Role, m.Epoch)
		case m.Epoch != epoch:
			return false, fmt.Errorf("%w: asked for epoch %d, the replica is at %d", ErrStale, epoch, m.Epoch)
		}
		return m.Complete && !m.Spoiled, nil
	})
	if err != nil {
		return fmt.Errorf("wait for volume %s to be drained: %w", v.name, err)
	}
	return nil
}
