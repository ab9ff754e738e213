package dvshost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/server/process"
)

// closeTime is how long processes are given to end by themselves.
const closeTime = time.Second

// Errors that a user can do something about.
var (
	ErrNoProcess = errors.New("no process of that name runs on this node: see godwit dvs ps")
	ErrNoPeer    = errors.New("no such node is known here: see godwit dvs links")
	ErrModule    = errors.New("the module is not here: send it first")
	// ErrCompleting refuses a name whose owner is being made at another node.
	ErrCompleting = errors.New("a move of that name was decided before this node began again, and is being carried out: its process is at the other node then")
)

// Node is what a host needs of a dvs/node.
type Node interface {
	Do(ctx context.Context, c node.Command) error
	Endpoints() []node.EndpointInfo
	Stats() node.Stats
}

// Options of a host.
type Options struct {
	Name   string // of the node
	Node   Node
	Socket string // at which the node takes in programs
	Engine *process.Engine
	Log    *slog.Logger // nil: nothing is logged
	// Peers are the hosts that processes may be moved to, by node name: the first ones, see SetPeers.
	Peers map[string]*Peer
	// Now is the clock that programs see; nil is the real one.
	Now func() time.Time
	// Dir is where decisions about moves are kept, for this node alone; "" is memory.
	Dir string
	// Native is for programs of their own that the host starts.
	Native NativeOptions
	// Share says whether another node may know of a container, and take part in moves of what is in it; nil shares all with all.
	Share func(node, container string) bool

	book *book
}

// key names an endpoint.
type key struct{ container, name string }

func (k key) String() string { return k.container + "/" + k.name }

// Host hosts the processes of one node. It is safe for concurrent use.
type Host struct {
	o       Options
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	meter   meter
	natives natives
	scratch string                           // directory for images and programs on their way; "" is the system's
	peers   atomic.Pointer[map[string]*Peer] // never changed, but replaced

	mu       sync.Mutex
	closed   bool
	running  map[key]*hosted
	incoming map[key]*hosted // standbys
	desks    map[key]*desk
	movers   map[key][]*mover // moves from here, the newest last
	moving   map[key]*task    // what somebody moves
	balanced *BalanceInfo     // nil: nothing moves by load
	callers  map[string]*callers
	groups   map[key]*member // replicated processes
	// acceptors keep the records of groups, by their ID.
	acceptors map[string]*acceptor
	ended     map[string]bool // groups
	joining   sync.Mutex      // held by who joins a group
}

// New returns a host that runs nothing yet.
func New(o Options) (*Host, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &Host{o: o, running: map[key]*hosted{}, incoming: map[key]*hosted{}, desks: map[key]*desk{}, movers: map[key][]*mover{}, moving: map[key]*task{}, callers: map[string]*callers{}, groups: map[key]*member{}, acceptors: map[string]*acceptor{}, ended: map[string]bool{}}
	h.natives.o = o.Native
	h.SetPeers(o.Peers)
	var err error
	if h.o.book, err = openBook(o.Dir); err != nil {
		return nil, err
	}
	if err := h.clearScratch(); err != nil {
		return nil, errors.Join(err, h.o.book.close())
	}
	h.remember()
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h, nil
}

// Close ends all processes.
func (h *Host) Close() {
	h.mu.Lock()
	h.closed = true
	h.cancel()
	for _, c := range h.callers {
		c.close()
	}
	members := slices.Collect(maps.Values(h.groups))
	clear(h.groups)
	h.mu.Unlock()
	for _, m := range members {
		m.close()
	}
	h.natives.close()
	ended := make(chan struct{})
	go func() { h.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(closeTime): // what is frozen waits for the end of its move
		for _, p := range h.all() {
			p.leave()
		}
		<-ended
	}
	if err := h.o.book.close(); err != nil {
		h.o.Log.Warn("DVS node's record of moves not closed", "err", err)
	}
}

