package node

import (
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/ring"
	"github.com/godwit-project/godwit/dvs/wire"
)

// desk is where a program that shares memory leaves messages for the node, and gets those that cannot come from their sender
// itself. Everything else passes over the socket. Each program has a desk of its own, so that none can disturb another.
type desk struct {
	page    ring.Memory // the node's
	bell    *os.File
	ownBell int           // the descriptor of bell
	c       *ring.Channel // guarded, as what follows, by the node's lock
	used    bool          // the program has sent something: it looks there
	busy    bool          // it is looked at in each round
	idle    int           // rests since it had something
	more    bool          // what is there has not been taken in full
}

const (
	deskBatch = 64 // frames that are taken from a desk under one lock
	deskLooks = 3  // rounds in vain before the node waits for bells
	deskIdle  = 16 // rests without a message after which a desk is looked at only when its bell rings
)

// newDesk makes a desk, and the descriptors for the program: the rings, the node's page, its bell.
func newDesk(page, bell int) (*desk, []int, error) {
	rings, err := ring.Make("dvs rings", ring.Size)
	if err != nil {
		return nil, nil, err
	}
	defer ring.Close(rings)
	own, err := ring.Make("dvs page", ring.PageSize)
	if err != nil {
		return nil, nil, err
	}
	defer ring.Close(own)
	ownBell, err := ring.Bell()
	if err != nil {
		return nil, nil, err
	}
	theirs, err := ring.Dup(rings, own, ownBell)
	if err != nil {
		ring.Close(ownBell)
		return nil, nil, err
	}
	ours, err := ring.Dup(rings, page, bell)
	if err != nil {
		ring.Close(append(theirs, ownBell)...)
		return nil, nil, err
	}
	d := &desk{}
	if d.page, err = ring.Map(own, ring.PageSize); err == nil {
		if d.c, err = ring.Open(0, 1, ours); err != nil {
			d.page.Unmap()
		}
	} else {
		ring.Close(ours...)
	}
	if err != nil {
		ring.Close(append(theirs, ownBell)...)
		return nil, nil, err
	}
	d.bell, d.ownBell = os.NewFile(uintptr(ownBell), "bell"), ownBell
	return d, theirs, nil
}

// close gives everything back. Nobody attends it any more, and nobody sends.
func (d *desk) close() {
	_ = d.bell.Close()
	d.c.Close()
	d.page.Unmap()
}

// attend makes the rounds of the desks whenever the bell of this one rings, until that is closed.
func (n *Node) attend(s *session, d *desk) {
	for err := error(nil); err == nil; err = ring.Wait(d.bell, d.page.Rung) {
		n.mu.Lock()
		n.busyLocked(s)
		if !n.attended && s.desk != nil {
			n.roundsLocked(s)
		}
		n.mu.Unlock()
	}
}

// busyLocked has whoever makes the rounds look at a desk.
func (n *Node) busyLocked(s *session) {
	d := s.desk
	if d == nil {
		return
	}
	d.page.Wake()
	if d.idle = 0; !d.busy {
		d.busy = true
		n.busy = append(n.busy, s)
	}
}

// quietLocked has nobody look at a desk any more, until its bell rings.
func (n *Node) quietLocked(s *session) {
	s.desk.busy = false
	n.busy = slices.DeleteFunc(n.busy, func(o *session) bool { return o == s })
}

// roundsLocked looks at the desks of all who have said something lately, until nobody has anything: one for all, so that those who talk
// at the same time need not wake the node for each message. It ends early when the session whose bell has rung ends.
func (n *Node) roundsLocked(s *session) {
	n.attended = true
	for _, o := range n.busy {
		o.desk.page.Wake()
	}
	for looks := 0; s.desk != nil && (looks < deskLooks || !n.restLocked()); looks++ {
		if n.roundLocked() {
			looks = 0
		}
		n.breatheLocked()
	}
	n.attended = false
	if s.desk == nil {
		for _, o := range n.busy {
			if o.desk.page.Sleep(); o.desk.due() {
				o.desk.page.Ring(o.desk.ownBell) // it goes on there
			}
		}
	}
}

