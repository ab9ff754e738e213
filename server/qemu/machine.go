package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/godwit-project/godwit/server"
	"github.com/godwit-project/godwit/server/qemu/qmp"
)

// callTimeout bounds one QMP command: answers were seen to take 4 s while a stream stalls.
const callTimeout = 15 * time.Second

var (
	errDead        = errors.New("its QEMU has ended")
	errClosed      = errors.New("the platform is closed")
	errInterrupted = errors.New("another step has ended this one")
)

// machine is one virtual server of this host, or the place of an absent one.
type machine struct {
	p    *Platform
	name string
	dir  string
	log  *slog.Logger
	step chan struct{} // holds one token while a step that changes the machine is under way

	mu        sync.Mutex
	changed   chan struct{}           // guarded by mu; closed and replaced at every change
	interrupt context.CancelCauseFunc // guarded by mu; ends the step under way
	exists    bool                    // guarded by mu; rec is on disk
	rec       record                  // guarded by mu; written by the holder of step
	proc      *process                // guarded by mu; nil if there is none
	client    *qmp.Client             // guarded by mu; nil while not connected
	guest     guest                   // guarded by mu
	stream    *stream                 // guarded by mu; the source's
	carried   *stream                 // guarded by mu; the destination's
	guard     chan struct{}           // wakes supervise: the guest may have to be stopped again
}

func newMachine(p *Platform, name string) *machine {
	return &machine{
		p: p, name: name, dir: filepath.Join(p.o.Dir, name), log: p.log.With("machine", name),
		step: make(chan struct{}, 1), changed: make(chan struct{}), guard: make(chan struct{}, 1),
	}
}

// begin waits for the steps before it. The context that it returns ends when a step that must not wait comes.
func (m *machine) begin(ctx context.Context) (context.Context, func(), error) {
	select {
	case m.step <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("wait for the step before: %w", context.Cause(ctx))
	case <-m.p.life.Done():
		return nil, nil, errClosed
	}
	if m.p.life.Err() != nil {
		<-m.step
		return nil, nil, errClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	m.mu.Lock()
	m.interrupt = cancel
	m.mu.Unlock()
	stop := context.AfterFunc(m.p.life, func() { cancel(errClosed) })
	return ctx, func() {
		stop()
		m.mu.Lock()
		m.interrupt = nil
		m.mu.Unlock()
		cancel(nil)
		<-m.step
	}, nil
}

// beginNow is begin for a step that ends the one under way.
func (m *machine) beginNow(ctx context.Context) (context.Context, func(), error) {
	m.interruptStep()
	return m.begin(ctx)
}

func (m *machine) interruptStep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.interrupt != nil {
		m.interrupt(errInterrupted)
	}
}

