package node

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

const (
	dialPause  = 20 * time.Millisecond
	dialLonger = time.Second
)

// Dial opens a connection to another node. It must be authenticated by whoever gives the function.
type Dial func(ctx context.Context) (net.Conn, error)

// link is the way to one other node: packets in order, each once, over however many connections. Guarded by the node's lock.
type link struct {
	n    *Node
	name string
	dial Dial
	wake *sync.Cond

	o LinkOptions

	incarnation uint64 // of what is sent: a new one means that earlier packets may be lost
	q           queue

	peer     uint64 // incarnation of what is received
	received uint64 // packets of that
	number   uint64 // of the next packet of this connection; 0 until it says so
	acked    uint64 // what the peer has been told of received
	beat     bool   // tell it now

	streams    int           // between programs, that this node has asked for
	wrote      atomic.Uint64 // bytes
	reconnects uint64

	conn  net.Conn
	turn  int         // counts connections
	timer *time.Timer // runs while there is none
	away  bool        // for longer than the timeout
}

func newIncarnation() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:]) | 1
}

// Link makes another node known. With a dial function this node connects, and connects again, until Close; without, it waits for
// Accept. Only one of the two should dial.
func (n *Node) Link(name string, dial Dial) error { return n.LinkWith(name, dial, LinkOptions{}) }

// LinkWith is Link with options.
func (n *Node) LinkWith(name string, dial Dial, o LinkOptions) error {
	n.mu.Lock()
	if n.closed || n.links[name] != nil || name == n.o.Name || name == "" {
		n.mu.Unlock()
		return fmt.Errorf("DVS node %s: a link to %q is there already, or cannot be", n.o.Name, name)
	}
	l := &link{
		n: n, name: name, dial: dial, o: o, wake: sync.NewCond(&n.mu), incarnation: newIncarnation(), q: newQueue(), away: true,
	}
	n.links[name] = l
	n.mu.Unlock()
	if dial != nil {
		n.start(l.keepDialing)
	}
	return nil
}

// Accept takes a connection that another node has dialled. It returns when the connection has ended.
func (n *Node) Accept(c net.Conn) error {
	return n.accept(c, "")
}

// AcceptFrom is Accept for a connection whose other end is known, from its certificate: a node that says another name is refused.
func (n *Node) AcceptFrom(c net.Conn, name string) error {
	if name == "" {
		return errors.Join(errors.New("DVS node: the name of the node at the other end is needed"), c.Close())
	}
	return n.accept(c, name)
}

func (n *Node) accept(c net.Conn, name string) error {
	if n.ctx.Err() != nil {
		return errors.Join(net.ErrClosed, c.Close())
	}
	_, err := n.run(c, name, false)
	if n.ctx.Err() != nil {
		return nil
	}
	return err
}

func (l *link) keepDialing() {
	n := l.n
	pause := dialPause
	for n.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(n.ctx, n.o.PeerTimeout)
		c, err := l.dial(ctx)
		cancel()
		if err == nil {
			var used bool
			if used, err = n.run(c, l.name, true); used {
				pause = dialPause
			}
		}
		n.o.Log.Debug("DVS link down", "node", l.name, "err", err)
		select {
		case <-n.ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, dialLonger)
	}
}

// run uses one connection until it breaks, and tells whether it was of use. want is the node at the other end, if that is known.
func (n *Node) run(c net.Conn, want string, dialled bool) (used bool, err error) {
	stop := context.AfterFunc(n.ctx, func() { _ = c.Close() })
	defer stop()
	defer c.Close()
	r := bufio.NewReaderSize(c, readBuffer)
	l, turn, err := n.shake(c, r, want, dialled)
	if err != nil {
		return false, fmt.Errorf("DVS link to %s: %w", want, err)
	}
	var writer sync.WaitGroup
	writer.Go(func() { l.write(c, turn) })
	ended := make(chan struct{})
	writer.Go(func() { l.heartbeat(ended) })
	err = l.read(c, r, turn)
	close(ended)
	n.mu.Lock()
	if l.turn == turn {
		l.downLocked()
	}
	n.mu.Unlock()
	_ = c.Close()
	writer.Wait()
	return true, err
}

