package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// Two programs at two nodes that talk much get a TCP connection of their own, a stream: the asking node opens it with a token that the nodes have
// exchanged over their link, and each node hands its end to its program. So the nodes stay out of the path here as well, the programs
// open and listen to nothing themselves, and what passes is as secret as what passes over the link.

const (
	meetAfter   = 64 // messages of a program to an endpoint
	copyCounts  = 16 // messages for one copy
	meetTime    = 5 * time.Second
	mostStreams = 256 // of one program
	mostWaits   = 1024
)

type token = [wire.TokenSize]byte

// meeting is what a node knows of a program's talk with an endpoint elsewhere. Guarded by the node's lock.
type meeting struct {
	s       *session
	r       *record
	epoch   uint64 // of the owner
	count   int    // messages
	after   int    // so many until a stream is asked for
	asked   bool
	channel uint32 // 0 is none
	token   token
	secret  [wire.SecretSize]byte
	address string // of the other node's end of the link
	link    *link  // that counts it while asked or there
}

// expected is a connection that another node is to open for a program here.
type expected struct {
	s      *session
	secret [wire.SecretSize]byte
}

// ServeStreams takes in the connections that other nodes open for programs here, until Close; then it returns nil. The listener belongs to
// the node. address is where other nodes reach it; without a host they take that of the link. Until it is called, and for programs
// that are limited (Options.Permit, Unlimited), messages between programs of two nodes pass through the nodes.
func (n *Node) ServeStreams(l net.Listener, address string) error {
	if len(address) > wire.MaxName {
		return errors.Join(fmt.Errorf("DVS node %s: the address is longer than %d bytes", n.o.Name, wire.MaxName), l.Close())
	}
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return errors.Join(net.ErrClosed, l.Close())
	}
	n.listeners = append(n.listeners, l)
	n.address = address
	n.mu.Unlock()
	waits := make(chan struct{}, mostWaits)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if n.ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("DVS node %s: accept a stream: %w", n.o.Name, err)
		}
		select {
		case waits <- struct{}{}:
			wg.Go(func() {
				n.takeStream(c)
				<-waits
			})
		default:
			_ = c.Close()
		}
	}
}

