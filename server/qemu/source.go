package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-project/godwit/server"
)

// A dirty bitmap on a disk that nobody sees counts, in QEMU's eyes, as ballastSize/ballastGrain bytes that are still to be
// sent and that are sent last. So there is always more left than QEMU is allowed to stop the guest for, until Quiesce
// allows more: QEMU cannot finish by itself.
const (
	ballastNode   = "godwit-ballast"
	ballastBitmap = "godwit"
	ballastSize   = 2 << 30 // bytes of an empty disk
	ballastGrain  = 512     // so it weighs 4 MiB, and some 10 KB when it is sent at last
)

// QEMU stops when what is left takes less than the downtime limit at the measured rate. The small one makes it look for newly
// dirtied memory only when the last is nearly sent, and at maxBandwidth allows for less than the ballast.
const (
	downtimeWhileFlowing = 1         // ms
	downtimeToFinish     = 2_000_000 // ms, the most that QEMU takes
	maxBandwidth         = 1 << 30   // bytes/s
)

// migrateInfo is QEMU's answer to query-migrate, as far as it matters.
type migrateInfo struct {
	Status    string
	ErrorDesc string   `json:"error-desc"`
	Blocked   []string `json:"blocked-reasons"`
	RAM       struct {
		Transferred int64
		Remaining   int64
		Total       int64
		PageSize    int64 `json:"page-size"`
		DirtyPages  int64 `json:"dirty-pages-rate"` // 1/s
		Passes      int   `json:"dirty-sync-count"`
	} `json:"ram"`
}

// CheckSource implements server.Platform.
func (p *Platform) CheckSource(ctx context.Context, name string) error {
	m, err := p.known(name)
	if err == nil {
		err = m.checkSource(ctx)
	}
	if err != nil {
		return fmt.Errorf("check that machine %s can be handed over: %w", name, err)
	}
	return nil
}

func (m *machine) checkSource(ctx context.Context) error {
	if err := m.isSource(); err != nil {
		return err
	}
	var run struct{ Status string }
	if err := m.call(ctx, "query-status", nil, &run); err != nil {
		return err
	}
	if run.Status != runRunning {
		return fmt.Errorf("the guest does not run (%s); start it first", run.Status)
	}
	var info migrateInfo
	if err := m.call(ctx, "query-migrate", nil, &info); err != nil {
		return err
	}
	if len(info.Blocked) > 0 {
		return fmt.Errorf("QEMU cannot hand it over: %s", strings.Join(info.Blocked, "; "))
	}
	return nil
}

func (m *machine) isSource() error {
	rec, _, exists := m.look()
	switch {
	case !exists:
		return server.ErrAbsent
	case rec.Role != roleActive:
		return fmt.Errorf("it only waits here for another host's memory (epoch %d)", rec.Epoch)
	case !m.alive():
		return fmt.Errorf("%w: %s", errDead, m.lastWords())
	}
	return nil
}

// startStream begins a new migration over what dial gives.
func (m *machine) startStream(ctx context.Context, dial func(context.Context) (net.Conn, error)) (*stream, error) {
	m.breakStreams()
	if err := m.endMigration(ctx); err != nil {
		return nil, err
	}
	if err := m.setUp(ctx); err != nil {
		return nil, err
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the other host: %w", err)
	}
	keepShallow(conn)
	ours, err := m.giveSocket(ctx)
	if err != nil {
		conn.Close()
		return nil, err
	}
	s := newStream(ours, conn, true, m.poke)
	s.watchPeer()
	m.mu.Lock()
	m.stream, m.guest.migration = s, ""
	m.mu.Unlock()
	if err := m.call(ctx, "migrate", map[string]string{"uri": "fd:" + streamFD}, nil); err != nil {
		m.breakStreams()
		return nil, err
	}
	return s, nil
}

