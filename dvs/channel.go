package dvs

import (
	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/dvs/wire"
)

// channel is the direct way to one peer on this machine. It is guarded by the session's lock.
type channel struct {
	index, peerIndex uint32
	in, out          ring
	rings, peerPage  memory
	bell             int // the peer's

	partial  []byte // of a frame that has not arrived in full
	need     int    // its length; 0 between frames
	overflow []byte // what had no room in the ring
}

func newChannel(m wire.Introduce, fds []int) (*channel, error) {
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	rings, err := mapShared(fds[0], RingsSize)
	if err != nil {
		_ = unix.Close(fds[2])
		return nil, err
	}
	page, err := mapShared(fds[1], PageSize)
	if err != nil {
		rings.unmap()
		_ = unix.Close(fds[2])
		return nil, err
	}
	c := &channel{index: m.Channel, peerIndex: m.PeerChannel, rings: rings, peerPage: page, bell: fds[2]}
	half := [2]memory{rings[:RingsSize/2], rings[RingsSize/2:]}
	c.out.mem, c.in.mem = half[m.Side], half[1-m.Side]
	return c, nil
}

func (c *channel) close() {
	c.rings.unmap()
	c.peerPage.unmap()
	_ = unix.Close(c.bell)
}

// send never blocks: what finds no room waits in overflow. One outstanding request for each caller bounds that.
func (c *channel) send(frame []byte) error {
	if len(c.overflow) == 0 {
		n, err := c.out.put(frame)
		if err != nil {
			return err
		}
		if frame = frame[n:]; len(frame) == 0 {
			c.ring()
			return nil
		}
	}
	c.overflow = append(c.overflow, frame...)
	return c.flush()
}

// flush writes what had no room, and asks to be told when there is more.
func (c *channel) flush() error {
	for len(c.overflow) > 0 {
		c.out.starved().Store(1)
		n, err := c.out.put(c.overflow)
		if err != nil {
			return err
		}
		c.overflow = c.overflow[n:]
		c.ring()
		if n == 0 {
			return nil
		}
	}
	c.overflow = nil
	return nil
}

// ring tells the peer that the channel has changed, and wakes it if it sleeps.
func (c *channel) ring() {
	c.peerPage.mark(c.peerIndex)
	ringBell(c.peerPage, c.bell)
}

func ringBell(page memory, bell int) {
	if a := page.asleep(); a.Load() == 1 && a.CompareAndSwap(1, 0) {
		_, _ = unix.Write(bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only when it is ringing already
	}
}

// receive takes one frame out of the ring, if it is there in full.
func (c *channel) receive() (f wire.Frame, ok bool, err error) {
	n, err := c.in.available()
	if err != nil || n == 0 {
		return f, false, err
	}
	if c.need == 0 {
		if n < 4 {
			return f, false, nil
		}
		var head [4]byte
		c.in.get(head[:])
		if c.need, err = wire.Length(head[:]); err != nil {
			return f, false, err
		}
		n -= 4
		c.partial = make([]byte, 0, min(c.need, 1<<20))
	}
	more := min(int(n), c.need-len(c.partial))
	at := len(c.partial)
	if cap(c.partial) < at+more {
		c.partial = append(c.partial, make([]byte, more)...)
	} else {
		c.partial = c.partial[:at+more]
	}
	c.in.get(c.partial[at:])
	if c.in.starved().Load() == 1 && c.in.starved().Swap(0) == 1 {
		c.ring()
	}
	if len(c.partial) < c.need {
		return f, false, nil
	}
	f, err = wire.Inner(c.partial)
	c.partial, c.need = nil, 0
	return f, true, err
}
