package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/lab/namespace"
)

// restartDelay is how long a dead program stays dead, as a service manager would have it.
const restartDelay = 200 * time.Millisecond

// program is something that the supervisor keeps running in a node until its context ends.
type program struct {
	name, node string
	namespace  string
	argv       []string
	logPath    string
	log        *slog.Logger

	mu struct {
		sync.Mutex
		process  *os.Process // nil while it does not run
		started  int
		since    time.Time
		lastExit string
		off      bool // its node has no power
		changed  chan struct{}
	}
}

// run starts the program again whenever it ends. When ctx ends it terminates it and returns once it is gone.
func (p *program) run(ctx context.Context) {
	for ctx.Err() == nil {
		if p.isOff() {
			p.sleep(ctx, time.Hour)
			continue
		}
		err := p.runOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		p.log.Info("program ended", "name", p.name, "how", err)
		p.mu.Lock()
		p.mu.lastExit = exitText(err)
		p.mu.Unlock()
		p.sleep(ctx, restartDelay)
	}
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func (p *program) runOnce(ctx context.Context) error {
	out, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.name, err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	if err := startIn(p.namespace, cmd); err != nil {
		return err
	}
	p.mu.Lock()
	p.mu.process = cmd.Process
	p.mu.started++
	p.mu.since = time.Now()
	if p.mu.off {
		_ = cmd.Process.Kill() // the power went while it was being started
	}
	p.mu.Unlock()
	err = cmd.Wait()
	p.mu.Lock()
	p.mu.process = nil
	p.mu.since = time.Now()
	p.mu.Unlock()
	return err
}

// sleep waits for the time given, for the power to change, or for the end of ctx.
func (p *program) sleep(ctx context.Context, d time.Duration) {
	p.mu.Lock()
	changed := p.mu.changed
	p.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-changed:
	}
}

func (p *program) isOff() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.off
}

// power says whether the program may run; taking the power does not end it by itself.
func (p *program) power(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.off = !on
	close(p.mu.changed)
	p.mu.changed = make(chan struct{})
}

func (p *program) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.process == nil {
		return fmt.Errorf("signal %s: it does not run at the moment", p.name)
	}
	if err := p.mu.process.Signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

func (p *program) status() Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Process{
		Name: p.name, Node: p.node, Restarts: max(p.mu.started-1, 0), Since: p.mu.since, LastExit: p.mu.lastExit, Log: p.logPath,
	}
	if p.mu.process != nil {
		s.Pid = p.mu.process.Pid
	}
	return s
}

// keepDescriptors makes what this process was given open by who started it, beyond input, output and error, something that it hands on to nobody. A
// daemon of the lab would keep it for as long as it runs: somebody's lock, or the end of a pipe that somebody reads to its end. (What
// Go opens by itself is never handed on.)
func keepDescriptors() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("keep descriptors from programs: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// startIn starts a command in a namespace.
func startIn(ns string, cmd *exec.Cmd) error {
	if err := namespace.Do(ns, cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return nil
}

// outputOf runs a command in a namespace to its end and returns what it printed.
func outputOf(ctx context.Context, ns string, argv []string) ([]byte, error) {
	var out, complaint limitedBuffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.WaitDelay = time.Second
	if err := startIn(ns, cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		// The first word says enough, and arguments may be secret (a token).
		return nil, errors.Join(fmt.Errorf("run %s %s: %w", filepath.Base(argv[0]), argv[1], err), complaint.asError())
	}
	return out.data, nil
}

// limitedBuffer keeps the first megabyte.
type limitedBuffer struct{ data []byte }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.data = append(b.data, p[:min(len(p), 1<<20-len(b.data))]...)
	return len(p), nil
}

func (b *limitedBuffer) asError() error {
	if len(b.data) == 0 {
		return nil
	}
	return errors.New(string(b.data))
}
