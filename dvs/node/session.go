package node

import (
	"fmt"
	"net"
	"sync"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/ring"
	"github.com/godwit-project/godwit/dvs/socket"
	"github.com/godwit-project/godwit/dvs/wire"
)

// session is one program's connection, guarded by the node's lock.
type session struct {
	conn      *socket.Conn
	container string
	program   Program
	caller    uint64
	direct    bool
	page      int // descriptors, if direct
	bell      int
	desk      *desk                  // likewise
	callers   map[uint64]endpoint.ID // the session's own is of endpoint 0
	served    map[endpoint.ID]bool   // what it has ever been bound to
	watched   map[*record]struct{}   // whose routes it wants
	channels  map[*session]uint32    // introductions
	talks     map[*record]*meeting   // with programs elsewhere
	streams   map[uint32]*meeting    // by channel; nil if the other side has asked
	used      map[uint32]bool        // channel numbers
	masks     map[string]Mask        // what it may do with endpoints, as far as that has been asked
	free      bool                   // it may have streams
	hint      uint32                 // where to look for a free one
}

// session serves one program until it goes.
func (n *Node) session(c *net.UnixConn) {
	conn, program, err := openConn(c)
	if err != nil {
		n.o.Log.Warn("DVS program refused", "err", err)
		return
	}
	defer conn.Close()
	s, err := n.welcome(conn, program)
	if s == nil {
		n.o.Log.Info("DVS program refused", "pid", program.PID, "err", err)
		return
	}
	desk := s.desk
	var attendant sync.WaitGroup
	if desk != nil {
		attendant.Go(func() { n.attend(s, desk) })
	}
	for err == nil {
		var e wire.Encoded
		if e, err = conn.ReadEncoded(); err == nil {
			err = n.fromProgram(s, e)
		}
	}
	n.drop(s, err)
	if desk != nil {
		_ = desk.bell.Close()
		attendant.Wait()
		desk.close()
	}
}

// welcome does the opening of a session.
func (n *Node) welcome(conn *socket.Conn, program Program) (*session, error) {
	f, err := conn.Read()
	if err != nil {
		return nil, err
	}
	if f.Kind != wire.KindHello {
		return nil, fmt.Errorf("%w: %s for a hello", wire.ErrFrame, f.Kind)
	}
	m, err := wire.ParseHello(f.Body)
	if err != nil {
		return nil, err
	}
	program.Name = m.Program
	refuse := func(text string) error {
		_ = conn.Send(wire.Answer{Code: endpoint.NoContainer, Text: text}.Append(nil))
		return fmt.Errorf("container %q: %s", m.Container, text)
	}
	if m.Version != wire.Version {
		return nil, refuse(fmt.Sprintf("the node speaks version %d, the program %d", wire.Version, m.Version))
	}
	if m.Container == "" || m.Caller == 0 {
		return nil, refuse("a container and a caller are needed")
	}
	if n.o.Admit != nil {
		if err := n.o.Admit(program, m.Container); err != nil {
			return nil, refuse(err.Error())
		}
	}
	s := &session{
		conn: conn, container: m.Container, program: program, caller: m.Caller, direct: m.Direct, page: -1, bell: -1,
		callers: map[uint64]endpoint.ID{m.Caller: 0}, served: map[endpoint.ID]bool{}, watched: map[*record]struct{}{},
		channels: map[*session]uint32{}, talks: map[*record]*meeting{}, streams: map[uint32]*meeting{}, used: map[uint32]bool{},
		masks: map[string]Mask{},
	}
	s.free = n.unlimited(s)
	var fds []int
	if s.direct {
		if fds, err = s.share(); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		s.refuse(fds)
		return nil, net.ErrClosed
	}
	if p, ok := n.callers[m.Caller]; ok && p.session != nil {
		s.refuse(fds)
		return nil, refuse("the caller is in use")
	}
	n.sessions[s] = struct{}{}
	n.callers[m.Caller] = place{container: m.Container, session: s}
	w := wire.Welcome{Version: wire.Version, MaxPayload: uint32(n.o.MaxPayload), Node: n.o.Name}
	return s, conn.Send(w.Append(nil), fds...)
}

// share makes the session's page, bell and desk, and returns the program's descriptors.
func (s *session) share() (fds []int, err error) {
	if s.page, err = ring.Make("dvs page", ring.PageSize); err != nil {
		return nil, err
	}
	if s.bell, err = ring.Bell(); err != nil {
		s.closeFiles()
		return nil, err
	}
	d, rest, err := newDesk(s.page, s.bell)
	if err == nil {
		if fds, err = ring.Dup(s.page, s.bell); err != nil {
			ring.Close(rest...)
			d.close()
		}
	}
	if err != nil {
		s.closeFiles()
		return nil, err
	}
	s.desk = d
	return append(fds, rest...), nil
}