// shake exchanges hellos, and makes the connection the link's.
func (n *Node) shake(c net.Conn, r *bufio.Reader, want string, dialled bool) (*link, int, error) {
	_ = c.SetDeadline(time.Now().Add(n.o.PeerTimeout))
	var l *link
	if dialled {
		n.mu.Lock()
		l = n.links[want]
		hello := l.helloLocked()
		n.mu.Unlock()
		if _, err := c.Write(hello); err != nil {
			return nil, 0, err
		}
	}
	f, err := wire.Read(r)
	if err != nil {
		return nil, 0, err
	}
	if f.Kind != wire.KindLinkHello {
		return nil, 0, fmt.Errorf("%w: %s for a hello", wire.ErrFrame, f.Kind)
	}
	m, err := wire.ParseLinkHello(f.Body)
	if err != nil {
		return nil, 0, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	known := n.links[m.Node]
	if known == nil || want != "" && m.Node != want || m.Version != wire.Version || n.closed {
		return nil, 0, fmt.Errorf("node %q of version %d was not expected", m.Node, m.Version)
	}
	if !dialled {
		l = known
		if _, err := c.Write(l.helloLocked()); err != nil { // small: it fits into any socket
			return nil, 0, err
		}
	}
	_ = c.SetDeadline(time.Time{})
	l.upLocked(c, m)
	return l, l.turn, nil
}

func (l *link) helloLocked() []byte {
	m := wire.LinkHello{
		Version: wire.Version, Incarnation: l.incarnation, PeerIncarnation: l.peer, Received: l.received, Node: l.n.o.Name,
	}
	return m.Append(nil)
}

// upLocked begins to use a connection, where the one before ended.
func (l *link) upLocked(c net.Conn, m wire.LinkHello) {
	if l.conn != nil {
		_ = l.conn.Close()
	}
	if l.turn > 0 {
		l.n.stats.Reconnects++
		l.reconnects++
	}
	l.conn, l.away = c, false
	l.turn++
	if l.timer != nil {
		l.timer.Stop()
	}
	if m.Incarnation != l.peer {
		if l.peer != 0 {
			l.cutLocked()
		}
		l.peer, l.received = m.Incarnation, 0
	}
	if m.PeerIncarnation == l.incarnation {
		l.q.ack(m.Received)
	} else {
		l.q = newQueue()
	}
	l.q.again, l.acked, l.number = 0, l.received, 0
	for _, r := range l.n.records {
		if r.owner != nil {
			l.announceLocked(announcement(r))
		}
	}
	l.wake.Broadcast()
}

// downLocked notes that there is no connection; if that lasts, those who wait are told.
func (l *link) downLocked() {
	l.conn = nil
	l.turn++
	turn := l.turn
	l.timer = time.AfterFunc(l.n.o.PeerTimeout, func() {
		l.n.mu.Lock()
		defer l.n.mu.Unlock()
		if l.turn == turn && l.conn == nil && !l.n.closed {
			l.away = true
			l.incarnation, l.q = newIncarnation(), newQueue()
			l.cutLocked()
			l.wake.Broadcast()
		}
	})
	l.wake.Broadcast()
}

func (l *link) shutLocked() {
	if l.conn != nil {
		_ = l.conn.Close()
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	l.turn++
	l.wake.Broadcast()
}

// cutLocked tells those who wait for endpoints of the node that it is away.
func (l *link) cutLocked() {
	l.n.peerGoneLocked(l)
	for _, r := range l.n.records {
		if r.node == l.name && r.left { // nobody else can say that it is lost; if it is not, a newer version will
			r.left, r.node = false, ""
			l.n.endLocked(r, endpoint.Dead)
		}
		if r.owner == nil && r.node == l.name && !r.cut {
			r.cut = true
			l.n.changedLocked(r)
			l.n.overLocked(r)
		}
	}
}

// waitRoom blocks while too much is queued; false when the link is down for good.
func (l *link) waitRoom() bool {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	for l.q.bytes > linkRoom && !l.away && !l.n.closed {
		l.wake.Wait()
	}
	return !l.away && !l.n.closed
}

// LinkInfo is one line of introspection.
type LinkInfo struct {
	Node   string
	Up     bool
	Queued int    // bytes not acknowledged
	Wrote  uint64 // bytes, as they went over the connections
	// Reconnects counts how often a connection has been replaced.
	Reconnects uint64
}

// Links lists the links.
func (n *Node) Links() []LinkInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []LinkInfo
	for _, l := range n.links {
		all = append(all, LinkInfo{Node: l.name, Up: l.conn != nil, Queued: l.q.bytes, Wrote: l.wrote.Load(), Reconnects: l.reconnects})
	}
	return all
}
