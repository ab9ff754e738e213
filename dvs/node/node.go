// Package node is a node of the DVS. It introduces programs on one machine to each other and stays out of their way, carries messages
// to and from other nodes, tells everybody where endpoints are, and does a node's part when an endpoint moves.
//
// The caller's duties, in order: New; Serve with a listener for programs; Link for each other node (a function that dials, or none if the
// other dials), and Accept for each connection from one; Do for the verbs of a migration; Close, which waits for everything.
//
// A node keeps no messages, but pending notifications: a caller keeps its request and sends it again when the route says
// so. It trusts a program with nothing outside its container, and other nodes with everything: whoever makes
// the connections between nodes authenticates them.
package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/socket"
	"github.com/godwit-project/godwit/dvs/wire"
)

// Program is who asks to open a session.
type Program struct {
	Name          string // as it says itself
	PID, UID, GID int    // as the kernel says
	Groups        []int  // supplementary ones, likewise
}

// Options of a node.
type Options struct {
	Name string // unique in the cluster
	Log  *slog.Logger
	// Admit says whether a program may enter a container; nil admits all. Its error is shown to the program.
	Admit func(p Program, container string) error
	// Permit says what a program may do with an endpoint of its container, wherever that is; nil permits all. It must be quick, and say
	// the same as long as the program's session lasts. Programs that may not do everything with each other's endpoints do not share memory:
	// what they say passes through the node, which checks it.
	Permit func(p Program, container, endpoint string) Mask
	// Unlimited says whether Permit allows a program to call everything in its container, whatever is bound there later. Such a program may have
	// a stream to one elsewhere, which its own node watches over likewise. nil with Permit is none; without Permit it is not asked.
	Unlimited func(p Program, container string) bool
	// Share says whether another node may hear of a container, and have programs in it; nil shares all with all. What a node
	// says of a container that it does not share is passed over. It must say the same as long as the node lives.
	Share func(node, container string) bool
	// PeerTimeout is how long another node may be away before those who wait for its endpoints are told. Default 5 s.
	PeerTimeout time.Duration
	// Claim gives an epoch for a name that a program binds: higher than any before. nil takes the next that this node
	// knows of, which is enough where no name is bound on two sides of a partition.
	Claim func(ctx context.Context, container, name string) (uint64, error)
	// Streams is how many connections of their own to programs of one other node the programs here may have. More would compete for the processors:
	// over the link they are batched. Default 4 for each processor.
	Streams int
	// MaxPayload bounds a message. Default and limit wire.MaxPayload.
	MaxPayload int
}

// Node is one node. It is safe for concurrent use.
type Node struct {
	o           Options
	incarnation uint64
	ctx         context.Context // ends with Close
	cancel      context.CancelCauseFunc
	wg          sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
	sessions  map[*session]struct{}
	records   map[key]*record
	callers   map[uint64]place // where requests of a caller last came from
	links     map[string]*link
	orders    map[wire.Order]awaited
	meetings  map[uint64]*meeting // asked for, by number
	expected  map[token]*expected // connections that another node is to open
	address   string              // where
	busy      []*session          // whose desks are looked at in each round
	attended  bool                // somebody makes the rounds
	stats     Stats
}

// Stats counts what passed through the node itself.
type Stats struct {
	Relayed       uint64 // messages between programs here, because they could not be introduced
	Introductions uint64
	Out, In       uint64 // packets to and from other nodes
	Writes        uint64 // to links; Out/Writes is the batching
	Reconnects    uint64
	Streams       uint64 // given to programs here, to talk with one elsewhere
}

// place is a session or a link.
type place struct {
	container string
	session   *session
	link      *link
}

// New returns a node that does nothing yet.
func New(o Options) (*Node, error) {
	if o.Name == "" || len(o.Name) > wire.MaxName {
		return nil, errors.New("DVS node: a name of 1 to 255 bytes is needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.PeerTimeout <= 0 {
		o.PeerTimeout = 5 * time.Second
	}
	if o.MaxPayload <= 0 || o.MaxPayload > wire.MaxPayload {
		o.MaxPayload = wire.MaxPayload
	}
	if o.Streams <= 0 {
		o.Streams = 4 * runtime.GOMAXPROCS(0)
	}
	n := &Node{
		o: o, sessions: map[*session]struct{}{}, records: map[key]*record{}, callers: map[uint64]place{}, links: map[string]*link{},
		orders: map[wire.Order]awaited{}, meetings: map[uint64]*meeting{}, expected: map[token]*expected{},
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	n.incarnation = binary.LittleEndian.Uint64(b[:]) | 1
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	return n, nil
}

// Serve takes in programs from a unix listener, which then belongs to the node, until Close. It returns nil then.
func (n *Node) Serve(l *net.UnixListener) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return errors.Join(net.ErrClosed, l.Close())
	}
	n.listeners = append(n.listeners, l)
	n.mu.Unlock()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if n.ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("DVS node %s: accept: %w", n.o.Name, err)
		}
		if !n.start(func() { n.session(c) }) {
			_ = c.Close()
		}
	}
}

// start runs f in a goroutine that Close waits for; false when the node is closed.
func (n *Node) start(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.wg.Go(f)
	return true
}

// Close ends the node. Its programs lose their sessions, other nodes notice after their timeout.
func (n *Node) Close() {
	n.mu.Lock()
	n.closed = true
	n.cancel(net.ErrClosed)
	for _, l := range n.listeners {
		_ = l.Close()
	}
	for s := range n.sessions {
		s.conn.Shut(net.ErrClosed)
	}
	for _, l := range n.links {
		l.shutLocked()
	}
	n.mu.Unlock()
	n.wg.Wait()
}

// Stats returns what has been counted.
func (n *Node) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// EndpointInfo is one line of introspection.
type EndpointInfo struct {
	Container, Name string
	Version         endpoint.Version
	State           endpoint.RouteState
	Node            string // "" while nowhere
	Program         string // if it is here
	PID             int
	Standby         bool // a program here waits to take it over
	Watchers        int
	Fence           uint64 // the highest epoch that was tried here: a new one has to be above it
	// Rounds, Moved and LastRound are of the newest move that converged from here: rounds while the program ran, the bytes they carried, and
	// those of the last one.
	Rounds           int
	Moved, LastRound uint64
}

// Endpoints lists what the node knows.
func (n *Node) Endpoints() []EndpointInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []EndpointInfo
	for _, r := range n.records {
		i := EndpointInfo{
			Container: r.container, Name: r.name, Version: r.version, State: r.shown(), Node: r.node,
			Standby: r.standby != nil, Watchers: len(r.watchers), Fence: r.fence.Epoch,
			Rounds: r.work.rounds.Count, Moved: r.work.rounds.Bytes, LastRound: r.work.rounds.Last,
		}
		if r.owner != nil {
			i.Node, i.Program, i.PID = n.o.Name, r.owner.program.Name, r.owner.program.PID
		}
		all = append(all, i)
	}
	return all
}

func openConn(c *net.UnixConn) (*socket.Conn, Program, error) {
	conn, err := socket.New(c)
	if err != nil {
		return nil, Program{}, errors.Join(err, c.Close())
	}
	cred, err := conn.Peer()
	if err != nil {
		conn.Close()
		return nil, Program{}, err
	}
	groups, err := conn.Groups()
	if err != nil {
		conn.Close()
		return nil, Program{}, err
	}
	p := Program{PID: int(cred.Pid), UID: int(cred.Uid), GID: int(cred.Gid)}
	for _, g := range groups {
		p.Groups = append(p.Groups, int(g))
	}
	return conn, p, nil
}
