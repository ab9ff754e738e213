package dvshost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost/balance"
	"github.com/godwit-project/godwit/agent/dvshost/policy"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/server/process"
)

// NodeOptions are those of a node that runs alone, or in an agent.
type NodeOptions struct {
	Name   string
	Socket string // where programs connect; people at AdminSocket
	// Group, by name or number, may connect programs too; "" is nobody but the node's own user. People are that user in any case.
	Group string
	// Policy says which programs may enter which container and do what there, and which other nodes may know of it; nil allows all to all. What the
	// node runs in its own process may do everything.
	Policy *policy.Policy
	Listen string            // HOST:PORT for other nodes; "" for none
	Peers  map[string]string // HOST:PORT by node name
	// Changes, unless nil, brings other nodes than Peers: each time all of them. Those that come are linked, addresses that change are used from
	// then on, and those that are left out are not asked any more.
	Changes <-chan map[string]string
	// Streams is the HOST:PORT at which other nodes open connections between programs here and there; port 0 takes a free one. "" is none: then
	// all that programs of two nodes say passes through the nodes.
	Streams string
	TLS     Files  // without them, and without Proof, only loopback addresses are allowed
	Proof   *Proof // instead of TLS
	Cache   string // directory for what is compiled; "" keeps nothing
	State   string // directory for decisions about moves, of this node alone; "" is memory: see Serve
	// Links is how other nodes are written to; its zero value batches, and compresses where that pays.
	Links node.LinkOptions
	// PeerTimeout is how long another node may be away before those who wait for its endpoints are told. Default: that of dvs/node.
	PeerTimeout time.Duration
	// LoadEvery is how often loads are measured. Default 1 s.
	LoadEvery time.Duration
	// Balance moves processes to other nodes by load; nil leaves them where they are.
	Balance *balance.Limits
	// Native is for programs of their own that the node starts.
	Native NativeOptions
	Log    *slog.Logger
	// Ready is called when everything listens, with the address for other nodes. nil: nobody wants to know.
	Ready func(address string)
}

// Serve runs a node until ctx ends. With a directory for its state it carries out, when it begins again, what it had decided of moves before it
// was killed; without one, a move that it had decided but not told the other node of is lost, and with it the process, as all others here.
func Serve(ctx context.Context, o NodeOptions) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := newServed(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	if o.Ready != nil {
		o.Ready(s.address)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.failed:
			return err
		case peers := <-o.Changes:
			if err := s.meet(peers); err != nil {
				o.Log.Warn("DVS node: the other nodes are not as told", "err", err)
			}
		}
	}
}

// served is a node that runs alone, with all that belongs to it.
type served struct {
	o       NodeOptions
	tls     *security
	others  directory
	node    *node.Node
	engine  *process.Engine
	host    *Host
	hosts   chan struct{} // closed when host is there
	address string
	people  *http.Server
	peers   *http.Server
	other   net.Listener // for other nodes, or nil
	failed  chan error
	wg      sync.WaitGroup
	// requests is held for reading by each that is served.
	requests sync.RWMutex
}

func newServed(ctx context.Context, o NodeOptions) (*served, error) {
	s := &served{o: o, failed: make(chan error, 4), hosts: make(chan struct{})}
	err := s.open(ctx)
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *served) open(ctx context.Context) error {
	o := s.o
	var err error
	if s.tls, err = o.security(); err != nil {
		return err
	}
	if err := s.tls.allows(o.Listen); err != nil {
		return err
	}
	if s.node, err = node.New(o.admission(node.Options{Name: o.Name, PeerTimeout: o.PeerTimeout, Log: o.Log, Claim: s.claim})); err != nil {
		return err
	}
	if s.engine, err = process.NewEngine(ctx, o.Cache); err != nil {
		return err
	}
	peers, err := s.link(o.Peers)
	if err != nil {
		return err
	}
	programs, err := listenUnix(o.Socket, o.Group)
	if err != nil {
		return err
	}
	s.run(func() error { return s.node.Serve(programs) })
	options := Options{Name: o.Name, Node: s.node, Socket: o.Socket, Engine: s.engine, Log: o.Log, Peers: peers, Dir: o.State, Native: o.Native}
	if o.Policy != nil {
		options.Share = o.Policy.Share
	}
	if s.host, err = New(options); err != nil {
		return err
	}
	close(s.hosts)
	if o.State == "" {
		o.Log.Info("DVS node keeps its decisions about moves in memory: it has no directory for them")
	}
	people, err := listenUnix(AdminSocket(o.Socket), "")
	if err != nil {
		return err
	}
	s.people = s.server(s.host.Handler())
	s.run(func() error { return s.people.Serve(people) })
	if o.Listen != "" {
		if err := s.listen(ctx); err != nil {
			return err
		}
	}
	s.host.Recover()
	return s.host.Weigh(o.LoadEvery, o.Balance)
}

// claim keeps those who bind a name above the moves of it that were given up. They wait until the host is there.
func (s *served) claim(ctx context.Context, container, name string) (uint64, error) {
	select {
	case <-s.hosts:
		return s.host.Floor(container, name), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// listen takes in other nodes.
func (s *served) listen(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.o.Listen)
	if err != nil {
		return fmt.Errorf("listen for other nodes: %w", err)
	}
	s.other, s.address = l, l.Addr().String()
	split := &splitter{l: l, tls: s.tls, log: s.o.Log, link: s.node.Accept, http: make(chan net.Conn), done: make(chan struct{})}
	s.peers = s.server(s.host.PeerHandler())
	s.peers.ConnContext = withAsker
	s.run(func() error { return s.peers.Serve(split) })
	s.run(split.run)
	return s.listenStreams(ctx)
}

// server returns a server whose requests close waits for.
func (s *served) server(h http.Handler) *http.Server {
	counted := func(w http.ResponseWriter, r *http.Request) {
		if !s.requests.TryRLock() {
			return // the node has ended
		}
		defer s.requests.RUnlock()
		h.ServeHTTP(w, r)
	}
	return &http.Server{
		Handler: http.HandlerFunc(counted), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelWarn),
	}
}

// run runs f, whose error ends the node.
func (s *served) run(f func() error) {
	s.wg.Go(func() {
		if err := f(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.failed <- err
		}
	})
}

func (s *served) close() {
	if s.people != nil {
		_ = s.people.Close()
	}
	if s.other != nil {
		_ = s.other.Close()
		_ = s.peers.Close()
	}
	if s.host != nil {
		s.host.Close()
	}
	if s.node != nil {
		s.node.Close()
	}
	s.wg.Wait()
	s.requests.Lock() // never given back: a request that comes now is not served
	if s.engine != nil {
		_ = s.engine.Close(context.Background())
	}
}
