package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/lab/namespace"
)

// supervisor is the one long-lived process of a lab.
type supervisor struct {
	cfg      Config
	dir      string
	log      *slog.Logger
	commands commands
	started  time.Time
	stop     context.CancelFunc
	running  sync.WaitGroup // programs
	callers  sync.WaitGroup

	mu struct {
		sync.Mutex
		provider *provider
		bird     bird
		programs []*program
		off      map[string]bool // nodes without power
		steps    []string        // progress so far
		ready    bool
		failed   error
		news     chan struct{} // closed and replaced when steps, ready or failed change
	}
}

// Supervise runs a lab in this process until ctx ends, a signal comes, or it is told to stop over its socket. It is
// what Up starts in the background; cfg comes from LoadConfig. The lab's namespaces and folder are left to Down, which
// has to cope without a supervisor anyway.
func Supervise(ctx context.Context, cfg Config) error {
	ctx, unhook := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer unhook()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &supervisor{
		cfg: cfg, dir: dirOf(cfg.Name), log: slog.New(slog.NewTextHandler(os.Stderr, nil)), started: time.Now(), stop: stop,
	}
	s.commands = commands{binary: cfg.Binary, dir: s.dir}
	if err := keepDescriptors(); err != nil { // Up has done so, but this may be somebody else's doing
		return fmt.Errorf("supervise lab %s: %w", cfg.Name, err)
	}
	s.mu.provider = &provider{}
	s.mu.off = make(map[string]bool)
	s.mu.news = make(chan struct{})

	// A thread of an emulated link that wakes up must not wait for a turn among this program's own.
	runtime.GOMAXPROCS(4*len(sites) + 8)
	// Orphans (virtual servers whose agent died) become ours, so that somebody reaps them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("supervise lab %s: become the reaper of orphans: %w", cfg.Name, err)
	}
	// Up notes it as well, but Up may be killed before it does.
	if err := os.WriteFile(pidPath(s.dir), fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
		return fmt.Errorf("supervise lab %s: note the process id: %w", cfg.Name, err)
	}
	listener, err := net.Listen("unix", controlSocket(s.dir))
	if err != nil {
		return fmt.Errorf("supervise lab %s: %w", cfg.Name, err)
	}
	var side sync.WaitGroup
	side.Go(func() { s.serve(ctx, listener) })
	side.Go(func() { reap(ctx) })

	err = s.start(ctx)
	s.settle(err)
	if err != nil {
		s.log.Error("the lab did not start", "error", err)
	} else {
		<-ctx.Done()
	}
	s.log.Info("taking down", "cause", context.Cause(ctx))
	stop()
	s.running.Wait()
	err = errors.Join(err, listener.Close())
	side.Wait()
	s.callers.Wait()
	if _, killErr := namespace.KillAll(10*time.Second, namespacesOf(cfg.Name)...); killErr != nil {
		err = errors.Join(err, killErr)
	}
	if err = errors.Join(err, s.network().close()); err != nil {
		return fmt.Errorf("supervise lab %s: %w", cfg.Name, err)
	}
	return nil
}

// start brings up everything, in the order in which one thing needs another.
func (s *supervisor) start(ctx context.Context) error {
	s.step(fmt.Sprintf("laying cables between %d nodes", len(nodes)))
	provider, err := buildNetwork(s.cfg)
	s.mu.Lock()
	s.mu.provider = provider
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.step("starting the provider's router")
	bird, err := findBird(s.dir)
	if err != nil {
		return err
	}
	if err := bird.writeConfig(); err != nil {
		return err
	}
	s.mu.Lock()
	s.mu.bird = bird
	s.mu.Unlock()
	core, err := findNode("core")
	if err != nil {
		return err
	}
	s.launch(ctx, "bird", core, bird.argv())
	if err := s.startGodwit(ctx); err != nil {
		return err
	}
	s.step("waiting for the agents and the BGP sessions")
	return s.waitReady(ctx)
}

func (s *supervisor) startGodwit(ctx context.Context) error {
	witness, err := findNode("witness")
	if err != nil {
		return err
	}
	run := func(ctx context.Context, n node, argv []string) ([]byte, error) {
		return outputOf(ctx, namespaceOf(s.cfg.Name, n.name), argv)
	}
	s.step("starting the controller")
	for _, n := range nodes {
		if err := os.MkdirAll(filepath.Join(s.dir, n.name), 0o700); err != nil {
			return fmt.Errorf("make the folder of node %s: %w", n.name, err)
		}
	}
	if _, err := run(ctx, witness, s.commands.init(witness)); err != nil {
		return err
	}
	s.launch(ctx, "controller", witness, s.commands.controller(witness))
	if err := s.waitController(ctx); err != nil {
		return err
	}
	for _, n := range nodes {
		if n.role != roleHost && n.role != roleEdge {
			continue
		}
		s.step("joining " + n.name)
		// Right after its start the controller may still be electing itself: asking again is harmless.
		var token string
		err := retry(ctx, 20*time.Second, func(ctx context.Context) error {
			out, err := run(ctx, witness, s.commands.createToken(n))
			if err == nil {
				token, err = tokenIn(out)
			}
			return err
		})
		if err != nil {
			return err
		}
		if _, err := run(ctx, n, s.commands.join(n, witness, token)); err != nil {
			return err
		}
		s.launch(ctx, "agent "+n.name, n, s.commands.agent(n))
	}
	return nil
}

