package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/godwit-project/godwit/server/oomscore"
)

// ErrEnded says that the program of a place has ended.
var ErrEnded = errors.New("the program has ended")

// Options of a place.
type Options struct {
	// Shepherd is how this program is run so that it calls Shepherd: its path and arguments.
	Shepherd []string
	// Dir is where the place keeps what the program sees, the same path on every machine. Only the place sees what is in it.
	Dir string
	// Program is the path of the executable file. It is copied.
	Program string
	// Links are symbolic links in Dir: where to, by name.
	Links map[string]string
	// CRIU is the path of criu; "" for a place that is neither dumped nor restored into.
	CRIU string
	// Output takes what the program writes.
	Output io.Writer
}

// Place is where one program runs. It is safe for concurrent use.
type Place struct {
	o       Options
	cmd     *exec.Cmd
	orders  *os.File
	turn    chan struct{} // holds one token
	answers chan answer
	ended   chan struct{} // closed when the shepherd has ended, and all with it
	wg      sync.WaitGroup

	mu     sync.Mutex
	pid    int // of the program, as the machine sees it
	reason string
}

// Prepare makes a place in which nothing runs yet.
func Prepare(ctx context.Context, o Options) (*Place, error) {
	if os.Geteuid() != 0 {
		return nil, ErrRoot
	}
	p := &Place{o: o, turn: make(chan struct{}, 1), answers: make(chan answer), ended: make(chan struct{})}
	p.turn <- struct{}{}
	if err := p.open(); err != nil {
		return nil, fmt.Errorf("make a place for %s: %w", o.Program, err)
	}
	if _, err := p.order(ctx, order{Verb: setUp, Dir: o.Dir, Links: o.Links}); err != nil {
		p.Close()
		return nil, fmt.Errorf("make a place for %s: %w", o.Program, err)
	}
	return p, nil
}

// open starts the shepherd.
func (p *Place) open() (err error) {
	if err := os.MkdirAll(p.o.Dir, 0o755); err != nil {
		return err
	}
	var files []*os.File // of the shepherd
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	program, err := os.Open(p.o.Program)
	if err != nil {
		return err
	}
	files = append(files, program)
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	orders, toShepherd := pipe()
	answers, fromShepherd := pipe()
	output, fromProgram := pipe()
	if err != nil {
		return err
	}
	files = append(files, orders, fromShepherd, fromProgram)
	p.orders = toShepherd
	p.cmd = exec.Command(p.o.Shepherd[0], p.o.Shepherd[1:]...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = orders, fromProgram, fromProgram, []*os.File{fromShepherd, program}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Setsid: true}
	if err := p.cmd.Start(); err != nil {
		return errors.Join(err, toShepherd.Close(), answers.Close(), output.Close())
	}
	oomscore.Expose(p.cmd.Process.Pid) // before it starts anything
	p.wg.Go(func() {
		_, _ = io.Copy(p.o.Output, output) // until the last one that could write has ended
		_ = output.Close()
	})
	p.wg.Go(func() {
		p.listen(answers)
		_ = p.cmd.Wait() // how the program ended has been said
		close(p.ended)
	})
	return nil
}

// listen takes in what the shepherd says, until it has ended.
func (p *Place) listen(f *os.File) {
	defer f.Close()
	for lines := json.NewDecoder(f); ; {
		var a answer
		if lines.Decode(&a) != nil {
			return
		}
		if a.Ended != "" {
			p.mu.Lock()
			p.reason = a.Ended
			p.mu.Unlock()
			continue
		}
		p.answers <- a
	}
}

// order has the shepherd do something. When ctx ends it is done nevertheless, and the next order waits for that.
func (p *Place) order(ctx context.Context, o order) (answer, error) {
	select {
	case <-p.turn:
	case <-p.ended:
		return answer{}, p.end()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	done := func() { p.turn <- struct{}{} }
	if err := json.NewEncoder(p.orders).Encode(o); err != nil {
		done()
		return answer{}, errors.Join(p.end(), err)
	}
	select {
	case a := <-p.answers:
		done()
		if a.Err != "" {
			return a, errors.New(a.Err)
		}
		return a, nil
	case <-p.ended:
		done()
		return answer{}, p.end()
	case <-ctx.Done():
		p.wg.Go(func() {
			select {
			case <-p.answers:
			case <-p.ended:
			}
			done()
		})
		return answer{}, ctx.Err()
	}
}

func (p *Place) end() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason == "" {
		return ErrEnded
	}
	return fmt.Errorf("%w: %s", ErrEnded, p.reason)
}

// Start runs the program with arguments and an environment.
func (p *Place) Start(ctx context.Context, arguments, env []string) error {
	a, err := p.order(ctx, order{Verb: start, Arguments: arguments, Env: env})
	if err == nil {
		err = p.runs(a.PID)
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", p.o.Program, err)
	}
	return nil
}

// Dump stops the program and writes its image to an empty directory. It stays stopped, also after an error: Continue lets it run.
func (p *Place) Dump(ctx context.Context, dir string) error {
	if _, err := p.order(ctx, order{Verb: dump, Dir: dir, CRIU: p.o.CRIU}); err != nil {
		return fmt.Errorf("take the image of process %d: %w", p.PID(), err)
	}
	return nil
}

// Restore makes the program of an image, stopped: Continue lets it run.
func (p *Place) Restore(ctx context.Context, dir string) error {
	a, err := p.order(ctx, order{Verb: restore, Dir: dir, CRIU: p.o.CRIU})
	if err == nil {
		err = p.runs(a.PID)
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", p.o.Program, err)
	}
	return nil
}

// Continue lets a stopped program run.
func (p *Place) Continue(ctx context.Context) error {
	_, err := p.order(ctx, order{Verb: letGo})
	return err
}

// runs notes the program's process.
func (p *Place) runs(inside int) error {
	pid, err := outside(p.cmd.Process.Pid, inside)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
	return nil
}

// outside returns the process id that the machine knows a child of process 1 of a namespace by.
func outside(first, inside int) (int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", first))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, word := range strings.Fields(string(b)) {
			if lastPID(word) == inside {
				return strconv.Atoi(word)
			}
		}
	}
	return 0, fmt.Errorf("process %d is not there: %w", inside, ErrEnded)
}

// lastPID returns the process id of a process in its innermost namespace; 0 if there is none.
func lastPID(pid string) int {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if all, is := strings.CutPrefix(line, "NSpid:"); is {
			all = strings.TrimSpace(all)
			n, err := strconv.Atoi(all[strings.LastIndexAny(all, " \t")+1:])
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// PID returns the process id of the program as the machine sees it; 0 before it runs.
func (p *Place) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Ended returns a channel that is closed when the program has ended, and everything of the place with it.
func (p *Place) Ended() <-chan struct{} { return p.ended }

// Reason says how the program ended.
func (p *Place) Reason() error { return p.end() }

// Close ends the program, at once.
func (p *Place) Close() {
	_ = p.cmd.Process.Kill() // all of its namespace with it; it may have ended
	p.wg.Wait()
	_ = p.orders.Close()
}
