package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/godwit-project/godwit/server"
)

// PrepareIncoming implements server.Platform.
func (p *Platform) PrepareIncoming(ctx context.Context, spec server.Machine, epoch uint64) error {
	spec, found, err := p.complete(ctx, spec)
	if err != nil {
		return err
	}
	m := p.machine(spec.Name)
	ctx, done, err := m.begin(ctx)
	if err == nil {
		defer done()
		err = m.prepareIncoming(ctx, record{Machine: spec, Role: roleIncoming, Epoch: epoch, Ballast: found.Ballast, Sandbox: found.Sandbox})
	}
	if err != nil {
		return fmt.Errorf("prepare machine %s to be handed over to here: %w", spec.Name, err)
	}
	return nil
}

func (m *machine) prepareIncoming(ctx context.Context, rec record) error {
	old, g, exists := m.look()
	alive := m.alive()
	switch {
	case exists && rec.Epoch < old.Epoch:
		return fmt.Errorf("%w: %d after %d", server.ErrOldEpoch, rec.Epoch, old.Epoch)
	case exists && old.Activated == rec.Epoch && old.Role == roleActive:
		return nil // a late repetition: it runs here by now
	case exists && alive && old.Role == roleActive:
		return fmt.Errorf("it is here already (%s, epoch %d): destroy it first", g.state(old.Role), old.Epoch)
	case exists && alive && old.Epoch == rec.Epoch && m.waitsOrLoaded():
		return nil
	case exists:
		if err := m.remove(ctx); err != nil {
			return err
		}
	}
	err := m.launch(ctx, rec)
	if err != nil && !m.alive() {
		err = errors.Join(err, m.remove(context.WithoutCancel(ctx)))
	}
	return err
}

// waitsOrLoaded says whether an incoming machine is still good for this attempt: fresh, receiving, or loaded.
func (m *machine) waitsOrLoaded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.client == nil:
		return false
	case m.guest.migration == migrationCompleted:
		return true
	case m.rec.Stage == stageNone:
		return m.guest.runState == runInMigrate
	}
	return m.carried != nil && m.carried.broken() == nil
}

// setCapabilities turns migration capabilities on (or off).
func (m *machine) setCapabilities(ctx context.Context, wanted map[string]bool) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	var list []capability
	for name, on := range wanted {
		list = append(list, capability{name, on})
	}
	if err := m.call(ctx, "migrate-set-capabilities", map[string]any{"capabilities": list}, nil); err != nil {
		return fmt.Errorf("set migration capabilities: %w", err)
	}
	return nil
}

// AcceptIncoming implements server.Platform.
func (p *Platform) AcceptIncoming(ctx context.Context, name string, epoch uint64, conn net.Conn) error {
	m, err := p.known(name)
	if err == nil {
		var s *stream
		if s, err = m.accept(ctx, epoch, conn); err == nil {
			err = m.carryIncoming(ctx, s)
		}
	}
	conn.Close()
	if err != nil {
		return fmt.Errorf("receive the memory of machine %s: %w", name, err)
	}
	return nil
}

// known returns a machine that may be absent, by a valid name.
func (p *Platform) known(name string) (*machine, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	return p.machine(name), nil
}

