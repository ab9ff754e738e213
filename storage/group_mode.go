package storage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// maxSlow is how long one request is slowed at the bounds: writers shall creep, not stand until their guest gives up.
	maxSlow = time.Second
	// maxUnderway is how many epochs may be cut and not confirmed.
	maxUnderway = 256
)

// markLocked records a change that is about to be made.
func (g *Group) markLocked(index int, off, length int64) uint64 {
	number := g.tracker.Mark(index, off, length)
	g.written += length
	if g.firstWrite.IsZero() {
		g.firstWrite = time.Now()
		g.work.Signal()
	}
	return number
}

// settle waits until the standby has the epoch, if the mode says that a change (or a flush) waits; in flush mode for those
// with promise alone. The caller must not hold a range.
func (g *Group) settle(number uint64, promise bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.waiting && number > g.tracker.CommittedTo() && (promise || g.mode == ModeSync) {
		g.askLocked(number)
		g.changed.Wait()
	}
}

// mirrors says that every change waits for both ends, and has what was written so far shipped at once.
func (g *Group) mirrors() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.waiting || g.mode != ModeSync {
		return false
	}
	current, _ := g.tracker.Current()
	g.askLocked(current)
	return true
}

// askLocked wants an epoch to be committed soon.
func (g *Group) askLocked(number uint64) {
	if l := g.link; l != nil && l.waits.IsZero() {
		l.waits = time.Now()
	}
	if number > g.wanted {
		g.wanted = number
		g.work.Signal()
	}
}

// promised is the epoch that a flush waits for: everything acknowledged is in it or before. It is asked for at once, so that the
// other end works while this one syncs.
func (g *Group) promised() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	number, written := g.tracker.Current()
	if !written {
		number--
	}
	if g.waiting && number > g.tracker.CommittedTo() {
		g.askLocked(number)
	}
	return number
}

// throttle slows a writer while the standby lacks more than the limits allow.
func (g *Group) throttle(over <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.exceededLocked(time.Now()) {
		return
	}
	start := time.Now()
	timer := time.AfterFunc(maxSlow, g.wake)
	defer timer.Stop()
	g.throttled++
	for g.exceededLocked(time.Now()) && time.Since(start) < maxSlow {
		select {
		case <-over:
			start = time.Time{}
		default:
			g.changed.Wait()
		}
	}
	g.throttled--
	if !start.IsZero() {
		g.slowed += time.Since(start)
	}
}

func (g *Group) wake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.work.Broadcast()
	g.changed.Broadcast()
}

// exceededLocked says that the standby lacks too much, and that it is of use to slow writers.
func (g *Group) exceededLocked(now time.Time) bool {
	if g.mode == ModeLocal || g.stopped || g.refused != nil || g.overflown || g.tracker.CommittedTo() < g.catchUp || !g.known {
		return false
	}
	if g.tracker.Lacking() <= g.limits.Bytes && g.lagLocked(now) <= g.limits.Lag {
		return false
	}
	if g.link == nil && now.Sub(g.downSince) > g.limits.Overflow {
		g.overflown = true
		g.store.opts.Logger.Error("a standby is out of reach: what changes is only remembered, for a resynchronisation later",
			"group", g.name, "down", now.Sub(g.downSince))
		g.changed.Broadcast()
		return false
	}
	return true
}

// lagLocked is the age of the oldest write that the standby lacks.
func (g *Group) lagLocked(now time.Time) time.Duration {
	switch {
	case len(g.cuts) > 0:
		return now.Sub(g.cuts[0].first)
	case !g.firstWrite.IsZero():
		return now.Sub(g.firstWrite)
	}
	return 0
}

// smallLocked is a remainder that the link ships in a moment, in bytes.
func (g *Group) smallLocked() int64 { return max(convergedBytes, g.rate.perSecond/5) }

// waitLocked has writers wait for the standby from now on, if the mode says so and little is missing.
func (g *Group) waitLocked() {
	if g.waiting || g.link == nil || g.mode != ModeFlush && g.mode != ModeSync {
		return
	}
	if g.tracker.CommittedTo() >= g.catchUp && g.tracker.Pending() <= g.smallLocked() {
		current, written := g.tracker.Current()
		if !written {
			current--
		}
		g.waiting, g.waitingFrom = true, current
		g.link.waits = time.Time{}
		if current > g.tracker.CommittedTo() {
			g.askLocked(current)
		}
		g.changed.Broadcast()
	}
}