// takeStream hands a connection to the program for which it was opened.
func (n *Node) takeStream(c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(n.ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(meetTime))
	var t token
	if _, err := io.ReadFull(c, t[:]); err != nil {
		return
	}
	fd, err := handOver(c)
	if err != nil {
		n.o.Log.Warn("DVS stream refused", "err", err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	x := n.expected[t]
	delete(n.expected, t)
	if x == nil || n.closed || x.s.giveLocked(n, fd, 1, x.secret, nil) == 0 {
		closeFile(fd)
	}
}

// giveLocked hands a program its end of a stream, and returns the number of the channel; 0 if it has no room or has gone.
func (s *session) giveLocked(n *Node, fd int, side uint8, secret [wire.SecretSize]byte, m *meeting) uint32 {
	if _, here := n.sessions[s]; !here || len(s.streams) >= mostStreams {
		return 0
	}
	i := s.freeChannel()
	if i == 0 {
		return 0
	}
	s.used[i], s.streams[i] = true, m
	n.stats.Streams++
	_ = s.conn.Send(wire.Stream{Channel: i, Side: side, Secret: secret}.Append(nil), fd)
	return i
}

// talkLocked counts a message of a program to an endpoint elsewhere, and asks for a stream when there have been many.
func (n *Node) talkLocked(s *session, r *record, q endpoint.Request) {
	if !s.direct || !s.free {
		return
	}
	m := s.talks[r]
	if m == nil {
		if len(s.talks) >= mostStreams {
			return
		}
		m = &meeting{s: s, r: r, after: meetAfter}
		s.talks[r] = m
	}
	if m.count++; q.Kind.Copies() {
		m.count += copyCounts
	}
	l := n.links[r.node]
	if m.asked || m.channel != 0 || m.count < m.after || l == nil || l.conn == nil || l.o.Relay || l.streams >= n.o.Streams {
		return
	}
	m.asked, m.epoch, m.link = true, r.version.Epoch, l
	l.streams++
	_, _ = rand.Read(m.token[:]) // never fails
	m.secret = [wire.SecretSize]byte{}
	if secure(l.conn) {
		_, _ = rand.Read(m.secret[:])
	}
	m.address = l.conn.RemoteAddr().String()
	number := newIncarnation()
	n.meetings[number] = m
	l.packetOutLocked(wire.Meet{Number: number, Endpoint: r.id, Container: r.container, Token: m.token, Secret: m.secret}.Append)
	time.AfterFunc(2*meetTime, func() { // the answer may be lost with the link
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.meetings[number] == m {
			delete(n.meetings, number)
			m.broken()
		}
	})
}

// broken has the program wait for longer before it gets a stream to that endpoint again.
func (m *meeting) broken() {
	m.end()
	m.after = min(8*m.after, 1<<24)
}

// useLocked returns the channel if it leads to the owner, and takes it back if it does not any more.
func (m *meeting) useLocked(r *record) uint32 {
	if m.channel != 0 && r.version.Epoch != m.epoch {
		_ = m.s.conn.Send(wire.Revoke{Channel: m.channel}.Append(nil))
		delete(m.s.streams, m.channel)
		delete(m.s.used, m.channel)
		m.end()
	}
	return m.channel
}

func (m *meeting) end() {
	if m.link != nil {
		m.link.streams--
	}
	m.channel, m.asked, m.count, m.link = 0, false, 0, nil
}

// meetLocked answers a node that asks for a stream to a program here.
func (n *Node) meetLocked(l *link, m wire.Meet) {
	answer := wire.Met{Number: m.Number}
	r := n.records[key{m.Container, m.Endpoint}]
	if r != nil && r.owner != nil && r.owner.direct && r.owner.free && l.shares(m.Container) && n.address != "" && !l.o.Relay && len(n.expected) < mostWaits {
		answer.Address = n.address
		x := &expected{s: r.owner, secret: m.Secret}
		n.expected[m.Token] = x
		time.AfterFunc(meetTime, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.expected[m.Token] == x {
				delete(n.expected, m.Token)
			}
		})
	}
	l.packetOutLocked(answer.Append)
}

// metLocked opens the stream that was asked for.
func (n *Node) metLocked(a wire.Met) {
	m := n.meetings[a.Number]
	delete(n.meetings, a.Number)
	if m == nil {
		return
	}
	if a.Address == "" || n.closed {
		m.broken()
		return
	}
	n.wg.Go(func() {
		fd, err := n.openStream(m.address, a.Address, m.token)
		n.mu.Lock()
		defer n.mu.Unlock()
		if err == nil && m.r.version.Epoch == m.epoch && m.r.owner == nil {
			m.channel = m.s.giveLocked(n, fd, 0, m.secret, m)
		}
		if m.channel == 0 {
			if err == nil {
				closeFile(fd)
			}
			n.o.Log.Debug("DVS programs get no stream", "address", a.Address, "err", err)
			m.broken()
			return
		}
		n.tellLocked(m.r, m.s)
	})
}

// openStream opens a connection with a token; a host that is missing is that of the link.
func (n *Node) openStream(link, address string, t token) (fd int, err error) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && host == "" {
		if host, _, err = net.SplitHostPort(link); err == nil {
			address = net.JoinHostPort(host, port)
		}
	}
	if err != nil {
		return -1, err
	}
	ctx, cancel := context.WithTimeout(n.ctx, meetTime)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return -1, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(meetTime))
	if _, err := c.Write(t[:]); err != nil {
		return -1, err
	}
	return handOver(c)
}

// secure tells whether a connection between nodes is.
func secure(c net.Conn) bool {
	_, is := c.(interface{ ConnectionState() tls.ConnectionState })
	return is
}
