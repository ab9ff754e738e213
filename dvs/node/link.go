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
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

const (
	linkBatch  = 256 << 10 // bytes written at once, at most
	linkRoom   = 16 << 20  // bytes queued before a moving state waits
	ackAfter   = 32        // packets
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

	incarnation uint64   // of what is sent: a new one means that earlier packets may be lost
	sent        uint64   // number of the newest packet
	queue       []packet // not acknowledged
	next        int      // the first of the queue that this connection has not written
	bytes       int

	peer     uint64 // incarnation of what is received
	received uint64
	acked    uint64 // what the peer has been told of received
	beat     bool   // tell it now

	conn  net.Conn
	turn  int         // counts connections
	timer *time.Timer // runs while there is none
	away  bool        // for longer than the timeout
}

type packet struct {
	number uint64
	frame  []byte
}

func newIncarnation() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:]) | 1
}

// Link makes another node known. With a dial function this node connects, and connects again, until Close; without, it waits for
// Accept. Only one of the two should dial.
func (n *Node) Link(name string, dial Dial) error {
	n.mu.Lock()
	if n.closed || n.links[name] != nil || name == n.o.Name || name == "" {
		n.mu.Unlock()
		return fmt.Errorf("DVS node %s: a link to %q is there already, or cannot be", n.o.Name, name)
	}
	l := &link{n: n, name: name, dial: dial, wake: sync.NewCond(&n.mu), incarnation: newIncarnation(), away: true}
	n.links[name] = l
	n.mu.Unlock()
	if dial != nil {
		n.start(l.keepDialing)
	}
	return nil
}

