package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/godwit-project/godwit/server"
)

// measureWindow is how often QEMU works out anew how much may be left when it stops. A stream that has been frozen for so long
// obeys Quiesce's limit at once; a shorter one would wait for the rest of the window, in the blackout.
const measureWindow = 110 * time.Millisecond

// Converge implements server.Platform.
func (p *Platform) Converge(ctx context.Context, name string, epoch uint64, dial func(context.Context) (net.Conn, error), progress func(server.Progress)) error {
	m, err := p.known(name)
	if err == nil {
		err = m.converge(ctx, epoch, dial, progress)
	}
	if err != nil {
		return fmt.Errorf("converge the memory of machine %s: %w", name, err)
	}
	return nil
}

func (m *machine) converge(ctx context.Context, epoch uint64, dial func(context.Context) (net.Conn, error), progress func(server.Progress)) error {
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	before, _, _ := m.look()
	if err := m.claim(epoch); err != nil {
		return err
	}
	if err := m.isSource(); err != nil {
		return err
	}
	switch before.Stage {
	case stageQuiesced:
		return nil // a late repetition
	case stageStopping:
		return errors.New("it was stopped, but not everything was sent: roll back")
	}
	m.mu.Lock()
	s := m.stream
	m.mu.Unlock()
	if s == nil || s.broken() != nil || before.Epoch != epoch {
		if err := m.note(func(r *record) { r.Stage = stageFlowing }); err != nil {
			return err
		}
		if s, err = m.startStream(ctx, dial); err != nil {
			return err
		}
	}
	s.thaw()
	err = m.follow(ctx, s, progress)
	s.freeze()
	if broken := s.broken(); broken != nil {
		m.breakStreams()
		return broken
	}
	return err
}

// follow watches the passes until it is time to freeze.
func (m *machine) follow(ctx context.Context, s *stream, progress func(server.Progress)) error {
	c := convergence{holdAt: m.p.o.HoldAt, worst: m.p.o.WorstHold, patience: m.p.o.StallPasses}
	moved, movedAt := s.moved.Load(), time.Now()
	for {
		var info migrateInfo
		if err := m.call(ctx, "query-migrate", nil, &info); err != nil {
			return err
		}
		switch info.Status {
		case migrationFailed, migrationCancelled:
			return fmt.Errorf("QEMU's migration has %s: %s", info.Status, info.ErrorDesc)
		case migrationPreSwitchover, migrationDevice, migrationCompleted:
			m.log.Warn("QEMU stopped the guest by itself before it was told to", "status", info.Status)
			return nil
		}
		now := time.Now()
		if n := s.moved.Load(); n != moved {
			moved, movedAt = n, now
		} else if idle := now.Sub(movedAt); idle > m.p.o.StallTimeout {
			return fmt.Errorf("the link has taken nothing for %v; look at the tunnel and at the other host's agent", idle.Round(time.Second))
		}
		verdict := c.look(sample{at: now, pass: info.RAM.Passes, remaining: info.RAM.Remaining, sent: moved})
		if progress != nil {
			progress(server.Progress{
				Transferred: moved, Remaining: info.RAM.Remaining, Total: info.RAM.Total,
				DirtyRate: c.dirtyRate, Rate: c.rate, Iteration: info.RAM.Passes, Status: info.Status,
			})
		}
		switch verdict {
		case holdNow:
			return nil
		case giveUp:
			return fmt.Errorf("%w: the guest changes at least %.1f MB/s, the link carries %.1f MB/s, and %d passes brought it no nearer than %.1f MB; "+
				"give the link more bandwidth, or the guest less to do, or move it while it is stopped",
				server.ErrNotConverging, c.dirtyRate/1e6, c.carried/1e6, c.stale, float64(c.best)/1e6)
		}
		const poll = 10 * time.Millisecond
		if err := m.nextLook(ctx, poll); err != nil {
			return err
		}
	}
}

// nextLook waits for the poll, or less when QEMU or the stream has something to say.
func (m *machine) nextLook(ctx context.Context, poll time.Duration) error {
	m.mu.Lock()
	changed, s := m.changed, m.stream
	dead := m.proc == nil
	m.mu.Unlock()
	switch {
	case dead:
		return errDead
	case s == nil:
		return errStreamClosed
	case s.broken() != nil:
		return s.broken()
	}
	t := time.NewTimer(poll)
	defer t.Stop()
	select {
	case <-t.C:
	case <-changed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