// retry repeats f until it succeeds or the time is over, and returns its last error.
func retry(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up after %s: %w", limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *supervisor) waitController(ctx context.Context) error {
	return retry(ctx, 30*time.Second, func(context.Context) error {
		conn, err := net.Dial("unix", s.commands.socket())
		if err != nil {
			return fmt.Errorf("wait for the controller (its log: %s): %w", s.logPath("controller"), err)
		}
		return conn.Close()
	})
}

func (s *supervisor) waitReady(ctx context.Context) error {
	told := ""
	return retry(ctx, 2*time.Minute, func(ctx context.Context) error {
		sessions, err := s.router().sessions(ctx)
		if err != nil {
			return err
		}
		for _, b := range sessions {
			if b.State != "Established" {
				return fmt.Errorf("wait for BGP: session %s is %q (logs in %s)", b.Name, b.State, filepath.Join(s.dir, "logs"))
			}
		}
		missing, err := s.commands.notReady(ctx, func(ctx context.Context, argv []string) ([]byte, error) {
			return outputOf(ctx, namespaceOf(s.cfg.Name, "witness"), argv)
		})
		if err != nil {
			return err
		}
		if now := strings.Join(missing, ", "); now != told && now != "" {
			told = now
			s.step("still waiting for " + now + " (a host tries out its accelerators first)")
		}
		if len(missing) > 0 {
			return fmt.Errorf("wait for the agents: %v are not ready (logs in %s)", missing, filepath.Join(s.dir, "logs"))
		}
		return nil
	})
}

func (s *supervisor) logPath(program string) string {
	name := []byte(program)
	for i := range name {
		if name[i] == ' ' {
			name[i] = '-'
		}
	}
	return filepath.Join(s.dir, "logs", string(name)+".log")
}

// launch keeps a program running on a node until ctx ends.
func (s *supervisor) launch(ctx context.Context, name string, n node, argv []string) {
	p := &program{
		name: name, node: n.name, namespace: namespaceOf(s.cfg.Name, n.name), argv: argv, logPath: s.logPath(name), log: s.log,
	}
	p.mu.changed = make(chan struct{})
	s.mu.Lock()
	p.mu.off = s.mu.off[n.name]
	s.mu.programs = append(s.mu.programs, p)
	s.mu.Unlock()
	s.running.Go(func() { p.run(ctx) })
}

func (s *supervisor) network() *provider {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.provider
}

func (s *supervisor) router() bird {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.bird
}

func (s *supervisor) find(name string) (*program, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var known []string
	for _, p := range s.mu.programs {
		if p.name == name {
			return p, nil
		}
		known = append(known, p.name)
	}
	return nil, fmt.Errorf("no such process: %q; there are %q", name, known)
}

func (s *supervisor) power(name string, on bool) error {
	n, err := findNode(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.mu.off[n.name] = !on
	for _, p := range s.mu.programs {
		if p.node == n.name {
			p.power(on)
		}
	}
	s.mu.Unlock()
	if n.role == roleEdge {
		if err := s.network().setPower(n.site, on); err != nil {
			return err
		}
	}
	if on {
		return nil
	}
	if _, err := namespace.KillAll(10*time.Second, namespaceOf(s.cfg.Name, n.name)); err != nil {
		return fmt.Errorf("power off %s: %w", n.name, err)
	}
	return nil
}

func (s *supervisor) status(ctx context.Context) Status {
	st := Status{
		Name: s.cfg.Name, Dir: s.dir, Server: s.commands.server(), Started: s.started, Pid: os.Getpid(), Config: s.cfg,
		Links: s.network().links(),
	}
	s.mu.Lock()
	st.Ready = s.mu.ready
	for _, p := range s.mu.programs {
		st.Processes = append(st.Processes, p.status())
	}
	for _, n := range nodes {
		st.Nodes = append(st.Nodes, NodeStatus{
			Name: n.name, Site: n.site, Role: n.role, Namespace: namespaceOf(s.cfg.Name, n.name),
			Addresses: addressesOf(n.name), Powered: !s.mu.off[n.name],
		})
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	sessions, err := s.router().sessions(ctx)
	if err != nil {
		for _, site := range sites {
			sessions = append(sessions, BGPSession{Name: session(site), State: "unknown: " + err.Error()})
		}
	}
	st.BGP = sessions
	return st
}

func (s *supervisor) step(text string) {
	s.log.Info(text)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.steps = append(s.mu.steps, text)
	s.tellLocked()
}

// settle records how the start ended.
func (s *supervisor) settle(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.ready, s.mu.failed = err == nil, err
	s.tellLocked()
}

func (s *supervisor) tellLocked() {
	close(s.mu.news)
	s.mu.news = make(chan struct{})
}

// watch tells the steps, past and coming, until the start has ended.
func (s *supervisor) watch(ctx context.Context, enc *json.Encoder) error {
	told := 0
	for {
		s.mu.Lock()
		steps, ready, failed, news := s.mu.steps[told:], s.mu.ready, s.mu.failed, s.mu.news
		s.mu.Unlock()
		for _, step := range steps {
			if err := enc.Encode(response{Progress: step}); err != nil {
				return err
			}
			told++
		}
		if failed != nil || ready {
			return failed
		}
		select {
		case <-news:
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			return cmp.Or(s.mu.failed, ctx.Err())
		}
	}
}
