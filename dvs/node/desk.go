package node

import (
	"fmt"
	"os"
	"runtime"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/ring"
	"github.com/godwit-project/godwit/dvs/wire"
)

// desk is where a program that shares memory leaves messages for the node, and gets those that cannot come from their sender
// itself. Everything else passes over the socket. Each program has a desk of its own, so that none can disturb another.
type desk struct {
	page ring.Memory // the node's
	bell *os.File
	c    *ring.Channel // sending is guarded by the node's lock; receiving is the attendant's
	used bool          // the program has sent something: it looks there
}

// Frames that are taken from a desk under one lock, and how often an empty one is looked at before the node waits for its bell.
const (
	deskBatch = 64
	deskLooks = 3
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
	d.bell = os.NewFile(uintptr(ownBell), "bell")
	return d, theirs, nil
}

// close gives everything back. Nobody attends it any more, and nobody sends.
func (d *desk) close() {
	_ = d.bell.Close()
	d.c.Close()
	d.page.Unmap()
}

// attend takes in what a program leaves at its desk, until the bell is closed.
func (n *Node) attend(s *session, d *desk) {
	for {
		d.page.Wake()
		for looks := 0; looks < deskLooks; looks++ {
			some, err := n.takeDesk(s, d)
			if err != nil {
				s.conn.Shut(fmt.Errorf("shared memory: %w", err))
				return
			}
			if some {
				looks = 0
			}
			runtime.Gosched()
		}
		d.page.Sleep()
		if d.page.Pending() {
			continue
		}
		if err := ring.Wait(d.bell, d.page.Rung); err != nil {
			return
		}
	}
}

// takeDesk takes in some messages, and tells whether there were any.
func (n *Node) takeDesk(s *session, d *desk) (some bool, err error) {
	if !d.page.Pending() {
		return false, nil
	}
	d.page.Sweep(func(uint32) {})
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := 0; ; i++ {
		if i == deskBatch { // let others in
			n.mu.Unlock()
			runtime.Gosched()
			n.mu.Lock()
			i = 0
		}
		if s.desk == nil {
			return true, errGone
		}
		e, err := d.c.Receive(true)
		if err != nil {
			return true, err
		}
		if e == nil {
			break
		}
		d.used = true
		if err := n.deskLocked(s, e); err != nil {
			return true, err
		}
	}
	if d.c.Waiting() {
		return true, d.c.Flush()
	}
	return true, nil
}

func (n *Node) deskLocked(s *session, e wire.Encoded) error {
	switch e.Kind() {
	case wire.KindRequest, wire.KindReply, wire.KindProbe, wire.KindCancel:
		return n.messageLocked(s, e)
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