// dueLocked tells whether there is something at a desk that is looked at.
func (n *Node) dueLocked() bool {
	return slices.ContainsFunc(n.busy, func(s *session) bool { return s.desk.due() })
}

// breatheLocked lets others in.
func (n *Node) breatheLocked() {
	n.mu.Unlock()
	runtime.Gosched()
	n.mu.Lock()
}

// restLocked asks for the bells of all desks. It is false if one has something.
func (n *Node) restLocked() bool {
	for _, s := range n.busy {
		s.desk.page.Sleep()
	}
	if n.dueLocked() {
		for _, s := range n.busy {
			s.desk.page.Wake()
		}
		return false
	}
	n.busy = slices.DeleteFunc(n.busy, func(s *session) bool {
		s.desk.idle++
		s.desk.busy = s.desk.idle < deskIdle
		return !s.desk.busy
	})
	return true
}

// roundLocked takes in what is there, and tells whether that was anything.
func (n *Node) roundLocked() (some bool) {
	count := 0
	for i := 0; i < len(n.busy); i++ {
		s := n.busy[i]
		if !s.desk.due() {
			continue
		}
		took, err := n.takeLocked(s)
		if err != nil {
			s.conn.Shut(fmt.Errorf("shared memory: %w", err))
			n.quietLocked(s)
		}
		some = true
		if count += took; count >= deskBatch {
			count = 0
			n.breatheLocked()
		}
	}
	return some
}

// due tells whether there is something to take.
func (d *desk) due() bool { return d.more || d.page.Pending() }

// takeLocked takes in some messages of a program, and returns how many.
func (n *Node) takeLocked(s *session) (count int, err error) {
	d := s.desk
	d.page.Sweep(func(uint32) {})
	for d.more = true; count < deskBatch; count++ {
		e, err := d.c.Receive(true)
		if err != nil {
			return count, err
		}
		if e == nil {
			d.more = false
			break
		}
		d.used, d.idle = true, 0
		if err := n.deskLocked(s, e); err != nil {
			return count, err
		}
	}
	if d.c.Waiting() {
		err = d.c.Flush()
	}
	return count, err
}

func (n *Node) deskLocked(s *session, e wire.Encoded) error {
	switch e.Kind() {
	case wire.KindRequest, wire.KindReply, wire.KindProbe, wire.KindCancel:
		return n.messageLocked(s, e)
	case wire.KindWatch:
		m, err := wire.ParseWatch(e.Body())
		if err != nil {
			return err
		}
		return n.watchLocked(s, m.Name)
	case wire.KindCaller:
		m, err := wire.ParseCaller(e.Body())
		if err != nil {
			return err
		}
		return n.callerLocked(s, m)
	case wire.KindGone:
		return n.leftLocked(s, e)
	default:
		return fmt.Errorf("%w: unexpected %s", wire.ErrFrame, e.Kind())
	}
}

// sendLocked gives a program a message.
func (s *session) sendLocked(e wire.Encoded) {
	if s.desk == nil || !s.desk.used || urgent(e) || len(e) > ring.Long {
		_ = s.conn.Send(e)
		return
	}
	if err := s.desk.c.Send(e); err != nil {
		s.conn.Shut(fmt.Errorf("shared memory: %w", err))
	}
}

// urgent tells whether a program has to hear of a message at once: who computes looks at its desk later, but a request may have to be refused
// unless the program waits for it, and one that was sent before may have been answered already.
func urgent(e wire.Encoded) bool {
	switch e.Kind() {
	case wire.KindRequest:
		body := e.Body()
		return len(body) > 1 && body[1] != 0 && endpoint.Kind(body[0]) != endpoint.Notify
	case wire.KindProbe:
		return true
	default:
		return false
	}
}