func (m *machine) setUp(ctx context.Context) error {
	rec, _, _ := m.look()
	err := m.setCapabilities(ctx, map[string]bool{
		"events": true, "pause-before-switchover": true, "late-block-activate": true, "dirty-bitmaps": rec.Ballast, "xbzrle": true,
	})
	if err != nil {
		return err
	}
	if err := m.allowDowntime(ctx, downtimeWhileFlowing); err != nil {
		return err
	}
	if !rec.Ballast {
		return nil
	}
	m.unballast(ctx)
	bitmap := map[string]any{"node": ballastNode, "name": ballastBitmap, "granularity": ballastGrain}
	if err := m.call(ctx, "block-dirty-bitmap-add", bitmap, nil); err != nil {
		return fmt.Errorf("keep QEMU from finishing by itself: %w", err)
	}
	return nil
}

// unballast may fail: mostly there is no such bitmap.
func (m *machine) unballast(ctx context.Context) {
	bitmap := map[string]any{"node": ballastNode, "name": ballastBitmap}
	if err := m.call(ctx, "block-dirty-bitmap-remove", bitmap, nil); err != nil {
		m.log.Debug("no ballast removed", "err", err)
	}
}

func (m *machine) allowDowntime(ctx context.Context, milliseconds int) error {
	limits := map[string]any{"downtime-limit": milliseconds, "max-bandwidth": maxBandwidth}
	if err := m.call(ctx, "migrate-set-parameters", limits, nil); err != nil {
		return fmt.Errorf("set migration parameters: %w", err)
	}
	return nil
}

