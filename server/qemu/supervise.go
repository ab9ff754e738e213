package qemu

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/godwit-project/godwit/server/qemu/qmp"
)

// hold takes a process over: from here on it is watched, connected to, and missed when it ends.
func (m *machine) hold(proc *process) {
	m.mu.Lock()
	m.proc = proc
	m.changedLocked()
	m.mu.Unlock()
	m.p.owned.Add(2)
	go func() {
		defer m.p.owned.Done()
		proc.watch(m.p.life)
	}()
	go func() {
		defer m.p.owned.Done()
		m.supervise(proc)
	}()
}

// supervise keeps the connection to proc until that has ended or the platform is closed.
func (m *machine) supervise(proc *process) {
	ctx, cancel := context.WithCancel(m.p.life)
	defer cancel()
	m.p.owned.Add(1)
	go func() {
		defer m.p.owned.Done()
		defer cancel()
		select {
		case <-proc.gone:
		case <-ctx.Done():
		}
	}()
	for ctx.Err() == nil {
		client, err := m.connect(ctx)
		if err != nil {
			const again = 20 * time.Millisecond
			pause(ctx, again)
			continue
		}
		m.serve(ctx, client)
		client.Close()
	}
	select {
	case <-proc.gone:
		m.died()
	default: // the platform is closed
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// connect makes a connection and asks how things are, before anybody else may use it.
func (m *machine) connect(ctx context.Context) (*qmp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := qmp.Dial(ctx, filepath.Join(m.dir, qmpFile), m.heard)
	if err != nil {
		return nil, err
	}
	if err := m.catchUp(ctx, client); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// catchUp asks until no event has come between question and answer.
func (m *machine) catchUp(ctx context.Context, client *qmp.Client) error {
	for {
		_, before, _ := m.look()
		var run, migration struct{ Status string }
		if err := client.Do(ctx, "query-status", nil, &run); err != nil {
			return err
		}
		if err := client.Do(ctx, "query-migrate", nil, &migration); err != nil {
			return err
		}
		m.mu.Lock()
		if m.guest.events == before.events {
			m.guest.runState, m.guest.migration = run.Status, migration.Status
			if run.Status == runIOError && !m.guest.stalled {
				m.guest.fault, m.guest.stalled = "a write to a disk failed", true
			}
			m.client = client
			m.changedLocked()
			m.wakeGuardLocked()
			m.mu.Unlock()
			return nil
		}
		m.mu.Unlock()
	}
}

// serve lasts as long as the connection.
func (m *machine) serve(ctx context.Context, client *qmp.Client) {
	for {
		select {
		case <-m.guard:
			m.stopAgain(ctx, client)
			continue
		case <-client.Done():
		case <-ctx.Done():
		}
		m.mu.Lock()
		m.client = nil
		m.changedLocked()
		m.mu.Unlock()
		return
	}
}

// heard takes every event, in order.
func (m *machine) heard(e qmp.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	tell := m.guest.hear(e, m.rec.Role)
	if tell || e.Name == "MIGRATION" {
		m.log.Info("QEMU says", "event", e.Name, "data", string(e.Data), "at", e.Time)
	}
	if tell && m.client != nil {
		m.p.tell(m.statusLocked())
	}
	m.wakeGuardLocked()
	m.changedLocked()
}

// forbiddenLocked says whether the guest runs although it was stopped for good.
func (m *machine) forbiddenLocked() bool {
	stopped := m.rec.Stage == stageStopping || m.rec.Stage == stageQuiesced
	return stopped && !m.guest.halting && m.guest.runState == runRunning
}

func (m *machine) wakeGuardLocked() {
	if m.forbiddenLocked() {
		select {
		case m.guard <- struct{}{}:
		default:
		}
	}
}

// stopAgain undoes a resumption that nobody asked for: only Rollback may resume a machine that was stopped for good.
func (m *machine) stopAgain(ctx context.Context, client *qmp.Client) {
	m.mu.Lock()
	forbidden := m.forbiddenLocked()
	m.mu.Unlock()
	if !forbidden {
		return
	}
	m.log.Warn("the guest resumed unasked after it was stopped for a handover: stopping it again")
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := client.Do(ctx, "stop", nil, nil); err != nil {
		m.log.Error("cannot stop the guest again: its volume and its tap have to stay shut", "err", err)
	}
}

// died is the end of the process.
func (m *machine) died() {
	m.breakStreams()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.proc, m.client = nil, nil
	if !m.guest.ending {
		if m.guest.fault == "" {
			m.guest.fault = fmt.Sprintf("QEMU has ended: %s", m.lastWords())
		}
		m.log.Warn("QEMU has ended", "cause", m.guest.fault)
		m.p.tell(m.statusLocked())
	}
	m.changedLocked()
}