// actualLocked is the mode that holds at the moment: flush and sync only once all that was written before is at the standby.
func (g *Group) actualLocked() string {
	switch {
	case g.mode == ModeLocal || g.mode == ModeAsync:
		return g.mode
	case g.waiting && g.link != nil && g.tracker.CommittedTo() >= g.waitingFrom:
		return g.mode
	}
	return ModeAsync
}

// committed takes the standby's word that it has everything up to an epoch on stable storage.
func (g *Group) committed(l *groupLink, number uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	internal := number - g.base
	if l.broken {
		return ErrLink
	}
	if len(g.cuts) == 0 || internal < g.cuts[0].number || internal > g.cuts[len(g.cuts)-1].number {
		return fmt.Errorf("standby says that it has epoch %d, which is not on its way", number)
	}
	l.useful = true
	g.committedLocked(internal)
	return nil
}

func (g *Group) committedLocked(internal uint64) {
	now := time.Now()
	before := g.tracker.Pending()
	n := 0
	for n < len(g.cuts) && g.cuts[n].number <= internal {
		g.point = pointAt{g.base + g.cuts[n].number, g.cuts[n].cut}
		g.pace.shipped(g.cuts[n].bytes, now.Sub(g.cuts[n].cut))
		n++
	}
	g.cuts = g.cuts[:copy(g.cuts, g.cuts[n:])]
	g.tracker.Committed(internal)
	if done := before - g.tracker.Pending(); done > 0 {
		g.copied += done
		g.rate.add(done, now)
	}
	if g.link != nil {
		g.link.waits = time.Time{}
		if g.wanted > internal {
			g.link.waits = now
		}
	}
	g.waitLocked()
	g.work.Broadcast()
	g.changed.Broadcast()
}

// SetMode changes the mode while everything runs, and returns once it holds: for flush and sync, when all that was written before
// is at the standby too; [Group.Status] tells how far that is. No request fails by it.
func (g *Group) SetMode(ctx context.Context, mode string) error {
	if err := checkMode(mode); err != nil {
		return fmt.Errorf("set the mode of group %s: %w", g.name, err)
	}
	g.mu.Lock()
	g.modeLocked(mode)
	g.mu.Unlock()
	err := g.await(ctx, func() (bool, error) {
		if g.mode != mode {
			return false, fmt.Errorf("it was set to %s meanwhile", g.mode)
		}
		return g.actualLocked() == mode, nil
	})
	if err != nil {
		return fmt.Errorf("set group %s to %s: %w", g.name, mode, err)
	}
	return nil
}

func (g *Group) modeLocked(mode string) {
	if g.mode == mode {
		return
	}
	before := g.mode
	g.mode = mode
	switch {
	case mode == ModeLocal:
		g.waiting = false
		g.breakLocked(g.link, errors.New("the mode was set to local"))
	case mode == ModeAsync:
		g.waiting = false
	case mode == ModeSync && before == ModeFlush:
		g.waiting = false // what was written before must be there first
	}
	g.waitLocked()
	g.work.Broadcast()
	g.changed.Broadcast()
}

// Drain returns when everything that was written before the call is durable at the standby.
func (g *Group) Drain(ctx context.Context) error {
	number := uint64(0)
	err := g.await(ctx, func() (bool, error) {
		if number == 0 {
			current, written := g.tracker.Current()
			if !written && g.known {
				current--
			}
			number = current
		}
		if g.mode == ModeLocal {
			return false, errors.New("its mode is local")
		}
		if number > g.wanted {
			g.wanted = number
			g.work.Signal()
		}
		return number <= g.tracker.CommittedTo(), nil
	})
	if err != nil {
		return fmt.Errorf("drain group %s: %w", g.name, err)
	}
	return nil
}

// await waits under mu until done says so or fails, the group ends, or the context does.
func (g *Group) await(ctx context.Context, done func() (bool, error)) error {
	stop := context.AfterFunc(ctx, g.wake)
	defer stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if g.refused != nil {
			return g.refused
		}
		if g.stopped {
			return ErrClosed
		}
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), g.trouble)
		}
		g.changed.Wait()
	}
}