// start runs f in a goroutine that Close waits for, unless that has been called.
func (h *Host) start(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.wg.Go(f)
	}
}

// all returns the processes and standbys.
func (h *Host) all() []*hosted {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.AppendSeq(slices.Collect(maps.Values(h.running)), maps.Values(h.incoming))
}

// Run starts a process of the module and binds it to the name.
func (h *Host) Run(ctx context.Context, container, name string, module []byte, limits process.Limits) error {
	k := key{container, name}
	if h.completing(k) {
		return fmt.Errorf("run %s: %w", k, ErrCompleting)
	}
	m, err := h.o.Engine.Load(ctx, module)
	if err != nil {
		return fmt.Errorf("run %s: %w", k, err)
	}
	machine, err := m.Start(ctx, process.Options{Limits: limits})
	if err != nil {
		return fmt.Errorf("run %s: %w", k, err)
	}
	p, err := h.newHosted(ctx, k, machine, limits)
	if err != nil {
		machine.Close()
		return fmt.Errorf("run %s: %w", k, err)
	}
	if p.endpoint, err = p.session.Bind(ctx, name, p.bindOptions(false)); err != nil {
		p.end()
		return fmt.Errorf("run %s: %w", k, err)
	}
	if err := h.own(p); err != nil {
		p.end()
		return fmt.Errorf("run %s: %w", k, err)
	}
	return nil
}

func (h *Host) newHosted(ctx context.Context, k key, machine *process.Process, limits process.Limits) (*hosted, error) {
	session, err := dvs.Connect(ctx, h.o.Socket, dvs.Options{Container: k.container, Program: "wasm:" + k.name})
	if err != nil {
		return nil, err
	}
	return &hosted{h: h, key: k, machine: machine, limits: limits, session: session, ended: make(chan struct{})}, nil
}

// own has the process serve its endpoint, until it moves or ends.
func (h *Host) own(p *hosted) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return dvs.ErrClosed
	}
	h.running[p.key] = p // one that was there has lost the endpoint, and is about to end
	h.wg.Go(func() {
		err := p.serve(h.ctx)
		h.mu.Lock()
		if h.running[p.key] == p {
			delete(h.running, p.key)
		}
		h.mu.Unlock()
		p.end()
		close(p.ended)
		h.o.Log.Info("DVS process ended here", "endpoint", p.key, "reason", err)
	})
	return nil
}

// find returns the process that owns an endpoint here.
func (h *Host) find(k key) (*hosted, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.running[k]; p != nil {
		return p, nil
	}
	if h.groups[k] != nil {
		return nil, fmt.Errorf("%s: %w", k, ErrReplicated)
	}
	return nil, fmt.Errorf("%s: %w", k, ErrNoProcess)
}

// Stop ends a process; its state is lost.
func (h *Host) Stop(ctx context.Context, container, name string) error {
	h.mu.Lock()
	m := h.groups[key{container, name}]
	h.mu.Unlock()
	if m != nil {
		h.EndGroup(ctx, m.spec)
		return nil
	}
	if h.natives.stop(key{container, name}) {
		return nil
	}
	p, err := h.find(key{container, name})
	if err != nil {
		return err
	}
	if err := p.endpoint.Unbind(ctx); err != nil {
		return err
	}
	select { // until then it is listed
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// List tells of all processes here, by name.
func (h *Host) List() []ProcessInfo {
	all := h.natives.list()
	h.mu.Lock()
	for _, p := range h.running {
		all = append(all, p.info("running"))
	}
	for _, p := range h.incoming {
		all = append(all, p.info("standby"))
	}
	members := slices.Collect(maps.Values(h.groups))
	h.mu.Unlock()
	for _, m := range members { // they may take a moment
		all = append(all, m.info())
	}
	slices.SortFunc(all, func(a, b ProcessInfo) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Name, b.Name))
	})
	return all
}