// accept connects conn with the waiting QEMU.
func (m *machine) accept(ctx context.Context, epoch uint64, conn net.Conn) (*stream, error) {
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := m.waits(epoch); err != nil {
		return nil, err
	}
	rec, _, _ := m.look()
	if rec.Stage != stageNone {
		return nil, errors.New("it has received a stream already: prepare it again")
	}
	// Here, and not when it is started: whoever started it may have been killed before it could.
	err = m.setCapabilities(ctx, map[string]bool{"events": true, "late-block-activate": true, "dirty-bitmaps": rec.Ballast})
	if err != nil {
		return nil, err
	}
	ours, err := m.giveSocket(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.note(func(r *record) { r.Stage = stageFlowing }); err != nil {
		ours.Close()
		return nil, err
	}
	if err := m.call(ctx, "migrate-incoming", map[string]string{"uri": "fd:" + streamFD}, nil); err != nil {
		ours.Close()
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := newStream(conn, ours, true, m.poke)
	m.carried = s
	return s, nil
}

// waits refuses unless an incoming machine of this very epoch is here.
func (m *machine) waits(epoch uint64) error {
	rec, _, exists := m.look()
	switch {
	case !exists:
		return server.ErrAbsent
	case epoch < rec.Epoch:
		return fmt.Errorf("%w: %d after %d", server.ErrOldEpoch, epoch, rec.Epoch)
	case rec.Role != roleIncoming || epoch != rec.Epoch:
		return fmt.Errorf("it does not wait for epoch %d (it is %s, epoch %d): prepare it first", epoch, rec.Role, rec.Epoch)
	case !m.alive():
		return fmt.Errorf("%w: %s", errDead, m.lastWords())
	}
	return nil
}

// poke wakes everybody who awaits something of this machine.
func (m *machine) poke() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changedLocked()
}

// carryIncoming lasts until EOF. A QEMU that has everything closes its end early, which is no fault.
func (m *machine) carryIncoming(ctx context.Context, s *stream) error {
	var err error
	select {
	case <-s.copied:
		err = s.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.close()
	if err == nil || m.hasLoaded() {
		return nil
	}
	return err
}

func (m *machine) hasLoaded() bool {
	_, g, _ := m.look()
	return g.migration == migrationCompleted
}

// Loaded implements server.Platform.
func (p *Platform) Loaded(ctx context.Context, name string, epoch uint64) error {
	m, err := p.known(name)
	if err == nil {
		err = m.awaitLoaded(ctx, epoch)
	}
	if err != nil {
		return fmt.Errorf("wait until machine %s is loaded: %w", name, err)
	}
	return nil
}

func (m *machine) awaitLoaded(ctx context.Context, epoch uint64) error {
	if rec, _, _ := m.look(); rec.Role == roleActive && rec.Activated == epoch && epoch != 0 {
		return nil // it even runs
	}
	if err := m.waits(epoch); err != nil {
		return err
	}
	err := m.await(ctx, func() (bool, error) {
		switch {
		case !m.exists || m.rec.Epoch != epoch:
			return false, server.ErrAbsent
		case m.proc == nil:
			return false, errDead
		case m.client != nil && m.guest.migration == migrationFailed:
			return false, errors.New("QEMU could not load the stream")
		}
		return m.client != nil && m.guest.migration == migrationCompleted, nil
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %s", err, m.lastWords())
	}
	return err
}

// Activate implements server.Platform.
func (p *Platform) Activate(ctx context.Context, name string, epoch uint64) error {
	m, err := p.known(name)
	if err == nil {
		err = m.activate(ctx, epoch)
	}
	if err != nil {
		return fmt.Errorf("activate machine %s: %w", name, err)
	}
	return nil
}

func (m *machine) activate(ctx context.Context, epoch uint64) error {
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	rec, _, exists := m.look()
	if exists && rec.Role == roleActive && rec.Activated == epoch && rec.Stage == stageNone {
		return m.resume(ctx)
	}
	if err := m.waits(epoch); err != nil {
		return err
	}
	if _, err := m.control(ctx); err != nil {
		return err
	}
	if !m.hasLoaded() {
		return errors.New("it has not loaded everything yet")
	}
	// From here on only forward. The durable note comes afterwards: its flush would be part of the blackout.
	activated := func(r *record) { r.Role, r.Stage, r.Activated = roleActive, stageNone, epoch }
	if err := m.noteQuickly(activated); err != nil {
		return err
	}
	if err := m.resume(ctx); err != nil {
		return err
	}
	_, g, _ := m.look()
	return m.note(func(r *record) { r.ResumedAt, r.StoppedAt = g.resumed, time.Time{} })
}

// DropIncoming implements server.Platform.
func (p *Platform) DropIncoming(ctx context.Context, name string, epoch uint64) error {
	m, err := p.known(name)
	if err == nil {
		err = m.drop(ctx, epoch)
	}
	if err != nil {
		return fmt.Errorf("drop the waiting machine %s: %w", name, err)
	}
	return nil
}

func (m *machine) drop(ctx context.Context, epoch uint64) error {
	ctx, done, err := m.beginNow(ctx)
	if err != nil {
		return err
	}
	defer done()
	rec, _, exists := m.look()
	switch {
	case !exists:
		return nil
	case rec.Role == roleActive && rec.Activated >= epoch:
		return fmt.Errorf("%w for epoch %d", server.ErrActivated, rec.Activated)
	case rec.Role == roleActive:
		return nil // nothing of that attempt is here
	case rec.Epoch > epoch:
		return fmt.Errorf("%w: %d after %d", server.ErrOldEpoch, epoch, rec.Epoch)
	}
	return m.remove(ctx)
}
