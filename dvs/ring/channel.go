package ring

import (
	"errors"
	"slices"

	"github.com/godwit-project/godwit/dvs/wire"
)

// maxOverflow bounds what waits for a peer that does not read, in bytes.
const maxOverflow = 1 << 30

// ErrSlow is returned by Send when a peer has not read for too long.
var ErrSlow = errors.New("the peer does not read")

// Channel carries frames to and from one peer. Send and Flush are guarded by one lock, Receive by that or another one.
type Channel struct {
	peerIndex       uint32
	in, out         stream
	rings, peerPage Memory
	bell            int // the peer's

	partial  []byte // of a frame that has not arrived in full
	need     int    // its length; 0 between frames
	spare    []byte
	overflow []byte // what had no room in the ring
}

// Open makes a channel of what an introduction brings: the rings, the peer's page, its bell. The descriptors belong to the channel,
// whatever happens. side says which of the rings is written: 0 or 1. peerIndex is what the peer calls this channel.
func Open(peerIndex uint32, side uint8, fds []int) (*Channel, error) {
	defer Close(fds[:2]...)
	rings, err := Map(fds[0], Size)
	if err != nil {
		Close(fds[2])
		return nil, err
	}
	page, err := Map(fds[1], PageSize)
	if err != nil {
		rings.Unmap()
		Close(fds[2])
		return nil, err
	}
	c := &Channel{peerIndex: peerIndex, rings: rings, peerPage: page, bell: fds[2]}
	half := [2]Memory{rings[:Size/2], rings[Size/2:]}
	c.out.mem, c.in.mem = half[side], half[1-side]
	return c, nil
}

// Close gives the memory back.
func (c *Channel) Close() {
	c.rings.Unmap()
	c.peerPage.Unmap()
	Close(c.bell)
}

// Area is the memory for the data of copies that this side asks for; PeerArea for those of the peer.
func (c *Channel) Area() []byte     { return c.out.mem[ringHeader+ringSize:] }
func (c *Channel) PeerArea() []byte { return c.in.mem[ringHeader+ringSize:] }

// Waiting tells whether something had no room.
func (c *Channel) Waiting() bool { return len(c.overflow) > 0 }

// Send never blocks: what finds no room waits in overflow. One outstanding request for each caller bounds that.
func (c *Channel) Send(frame []byte) error {
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
	if len(c.overflow)+len(frame) > maxOverflow {
		return ErrSlow
	}
	c.overflow = append(c.overflow, frame...)
	return c.Flush()
}

// Flush writes what had no room, and asks to be told when there is more.
func (c *Channel) Flush() error {
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
func (c *Channel) ring() {
	c.peerPage.Mark(c.peerIndex)
	c.peerPage.Ring(c.bell)
}

// Receive takes one frame out of the ring, if it is there in full; else it returns nil. With reuse the frame is good until the next call only.
func (c *Channel) Receive(reuse bool) (wire.Encoded, error) {
	n, err := c.in.available()
	if err != nil || n == 0 {
		return nil, err
	}
	if c.need == 0 {
		if n < headSize {
			return nil, nil
		}
		var head [headSize]byte
		c.in.get(head[:])
		length, err := wire.Length(head[:])
		if err != nil {
			return nil, err
		}
		n -= headSize
		c.need = headSize + length
		if c.partial = c.spare[:0]; !reuse || cap(c.partial) < c.need {
			c.partial = make([]byte, 0, min(c.need, 1<<20))
		}
		c.partial = append(c.partial, head[:]...)
	}
	at := len(c.partial)
	more := min(int(n), c.need-at)
	c.partial = slices.Grow(c.partial, more)[:at+more]
	c.in.get(c.partial[at:])
	if c.in.starved().Load() == 1 && c.in.starved().Swap(0) == 1 {
		c.ring()
	}
	if len(c.partial) < c.need {
		return nil, nil
	}
	e := wire.Encoded(c.partial)
	c.partial, c.need = nil, 0
	if reuse && cap(e) <= maxSpare {
		c.spare = e
	}
	return e, nil
}

const (
	headSize = 4
	maxSpare = 1 << 20 // bytes kept for the next frame
)
