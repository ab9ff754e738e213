// Package qemu runs virtual servers as QEMU processes, each in a session of its own, so that they outlive the program that
// started them; New adopts them again.
//
// Of each machine Dir/NAME holds all that a restart needs: machine.json (what it is, the newest epoch, how far a handover
// was), pid, qmp.sock, qemu.log, console.log. Nothing but this package may speak QMP with these processes.
//
// A handover's stream goes through socket pairs whose other ends are given to QEMU: what reads or stops reading there
// decides how far QEMU gets, so the guest runs on for as long as wanted (see DESIGN.md, also for what keeps QEMU from
// stopping the guest by itself). Volumes, taps and epochs' meaning belong to others.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godwit-project/godwit/server"
)

// Options say where and how a Platform works.
type Options struct {
	Dir    string // machines live in Dir/NAME; made if missing
	Logger *slog.Logger
	Binary string // path or name of QEMU; "" looks up qemu-system-x86_64

	// StallPasses is how many passes over memory in a row may fail to get nearer before Converge gives up; 0 means 30.
	StallPasses int
	// HoldAt is the time that sending the rest may take for Converge to be satisfied; 0 means 10 ms.
	HoldAt time.Duration
	// WorstHold is the time that sending the rest may take at most, where memory does not get nearer; 0 means 1 s.
	WorstHold time.Duration
	// StallTimeout is how long a stream may move nothing before Converge and Quiesce give up; 0 means 30 s.
	StallTimeout time.Duration
}

// Platform is the server.Platform of this host's QEMU. Close it when done; the machines run on.
type Platform struct {
	o       Options
	log     *slog.Logger
	life    context.Context // ends with Close
	end     context.CancelFunc
	owned   sync.WaitGroup // every goroutine of the platform and its machines
	probing sync.Mutex

	mu       sync.Mutex
	machines map[string]*machine   // guarded by mu
	watchers map[*watcher]struct{} // guarded by mu
}

var _ server.Platform = (*Platform)(nil)

// New adopts the machines found in o.Dir: those whose process is still there are connected to, the others are dead.
func New(o Options) (*Platform, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Binary == "" {
		o.Binary = "qemu-system-x86_64"
	}
	setDefault(&o.StallPasses, 30)
	setDefault(&o.HoldAt, 10*time.Millisecond)
	setDefault(&o.WorstHold, time.Second)
	setDefault(&o.StallTimeout, 30*time.Second)
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("find the machines' folder: %w", err)
	}
	o.Dir = dir
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the machines' folder: %w", err)
	}
	p := &Platform{o: o, log: o.Logger, machines: make(map[string]*machine), watchers: make(map[*watcher]struct{})}
	p.life, p.end = context.WithCancel(context.Background())
	if err := p.adopt(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// adopt finds what an earlier process left and waits shortly for it to answer.
func (p *Platform) adopt() error {
	entries, err := os.ReadDir(p.o.Dir)
	if err != nil {
		return fmt.Errorf("look for machines to adopt: %w", err)
	}
	const patience = 3 * time.Second // a QEMU whose stream stalls may need 4 s; then it connects later
	ctx, cancel := context.WithTimeout(p.life, patience)
	defer cancel()
	for _, e := range entries {
		if !e.IsDir() || checkName(e.Name()) != nil {
			continue
		}
		m := p.machine(e.Name())
		found, err := m.adopt()
		if err != nil {
			return fmt.Errorf("adopt machine %s: %w", e.Name(), err)
		}
		if !found {
			p.log.Warn("folder without a machine", "dir", m.dir)
		}
	}
	for _, m := range p.all() {
		if _, err := m.control(ctx); err != nil && m.alive() {
			p.log.Warn("adopted machine does not answer yet", "machine", m.name, "err", err)
		}
	}
	return nil
}

// Close lets go of all machines, which run on, except that a stream under way breaks.
func (p *Platform) Close() error {
	p.end()
	for _, m := range p.all() {
		m.letGo()
	}
	p.owned.Wait()
	return nil
}

// machine returns the one of that name, which may be absent yet.
func (p *Platform) machine(name string) *machine {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.machines[name]
	if !ok {
		m = newMachine(p, name)
		p.machines[name] = m
	}
	return m
}

func (p *Platform) all() []*machine {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*machine, 0, len(p.machines))
	for _, m := range p.machines {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *machine) int { return strings.Compare(a.name, b.name) })
	return all
}

// Status implements server.Platform. It answers from what QEMU has told, so it does not wait for QEMU.
func (p *Platform) Status(_ context.Context, name string) (server.Status, error) {
	if err := checkName(name); err != nil {
		return server.Status{}, err
	}
	return p.machine(name).status(), nil
}

// List implements server.Platform.
func (p *Platform) List() ([]server.Status, error) {
	var list []server.Status
	for _, m := range p.all() {
		if s := m.status(); s.State != server.StateAbsent {
			list = append(list, s)
		}
	}
	return list, nil
}

var errName = errors.New("a machine's name is made of letters, digits, '.', '_' and '-', begins with a letter or digit, and has at most 64")

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("machine %q: %w", name, errName)
	}
	return nil
}

// binary finds QEMU.
func (p *Platform) binary() (string, error) {
	path, err := exec.LookPath(p.o.Binary)
	if err != nil {
		return "", fmt.Errorf("find QEMU: %w; install the package qemu-system-x86 (Debian, Ubuntu) or qemu-kvm (others)", err)
	}
	return path, nil
}
