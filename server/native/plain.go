package native

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/godwit-project/godwit/server/oomscore"
)

// endTime is how long a program is given to end by itself.
const endTime = time.Second

// Plain is a program that moves by its own functions, if at all: it needs neither a place of its own nor root. It does not outlive whoever has started
// it, however that ends: nobody else would know of it, and start it a second time. Children of its own may.
type Plain struct {
	cmd   *exec.Cmd
	ended chan struct{}
	mu    sync.Mutex
	err   error
}

// Run starts a program; its environment is env alone.
func Run(path string, arguments, env []string, output io.Writer) (*Plain, error) {
	p := &Plain{cmd: exec.Command(path, arguments...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, output, output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = endTime
	started := make(chan error, 1)
	go func() { // until the program has ended: see Close
		runtime.LockOSThread() // the signal comes when the thread that has started the program ends, not the process
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		if started <- err; err != nil {
			return
		}
		err = p.cmd.Wait()
		if err == nil {
			err = errors.New("exit status 0")
		}
		p.mu.Lock()
		p.err = fmt.Errorf("%w: %w", ErrEnded, err)
		p.mu.Unlock()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	oomscore.Expose(p.PID())
	return p, nil
}

// PID returns the process id of the program.
func (p *Plain) PID() int { return p.cmd.Process.Pid }

// Ended returns a channel that is closed when the program has ended.
func (p *Plain) Ended() <-chan struct{} { return p.ended }

// Reason says how the program ended.
func (p *Plain) Reason() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close asks the program and its children to end, and makes them.
func (p *Plain) Close() {
	group := -p.cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(endTime):
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-p.ended
}
