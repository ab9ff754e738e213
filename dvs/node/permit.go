package node

import (
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/ring"
	"github.com/godwit-project/godwit/dvs/wire"
)

// Mask is what a program may do with an endpoint.
type Mask uint8

// The bits of a Mask.
const (
	MaySend      Mask = 1 << 0
	MaySendRec   Mask = 1 << 1
	MayNotify    Mask = 1 << 2
	MayCopyRead  Mask = 1 << 3
	MayCopyWrite Mask = 1 << 4
	MayBind      Mask = 1 << 5 // also as a standby

	// MayCall is everything but to bind, MayAll everything.
	MayCall = MaySend | MaySendRec | MayNotify | MayCopyRead | MayCopyWrite
	MayAll  = MayCall | MayBind
)

func (m Mask) allows(k endpoint.Kind) bool {
	switch k {
	case endpoint.Send:
		return m&MaySend != 0
	case endpoint.SendRec:
		return m&MaySendRec != 0
	case endpoint.Notify:
		return m&MayNotify != 0
	case endpoint.CopyRead:
		return m&MayCopyRead != 0
	case endpoint.CopyWrite:
		return m&MayCopyWrite != 0
	default:
		return false
	}
}

// maskLocked is what a program here may do with an endpoint, wherever that is.
func (n *Node) maskLocked(s *session, name string) Mask {
	if n.o.Permit == nil {
		return MayAll
	}
	m, known := s.masks[name]
	if !known {
		m = n.o.Permit(s.program, s.container, name)
		if len(s.masks) < maxNames {
			s.masks[name] = m
		}
	}
	return m
}

// unlimited tells whether a program may have a stream, on which nobody checks what it asks of whom.
func (n *Node) unlimited(s *session) bool {
	return n.o.Permit == nil || n.o.Unlimited != nil && n.o.Unlimited(s.program, s.container)
}

// shares tells whether the other node may know of a container.
func (l *link) shares(container string) bool {
	return l.n.o.Share == nil || l.n.o.Share(l.name, container)
}

// mayMeetLocked tells whether two programs may do everything with each other's endpoints. Only then they share memory: there nobody checks
// what they do.
func (n *Node) mayMeetLocked(a, b *session) bool {
	return n.o.Permit == nil || n.mayAllLocked(a, b) && n.mayAllLocked(b, a)
}

func (n *Node) mayAllLocked(a, b *session) bool {
	for id := range b.served {
		if r := n.records[key{b.container, id}]; r != nil && n.maskLocked(a, r.name)&MayCall != MayCall {
			return false
		}
	}
	return true
}

// partLocked ends the introductions of a program that has a name now with which its peers may not do everything.
func (n *Node) partLocked(s *session) {
	for peer, i := range s.channels {
		if i == 0 || n.mayMeetLocked(s, peer) {
			continue
		}
		j := peer.channels[s]
		delete(s.channels, peer)
		delete(peer.channels, s)
		delete(s.used, i)
		delete(peer.used, j)
		_ = s.conn.Send(wire.Revoke{Channel: i}.Append(nil))
		_ = peer.conn.Send(wire.Revoke{Channel: j}.Append(nil))
	}
}

// denyLocked refuses a request of a program.
func (s *session) denyLocked(m endpoint.Request) {
	if m.Kind != endpoint.Notify {
		s.sendLocked(wire.AppendReply(nil, endpoint.Reply{To: m.To, Caller: m.Caller, Seq: m.Seq, Code: endpoint.Denied}))
	}
}

// ringsLocked makes the memory of an introduction, and the descriptors for both.
func ringsLocked(a, b *session) (forA, forB []int, err error) {
	rings, err := ring.Make("dvs rings", ring.Size)
	if err != nil {
		return nil, nil, err
	}
	defer ring.Close(rings)
	if forA, err = ring.Dup(rings, b.page, b.bell); err != nil {
		return nil, nil, err
	}
	if forB, err = ring.Dup(rings, a.page, a.bell); err != nil {
		ring.Close(forA...)
		return nil, nil, err
	}
	return forA, forB, nil
}
