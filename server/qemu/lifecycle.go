package qemu

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/godwit-project/godwit/server"
)

// Start implements server.Platform.
func (p *Platform) Start(ctx context.Context, m server.Machine) error {
	m, found, err := p.complete(ctx, m)
	if err != nil {
		return err
	}
	if err := p.machine(m.Name).start(ctx, m, found); err != nil {
		return fmt.Errorf("start machine %s: %w", m.Name, err)
	}
	return nil
}

// complete fills in what the caller leaves to this host, and checks the rest.
func (p *Platform) complete(ctx context.Context, m server.Machine) (server.Machine, findings, error) {
	if err := checkMachine(m); err != nil {
		return m, findings{}, err
	}
	found, err := p.probe(ctx)
	if err != nil {
		return m, findings{}, err
	}
	if m.Accelerator == "" {
		m.Accelerator = found.Accelerator
	}
	if m.MachineType == "" {
		m.MachineType = found.MachineTypes[0]
	}
	if m.CPUModel == "" {
		m.CPUModel = found.CPUModels[0]
	}
	for _, path := range []*string{&m.Kernel, &m.Initrd, &m.Console} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return m, findings{}, err
		}
	}
	return m, found, nil
}

func (m *machine) start(ctx context.Context, spec server.Machine, found findings) error {
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	rec, _, exists := m.look()
	switch {
	case !m.alive() && exists && rec.Role == roleActive && (rec.Stage == stageStopping || rec.Stage == stageQuiesced):
		return fmt.Errorf("it was stopped to be handed over under epoch %d, so it may run elsewhere: roll back or destroy it here first", rec.Epoch)
	case !m.alive() && exists && rec.Role == roleIncoming:
		return fmt.Errorf("it waited here for epoch %d: drop or destroy that first", rec.Epoch)
	case !m.alive():
		return m.startProcess(ctx, spec, rec, found)
	case rec.Role == roleIncoming:
		return fmt.Errorf("it waits here for the memory of another host (epoch %d)", rec.Epoch)
	case rec.Stage == stageStopping || rec.Stage == stageQuiesced:
		return fmt.Errorf("it was stopped to be handed over (epoch %d): roll back first", rec.Epoch)
	}
	return m.resume(ctx)
}

// startProcess runs a machine that has no process, keeping the epoch that it has seen.
func (m *machine) startProcess(ctx context.Context, spec server.Machine, old record, found findings) error {
	fresh := old.Machine.Name == ""
	rec := record{Machine: spec, Role: roleActive, Epoch: old.Epoch, Activated: old.Activated, Ballast: found.Ballast, Sandbox: found.Sandbox}
	err := m.launch(ctx, rec)
	if err != nil && fresh && !m.alive() {
		return errors.Join(err, m.remove(context.WithoutCancel(ctx)))
	}
	return err
}

// resume lets the guest run, unless it does, and waits until QEMU has said so.
func (m *machine) resume(ctx context.Context) error {
	if _, err := m.control(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	running := m.guest.runState == runRunning
	if !running {
		m.guest.ask("RESUME")
	}
	m.mu.Unlock()
	if running {
		return nil
	}
	if err := m.call(ctx, "cont", nil, nil); err != nil {
		return fmt.Errorf("let the guest run: %w", err)
	}
	return m.await(ctx, func() (bool, error) {
		if m.proc == nil {
			return false, errDead
		}
		return m.guest.runState == runRunning, nil
	})
}

// Destroy implements server.Platform.
func (p *Platform) Destroy(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	m := p.machine(name)
	ctx, done, err := m.beginNow(ctx)
	if err != nil {
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	defer done()
	if err := m.remove(ctx); err != nil {
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	return nil
}
