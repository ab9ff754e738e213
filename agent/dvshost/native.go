package dvshost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/server/native"
)

const (
	// nativeBindTime bounds how long a program may take until it has bound its name, or until one that has moved is back at its node.
	nativeBindTime = 10 * time.Second
	nativePause    = time.Millisecond
	// nativeSocket is the link to the node's socket in a program's place.
	nativeSocket = "dvs.sock"
)

// Errors of native programs that a user can do something about.
var (
	ErrNativeBind  = errors.New("the program has not bound its name: it has to call dvs.Connect and Bind with $" + dvs.EnvSocket + ", $" + dvs.EnvContainer + " and $" + dvs.EnvName)
	ErrNativeNames = errors.New("a process that moves as a whole binds one name, and this one has more")
	// ErrNativeAccept refuses a program that comes from another node.
	ErrNativeAccept = errors.New("this node takes no native programs in: start it with --native, if it may run whatever other nodes send")
	errNativeOver   = errors.New("no move of that epoch waits for the program's image")
)

// NativeOptions are for programs that the node starts and that are no WebAssembly.
type NativeOptions struct {
	// Shepherd is how this program is run so that it calls native.Shepherd.
	Shepherd []string
	// Dir is where programs that move as a whole find their files; it has to be the same on all nodes. Default DefaultNativeDir.
	Dir string
	// Accept takes in programs that move here. Who can speak to this host as another can then run anything as this one's user.
	Accept bool
}

// DefaultNativeDir is where programs that move as a whole find their files.
const DefaultNativeDir = "/run/godwit/native"

// NativeSpec is a native program, as the nodes of a move tell it each other.
type NativeSpec struct {
	Container string   `json:"container"`
	Name      string   `json:"name"`
	Path      string   `json:"path,omitempty"` // of the executable, at the node that starts it first
	Arguments []string `json:"arguments,omitempty"`
	// Whole: the process moves by CRIU. Otherwise its program gives Snapshot and Restore, or Pieces, and a new process takes over.
	Whole bool `json:"whole"`
}

func (s NativeSpec) key() key { return key{s.Container, s.Name} }

// natives are the native programs of a host.
type natives struct {
	o NativeOptions

	mu      sync.Mutex
	closed  bool
	running map[key]*program
	coming  map[key]*program // that wait for a state from another node
}

// runner is a program's process: native.Place or native.Plain.
type runner interface {
	PID() int
	Ended() <-chan struct{}
	Reason() error
	Close()
}

// program is one native program.
type program struct {
	h      *Host
	spec   NativeSpec
	output *native.Lines
	runner runner
	place  *native.Place // the same, of one that moves as a whole; else nil

	dumping sync.Mutex // held while an image is taken
	epoch   uint64     // of the move that may take one; 0: none may

	arrival *arrival      // of one that came as a whole, until it is here
	waited  chan struct{} // closed when it waits no longer for a state, if it ever did
	settle  func()        // closes it
}

// RunNative starts a program and waits until it has bound its name.
func (h *Host) RunNative(ctx context.Context, spec NativeSpec) error {
	if err := h.runNative(ctx, spec); err != nil {
		return fmt.Errorf("run %s: %w", spec.key(), err)
	}
	return nil
}

func (h *Host) runNative(ctx context.Context, spec NativeSpec) error {
	k := spec.key()
	if k.container == "" || k.name == "" || spec.Path == "" {
		return errors.New("a container, a name and a program are needed")
	}
	if h.completing(k) {
		return ErrCompleting
	}
	p := h.newProgram(spec)
	if err := p.prepare(ctx, spec.Path); err != nil {
		return err
	}
	err := p.start(ctx, "")
	if err == nil {
		err = p.waitFor(ctx, func(e node.EndpointInfo) bool { return e.Node == h.o.Name && e.PID == p.runner.PID() })
	}
	if err == nil {
		err = h.natives.add(p, false)
	}
	if err != nil {
		p.end()
		return err
	}
	h.watchNative(p)
	return nil
}

func (h *Host) newProgram(spec NativeSpec) *program {
	p := &program{h: h, spec: spec, waited: make(chan struct{})}
	p.settle = sync.OnceFunc(func() { close(p.waited) })
	p.output = native.NewLines(func(line string) { h.o.Log.Info("DVS program says", "endpoint", spec.key(), "text", line) })
	return p
}

// prepare makes what the program needs before it runs; path is that of its executable.
func (p *program) prepare(ctx context.Context, path string) error {
	if !p.spec.Whole {
		p.spec.Path = path
		return nil
	}
	o := p.h.natives.o
	if len(o.Shepherd) == 0 {
		return errors.New("this node does not move whole processes")
	}
	criu, err := native.Find(ctx, os.Getenv)
	if err != nil {
		return err
	}
	p.place, err = native.Prepare(ctx, native.Options{
		Shepherd: o.Shepherd, Dir: o.dir(), Program: path, Links: map[string]string{nativeSocket: p.h.o.Socket}, CRIU: criu, Output: p.output,
	})
	if err == nil {
		p.runner = p.place
	}
	return err
}

func (o NativeOptions) dir() string {
	if o.Dir != "" {
		return o.Dir
	}
	return DefaultNativeDir
}