func (m *machine) changedLocked() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// await returns when ready says so, under the lock, or returns its error or ctx's.
func (m *machine) await(ctx context.Context, ready func() (bool, error)) error {
	for {
		m.mu.Lock()
		changed := m.changed
		ok, err := ready()
		m.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// control returns the connection to QEMU, waiting for it where QEMU is just starting.
func (m *machine) control(ctx context.Context) (*qmp.Client, error) {
	var client *qmp.Client
	err := m.await(ctx, func() (bool, error) {
		client = m.client
		if m.proc == nil {
			return false, errDead
		}
		return client != nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("reach QEMU: %w", err)
	}
	return client, nil
}

// call carries out one QMP command.
func (m *machine) call(ctx context.Context, command string, arguments, result any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := m.control(ctx)
	if err != nil {
		return err
	}
	return client.Do(ctx, command, arguments, result)
}

// note changes the record and writes it down durably. Only the holder of step may call it.
func (m *machine) note(change func(*record)) error { return m.write(change, true) }

// noteQuickly is note for what a power cut, which ends QEMU too, may make forgotten.
func (m *machine) noteQuickly(change func(*record)) error { return m.write(change, false) }

func (m *machine) write(change func(*record), durable bool) error {
	m.mu.Lock()
	rec := m.rec
	m.mu.Unlock()
	change(&rec)
	if err := rec.save(m.dir, durable); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rec, m.exists = rec, true
	m.changedLocked()
	return nil
}

// claim refuses an old epoch and writes a new one down.
func (m *machine) claim(epoch uint64) error {
	m.mu.Lock()
	exists, seen := m.exists, m.rec.Epoch
	m.mu.Unlock()
	switch {
	case !exists:
		return server.ErrAbsent
	case epoch < seen:
		return fmt.Errorf("%w: %d after %d", server.ErrOldEpoch, epoch, seen)
	case epoch > seen:
		return m.note(func(r *record) { r.Epoch = epoch })
	}
	return nil
}

// look returns a copy of what is known.
func (m *machine) look() (record, guest, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec, m.guest, m.exists
}

func (m *machine) alive() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.proc != nil
}

func (m *machine) status() server.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statusLocked()
}

func (m *machine) statusLocked() server.Status {
	s := server.Status{Name: m.name, State: server.StateAbsent}
	if !m.exists {
		return s
	}
	s.Epoch, s.StoppedAt, s.ResumedAt, s.Sent, s.Err = m.rec.Epoch, m.rec.StoppedAt, m.rec.ResumedAt, m.rec.Sent, m.guest.fault
	switch {
	case m.proc == nil:
		s.State = server.StateDead
		return s
	case m.client == nil:
		s.State = server.StateStarting
	default:
		s.State = m.guest.state(m.rec.Role)
		s.Stalled = m.guest.stalled && s.State == server.StatePaused
	}
	s.PID = m.proc.pid
	return s
}

// adopt reads what an earlier process wrote down and takes over the QEMU if it is still there.
func (m *machine) adopt() (bool, error) {
	var rec record
	found, err := rec.load(m.dir)
	if err != nil || !found {
		return false, err
	}
	proc, err := findProcess(m.dir, m.name)
	if err != nil {
		return false, err
	}
	m.mu.Lock()
	m.rec, m.exists = rec, true
	m.mu.Unlock()
	if proc != nil {
		m.hold(proc)
	}
	return true, nil
}

// launch starts QEMU for rec and waits until it answers.
func (m *machine) launch(ctx context.Context, rec record) error {
	binary, err := m.p.binary()
	if err != nil {
		return err
	}
	arguments, err := commandLine(rec.Machine, rec.Role == roleIncoming, rec.Ballast, rec.Sandbox)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.dir, 0o750); err != nil {
		return fmt.Errorf("make the machine's folder: %w", err)
	}
	for _, stale := range []string{pidFile, qmpFile, logFile} {
		if err := os.Remove(filepath.Join(m.dir, stale)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove what an earlier QEMU left: %w", err)
		}
	}
	if err := syncDir(m.p.o.Dir); err != nil {
		return err
	}
	if err := m.note(func(r *record) { *r = rec }); err != nil {
		return err
	}
	proc, err := spawn(binary, m.dir, arguments)
	if err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	m.mu.Lock()
	m.guest = guest{}
	m.mu.Unlock()
	m.hold(proc)
	if _, err := m.control(ctx); err != nil {
		if words := m.lastWords(); words != "" {
			return fmt.Errorf("start QEMU: %s: %w", words, err)
		}
		return fmt.Errorf("start QEMU: %w", err)
	}
	return nil
}

// lastWords are the end of what QEMU wrote to its log.
func (m *machine) lastWords() string {
	const enough = 600
	data, err := os.ReadFile(filepath.Join(m.dir, logFile))
	if err != nil {
		return ""
	}
	if len(data) > enough {
		data = data[len(data)-enough:]
	}
	return string(trimLines(data))
}

// kill ends the process, if there is one, and waits until it is gone.
func (m *machine) kill(ctx context.Context) error {
	m.mu.Lock()
	proc := m.proc
	m.mu.Unlock()
	if proc == nil {
		return nil
	}
	if err := proc.kill(); err != nil {
		return fmt.Errorf("kill QEMU %d: %w", proc.pid, err)
	}
	return m.await(ctx, func() (bool, error) { return m.proc == nil, nil })
}

// remove kills the process and forgets the machine.
func (m *machine) remove(ctx context.Context) error {
	m.breakStreams()
	m.mu.Lock()
	m.guest.ending = true
	m.mu.Unlock()
	if err := m.kill(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(m.dir); err != nil {
		return fmt.Errorf("remove the machine's files: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exists, m.rec, m.guest = false, record{}, guest{}
	m.changedLocked()
	return nil
}

// breakStreams ends what is carried in either direction and waits for it.
func (m *machine) breakStreams() {
	m.mu.Lock()
	streams := []*stream{m.stream, m.carried}
	m.stream, m.carried = nil, nil
	m.mu.Unlock()
	for _, s := range streams {
		if s != nil {
			s.close()
		}
	}
}

// letGo is Close for one machine.
func (m *machine) letGo() {
	m.interruptStep()
	m.breakStreams()
}