// refuse gives back what share has made.
func (s *session) refuse(fds []int) {
	ring.Close(fds...)
	s.closeFiles()
	if s.desk != nil {
		s.desk.close()
	}
}

func (s *session) closeFiles() {
	ring.Close(s.page, s.bell)
	s.page, s.bell = -1, -1
}

// introduceLocked connects two programs, and returns the number that a has for it; 0 if they cannot be.
func (n *Node) introduceLocked(a, b *session) uint32 {
	if a == b || a == nil || b == nil || !a.direct || !b.direct {
		return 0
	}
	if i, ok := a.channels[b]; ok {
		return i
	}
	if !n.mayMeetLocked(a, b) {
		return 0
	}
	i, j := a.freeChannel(), b.freeChannel()
	if i == 0 || j == 0 {
		return 0
	}
	forA, forB, err := ringsLocked(a, b)
	if err != nil {
		n.o.Log.Warn("DVS programs not introduced", "err", err)
		return 0
	}
	a.used[i], b.used[j] = true, true
	a.channels[b], b.channels[a] = i, j
	n.stats.Introductions++
	_ = b.conn.Send(wire.Introduce{Channel: j, PeerChannel: i, Side: 1, Peer: a.caller}.Append(nil), forB...)
	_ = a.conn.Send(wire.Introduce{Channel: i, PeerChannel: j, Side: 0, Peer: b.caller}.Append(nil), forA...)
	return i
}

// revoke ends an introduction that a program has given up, because its peer broke the rules. They are not introduced again.
func (n *Node) revoke(s *session, channel uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m, ok := s.streams[channel]; ok {
		delete(s.streams, channel)
		delete(s.used, channel)
		if m != nil {
			m.broken()
		}
		return
	}
	for peer, i := range s.channels {
		if i != channel || channel == 0 {
			continue
		}
		j := peer.channels[s]
		s.channels[peer], peer.channels[s] = 0, 0
		delete(s.used, i)
		delete(peer.used, j)
		n.o.Log.Warn("DVS introduction ended", "pid", s.program.PID, "peer", peer.program.PID)
		_ = peer.conn.Send(wire.Revoke{Channel: j}.Append(nil))
		return
	}
}

// freeChannel returns a number from 1 on, or 0.
func (s *session) freeChannel() uint32 {
	for range wire.MaxChannels {
		s.hint = s.hint%(wire.MaxChannels-1) + 1
		if !s.used[s.hint] {
			return s.hint
		}
	}
	return 0
}

// drop forgets a program that has gone, and tells everybody whom it concerns.
func (n *Node) drop(s *session, err error) {
	s.conn.Shut(net.ErrClosed)
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.desk != nil {
		n.quietLocked(s)
		s.desk = nil
	}
	n.o.Log.Debug("DVS program gone", "pid", s.program.PID, "container", s.container, "err", err)
	delete(n.sessions, s)
	for peer, i := range s.channels {
		j := peer.channels[s]
		delete(peer.channels, s)
		delete(peer.used, j)
		delete(s.channels, peer)
		delete(s.used, i)
		if j != 0 {
			_ = peer.conn.Send(wire.Revoke{Channel: j}.Append(nil))
		}
	}
	for r := range s.watched {
		delete(r.watchers, s)
	}
	for _, t := range s.talks {
		t.end()
	}
	clear(s.talks)
	for _, r := range n.records {
		if r.standby == s {
			r.standby = nil
			n.standbyGoneLocked(r)
			gone := wire.Order{Endpoint: r.id, Epoch: r.fence.Epoch, Order: wire.OrderStage}
			n.reportLocked(s, wire.Done{Order: gone, Code: endpoint.NoStandby, Text: "the standby has ended"})
		}
		if r.owner == s {
			n.endLocked(r, endpoint.Dead)
		}
	}
	for o, a := range n.orders {
		if a.from == s {
			delete(n.orders, o)
			a.ch <- wire.Done{Order: o, Code: endpoint.Died, Text: "the process has ended"}
		}
	}
	for c := range s.callers {
		n.goneLocked(s.container, c)
	}
	s.closeFiles()
}

// goneLocked tells everybody that a caller has ended.
func (n *Node) goneLocked(container string, caller uint64) {
	delete(n.callers, caller)
	frame := wire.Gone{Caller: caller}.Append(nil)
	for s := range n.sessions {
		if s.container == container && len(s.served) > 0 {
			_ = s.conn.Send(frame)
		}
	}
	for _, l := range n.links {
		l.sendLocked(container, frame)
	}
}