// endMigration cancels whatever migration QEMU is in and waits until it is in none.
func (m *machine) endMigration(ctx context.Context) error {
	const again = 200 * time.Millisecond // it may have come to an end by itself without an event for us
	for {
		var info migrateInfo
		if err := m.call(ctx, "query-migrate", nil, &info); err != nil {
			return err
		}
		switch info.Status {
		case "", "none", migrationCompleted, migrationFailed, migrationCancelled:
			return nil
		}
		if err := m.call(ctx, "migrate_cancel", nil, nil); err != nil {
			return err
		}
		brief, cancel := context.WithTimeout(ctx, again)
		_ = m.await(brief, func() (bool, error) {
			return m.proc == nil || m.guest.migration == migrationCancelled || m.guest.migration == migrationFailed, nil
		})
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// Quiesce implements server.Platform.
func (p *Platform) Quiesce(ctx context.Context, name string, epoch uint64, shut func(context.Context) error) error {
	m, err := p.known(name)
	if err == nil {
		err = m.quiesce(ctx, epoch, shut)
	}
	if err != nil {
		return fmt.Errorf("quiesce machine %s: %w", name, err)
	}
	return nil
}

func (m *machine) quiesce(ctx context.Context, epoch uint64, shut func(context.Context) error) error {
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := m.claim(epoch); err != nil {
		return err
	}
	if err := m.isSource(); err != nil {
		return err
	}
	rec, _, _ := m.look()
	m.mu.Lock()
	s := m.stream
	m.mu.Unlock()
	switch {
	case rec.Stage == stageQuiesced:
		return nil
	case s == nil:
		return errors.New("there is no memory stream (was the agent restarted?): roll back and begin anew")
	case s.broken() != nil:
		return s.broken()
	}
	// The guest runs on meanwhile; after a look at storage and network this has mostly passed already.
	pause(ctx, measureWindow-s.rested())
	begun, before := time.Now(), s.moved.Load()
	if err := m.halt(ctx); err != nil {
		return err
	}
	halted := time.Now()
	// The gates are shut while memory flows: QEMU waits in pre-switchover until it is told to finish, and cannot let the guest
	// run again before it has been.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var gates errgroup.Group
	gates.Go(func() error {
		if shut == nil {
			return nil
		}
		err := shut(ctx)
		if err != nil {
			err = fmt.Errorf("shut the gates: %w", err)
			cancel(err)
		}
		return err
	})
	s.thaw()
	closed := halted
	err = m.complete(ctx, s, func() error {
		defer func() { closed = time.Now() }()
		return gates.Wait()
	})
	if err != nil {
		cancel(err)
		if gateErr := gates.Wait(); gateErr != nil && !errors.Is(gateErr, context.Canceled) {
			return gateErr
		}
		return err
	}
	if err := gates.Wait(); err != nil {
		return err
	}
	m.log.Info("guest stopped and sent", "halt", halted.Sub(begun), "shut", closed.Sub(halted), "rest", time.Since(closed), "bytes", s.moved.Load()-before)
	return m.noteQuickly(func(r *record) { r.Stage, r.Sent = stageQuiesced, s.moved.Load() })
}

// halt stops the guest for good: from here on only Rollback may let it run again.
func (m *machine) halt(ctx context.Context) error {
	m.mu.Lock()
	m.guest.halting = true
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.guest.halting = false
		m.wakeGuardLocked()
	}()
	if err := m.noteQuickly(func(r *record) { r.Stage = stageStopping }); err != nil {
		return err
	}
	if err := m.allowDowntime(ctx, downtimeToFinish); err != nil {
		return err
	}
	m.mu.Lock()
	m.guest.ask("STOP")
	m.mu.Unlock()
	if err := m.call(ctx, "stop", nil, nil); err != nil {
		return fmt.Errorf("stop the guest: %w", err)
	}
	_, g, _ := m.look()
	if g.runState == runRunning {
		return errors.New("QEMU was told to stop the guest and did not say that it has")
	}
	return m.noteQuickly(func(r *record) { r.StoppedAt = g.stopped })
}

// complete lets QEMU send what is left, and waits until the last byte is on its way. It finishes only when shut has returned nil.
func (m *machine) complete(ctx context.Context, s *stream, shut func() error) error {
	stalled, cancel := context.WithTimeoutCause(ctx, m.p.o.StallTimeout, fmt.Errorf("the rest could not be sent within %v; look at the link", m.p.o.StallTimeout))
	defer cancel()
	continued := false
	for {
		var status string
		err := m.await(stalled, func() (bool, error) {
			status = m.guest.migration
			switch {
			case m.proc == nil:
				return false, errDead
			case s.broken() != nil:
				return false, s.broken()
			}
			return status == migrationCompleted || status == migrationFailed || status == migrationCancelled ||
				status == migrationPreSwitchover && !continued, nil
		})
		if err != nil {
			return err
		}
		switch status {
		case migrationCompleted:
			return m.await(stalled, func() (bool, error) {
				select {
				case <-s.copied:
					return true, s.err
				default:
					return false, nil
				}
			})
		case migrationPreSwitchover:
			continued = true
			if err := shut(); err != nil {
				return err
			}
			if err := m.call(stalled, "migrate-continue", map[string]string{"state": status}, nil); err != nil {
				return err
			}
		default:
			return fmt.Errorf("QEMU's migration has %s", status)
		}
	}
}

// Rollback implements server.Platform. A machine that is not here has nothing to put back; one that has died may be started again.
func (p *Platform) Rollback(ctx context.Context, name string, epoch uint64) error {
	m, err := p.known(name)
	if err == nil {
		err = m.rollback(ctx, epoch)
	}
	if err != nil {
		return fmt.Errorf("roll back machine %s: %w", name, err)
	}
	return nil
}

func (m *machine) rollback(ctx context.Context, epoch uint64) error {
	ctx, done, err := m.beginNow(ctx)
	if err != nil {
		return err
	}
	defer done()
	rec, _, exists := m.look()
	stopped := rec.Stage == stageStopping || rec.Stage == stageQuiesced
	switch {
	case !exists:
		return nil
	case rec.Role != roleActive:
		return fmt.Errorf("it only waits here for another host's memory (epoch %d): drop it instead", rec.Epoch)
	case stopped && epoch > rec.Epoch:
		return fmt.Errorf("it was stopped under epoch %d, so a rollback of %d must not let it run", rec.Epoch, epoch)
	}
	if err := m.claim(epoch); err != nil {
		return err
	}
	m.breakStreams()
	if !m.alive() {
		m.log.Warn("rolled back, but the machine is dead: start it again", "epoch", epoch)
		return m.note(func(r *record) { r.Stage = stageNone })
	}
	if err := m.endMigration(ctx); err != nil {
		return err
	}
	if err := m.note(func(r *record) { r.Stage = stageNone }); err != nil {
		return err
	}
	if err := m.resume(ctx); err != nil {
		return err
	}
	if rec.Ballast {
		m.unballast(ctx)
	}
	return nil
}