// Accept takes a connection that another node has dialled. It returns when the connection has ended.
func (n *Node) Accept(c net.Conn) error {
	if n.ctx.Err() != nil {
		return errors.Join(net.ErrClosed, c.Close())
	}
	_, err := n.run(c, "")
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
			if used, err = n.run(c, l.name); used {
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

// run uses one connection until it breaks, and tells whether it was of use. want is the node at the other end, if it was dialled.
func (n *Node) run(c net.Conn, want string) (used bool, err error) {
	stop := context.AfterFunc(n.ctx, func() { _ = c.Close() })
	defer stop()
	defer c.Close()
	r := bufio.NewReaderSize(c, 64<<10)
	l, turn, err := n.shake(c, r, want)
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
func (n *Node) shake(c net.Conn, r *bufio.Reader, want string) (*link, int, error) {
	_ = c.SetDeadline(time.Now().Add(n.o.PeerTimeout))
	var l *link
	if want != "" {
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
	if want == "" {
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
		l.ackLocked(m.Received)
	} else {
		l.queue, l.bytes, l.sent = nil, 0, 0
	}
	l.next, l.acked = 0, l.received
	for _, r := range l.n.records {
		if r.owner != nil {
			l.sendLocked(announcement(r))
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
			l.incarnation, l.queue, l.bytes, l.sent, l.next = newIncarnation(), nil, 0, 0, 0
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
		}
	}
}

func (l *link) sendLocked(f wire.Frame) {
	if l.away {
		return // it is told everything when it is back
	}
	l.sent++
	l.n.stats.Out++
	p := packet{number: l.sent, frame: wire.Packet{Number: l.sent, Frame: f}.Append(nil)}
	l.queue = append(l.queue, p)
	l.bytes += len(p.frame)
	l.wake.Broadcast()
}

func (l *link) ackLocked(received uint64) {
	k := 0
	for k < len(l.queue) && l.queue[k].number <= received {
		l.bytes -= len(l.queue[k].frame)
		l.queue[k].frame = nil
		k++
	}
	l.queue = l.queue[k:]
	l.next = max(l.next-k, 0)
	if k > 0 {
		l.wake.Broadcast()
	}
}

// write sends what is queued, as much as there is at a time.
func (l *link) write(c net.Conn, turn int) {
	var batch []byte
	n := l.n
	for {
		n.mu.Lock()
		due := func() bool { return l.next < len(l.queue) || l.beat || l.received-l.acked >= ackAfter }
		for l.turn == turn && !due() {
			l.wake.Wait()
		}
		if l.turn != turn {
			n.mu.Unlock()
			return
		}
		batch = batch[:0]
		if l.received > l.acked || l.beat {
			batch = wire.LinkAck{Received: l.received}.Append(batch)
			l.acked, l.beat = l.received, false
		}
		for l.next < len(l.queue) && (len(batch) == 0 || len(batch)+len(l.queue[l.next].frame) <= linkBatch) {
			batch = append(batch, l.queue[l.next].frame...)
			l.next++
		}
		n.stats.Writes++
		n.mu.Unlock()
		if _, err := c.Write(batch); err != nil {
			_ = c.Close()
			return
		}
		if cap(batch) > 4*linkBatch {
			batch = nil
		}
	}
}

// heartbeat makes the writer say something now and then.
func (l *link) heartbeat(ended <-chan struct{}) {
	t := time.NewTicker(l.n.o.PeerTimeout / 5)
	defer t.Stop()
	for {
		select {
		case <-ended:
			return
		case <-t.C:
			l.n.mu.Lock()
			l.beat = true
			l.wake.Broadcast()
			l.n.mu.Unlock()
		}
	}
}

// read takes in what the other node says.
func (l *link) read(c net.Conn, r *bufio.Reader, turn int) error {
	for {
		if r.Buffered() == 0 {
			_ = c.SetReadDeadline(time.Now().Add(l.n.o.PeerTimeout))
		}
		f, err := wire.Read(r)
		if err != nil {
			return err
		}
		l.n.mu.Lock()
		if l.turn != turn {
			l.n.mu.Unlock()
			return net.ErrClosed
		}
		err = l.takeLocked(f)
		l.n.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

func (l *link) takeLocked(f wire.Frame) error {
	switch f.Kind {
	case wire.KindLinkAck:
		m, err := wire.ParseLinkAck(f.Body)
		if err == nil {
			l.ackLocked(m.Received)
		}
		return err
	case wire.KindPacket:
		m, err := wire.ParsePacket(f.Body)
		if err != nil {
			return err
		}
		if m.Number <= l.received {
			return nil
		}
		if m.Number != l.received+1 {
			return fmt.Errorf("%w: packet %d after %d", wire.ErrFrame, m.Number, l.received)
		}
		l.received++
		l.n.stats.In++
		if l.received-l.acked >= ackAfter {
			l.wake.Broadcast()
		}
		return l.packetLocked(m.Frame)
	default:
		return fmt.Errorf("%w: unexpected %s", wire.ErrFrame, f.Kind)
	}
}

func (l *link) packetLocked(f wire.Frame) error {
	switch f.Kind {
	case wire.KindAnnounce:
		m, err := wire.ParseAnnounce(f.Body)
		if err == nil && m.Name != "" && m.Container != "" {
			l.n.learnLocked(l, m)
		}
		return err
	case wire.KindForward:
		m, err := wire.ParseForward(f.Body)
		if err != nil {
			return err
		}
		return l.n.forwardedLocked(l, m)
	case wire.KindState:
		m, err := wire.ParseForward(f.Body)
		if err != nil {
			return err
		}
		return l.n.stateLocked(l, m)
	default:
		return fmt.Errorf("%w: unexpected %s", wire.ErrFrame, f.Kind)
	}
}

// waitRoom blocks while too much is queued; false when the link is down for good.
func (l *link) waitRoom() bool {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	for l.bytes > linkRoom && !l.away && !l.n.closed {
		l.wake.Wait()
	}
	return !l.away && !l.n.closed
}

// LinkInfo is one line of introspection.
type LinkInfo struct {
	Node   string
	Up     bool
	Queued int // packets not acknowledged
}

// Links lists the links.
func (n *Node) Links() []LinkInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []LinkInfo
	for _, l := range n.links {
		all = append(all, LinkInfo{Node: l.name, Up: l.conn != nil, Queued: len(l.queue)})
	}
	return all
}