// start runs the program; moves is what it is told of that, if not the usual.
func (p *program) start(ctx context.Context, moves string) error {
	env := slices.DeleteFunc(os.Environ(), func(one string) bool { return strings.HasPrefix(one, "GODWIT_") })
	env = append(env, dvs.EnvContainer+"="+p.spec.Container, dvs.EnvName+"="+p.spec.Name)
	if p.place != nil {
		env = append(env, dvs.EnvSocket+"="+p.h.natives.o.dir()+"/"+nativeSocket, dvs.EnvMoves+"="+dvs.MovesWhole)
		return p.place.Start(ctx, p.spec.Arguments, env)
	}
	if moves != "" {
		env = append(env, dvs.EnvMoves+"="+moves)
	}
	plain, err := native.Run(p.spec.Path, p.spec.Arguments, append(env, dvs.EnvSocket+"="+p.h.o.Socket), p.output)
	if err == nil {
		p.runner = plain
	}
	return err
}

// waitFor waits until the node says so of the program's endpoint.
func (p *program) waitFor(ctx context.Context, is func(node.EndpointInfo) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, nativeBindTime, ErrNativeBind)
	defer cancel()
	for {
		if slices.ContainsFunc(p.h.endpointsOf(p.spec.key()), is) {
			return nil
		}
		select {
		case <-p.runner.Ended():
			return fmt.Errorf("%w%s", p.runner.Reason(), p.said())
		case <-ctx.Done():
			return fmt.Errorf("%w%s", context.Cause(ctx), p.said())
		case <-time.After(nativePause):
		}
	}
}

// endpointsOf is what the node knows of a name: one entry, or none.
func (h *Host) endpointsOf(k key) []node.EndpointInfo {
	return slices.DeleteFunc(h.o.Node.Endpoints(), func(e node.EndpointInfo) bool { return e.Container != k.container || e.Name != k.name })
}

// said is what the program wrote last, for an error's text.
func (p *program) said() string {
	last := p.output.Last()
	if len(last) == 0 {
		return ""
	}
	return fmt.Sprintf(" (it wrote: %.500q)", strings.Join(last, "\n"))
}

// end ends the program, if it runs, and whatever was to come.
func (p *program) end() {
	p.settle()
	if p.arrival != nil {
		p.arrival.end()
	}
	if p.runner != nil {
		p.runner.Close()
	}
}

// clearScratch makes room for what is on its way. Without a directory of its own the host leaves what it was killed over to the system.
func (h *Host) clearScratch() error {
	if h.o.Dir == "" {
		return nil
	}
	h.scratch = filepath.Join(h.o.Dir, "moving")
	if err := errors.Join(os.RemoveAll(h.scratch), os.MkdirAll(h.scratch, 0o700)); err != nil {
		return fmt.Errorf("make room for programs on their way: %w", err)
	}
	return nil
}

// add notes a program, in place of one that is about to end.
func (n *natives) add(p *program, coming bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return dvs.ErrClosed
	}
	if n.running == nil {
		n.running, n.coming = map[key]*program{}, map[key]*program{}
	}
	if coming {
		n.coming[p.spec.key()] = p
		return nil
	}
	p.settle()
	delete(n.coming, p.spec.key())
	if old := n.running[p.spec.key()]; old != nil {
		p.h.start(old.end)
	}
	n.running[p.spec.key()] = p
	return nil
}

func (n *natives) find(k key) *program {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running[k]
}

// forget ends a program that waits.
func (n *natives) forget(k key) {
	n.mu.Lock()
	p := n.coming[k]
	delete(n.coming, k)
	n.mu.Unlock()
	if p != nil {
		p.end()
	}
}

// close ends all programs.
func (n *natives) close() {
	n.mu.Lock()
	n.closed = true
	all := make([]*program, 0, len(n.running)+len(n.coming))
	for _, p := range n.running {
		all = append(all, p)
	}
	for _, p := range n.coming {
		all = append(all, p)
	}
	n.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(p.end)
	}
	wg.Wait()
}

// watchNative forgets a program that has ended.
func (h *Host) watchNative(p *program) {
	h.start(func() {
		select {
		case <-p.runner.Ended():
		case <-h.ctx.Done():
			return
		}
		h.natives.mu.Lock()
		if h.natives.running[p.spec.key()] == p {
			delete(h.natives.running, p.spec.key())
		}
		h.natives.mu.Unlock()
		h.o.Log.Info("DVS program ended here", "endpoint", p.spec.key(), "reason", p.runner.Reason())
	})
}

// list tells of all programs.
func (n *natives) list() (all []ProcessInfo) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for state, programs := range map[string]map[key]*program{"running": n.running, "standby": n.coming} {
		for k, p := range programs {
			all = append(all, ProcessInfo{Container: k.container, Name: k.name, State: state, Module: p.spec.kind(), Memory: residentMemory(p.pid())})
		}
	}
	return all
}

func (p *program) pid() int {
	if p.runner == nil {
		return 0
	}
	return p.runner.PID()
}

// kind says in place of a module's sum what the program is.
func (s NativeSpec) kind() string {
	if s.Whole {
		return "native, moved by CRIU"
	}
	return "native"
}

// residentMemory returns how many bytes a process has in memory; 0 if that cannot be learnt.
func residentMemory(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	var size, resident int64
	if err == nil {
		_, err = fmt.Sscan(string(b), &size, &resident)
	}
	if err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}

// stop ends a program, if it is one.
func (n *natives) stop(k key) bool {
	n.mu.Lock()
	p := n.running[k]
	delete(n.running, k)
	n.mu.Unlock()
	if p == nil {
		return false
	}
	p.end()
	return true
}

// executable opens the file of a running program.
func (p *program) executable() (io.ReadCloser, error) {
	return os.Open(fmt.Sprintf("/proc/%d/exe", p.runner.PID()))
}
