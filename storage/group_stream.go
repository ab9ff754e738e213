package storage

import (
	"time"

	"github.com/godwit-project/godwit/storage/wire"
)

// sendAt is how much is gathered for one write to the link, in bytes.
const sendAt = 256 << 10

// put adds a frame to what is to be sent, and sends that if it is much. The sender alone calls it and its like, holding no range.
func (g *Group) put(l *groupLink, h wire.Header, content []byte) error {
	g.add(l, h, content)
	return g.flushFull(l)
}

// add adds a frame to what is to be sent.
func (g *Group) add(l *groupLink, h wire.Header, content []byte) {
	length := len(content)
	if h.Type == wire.TypeZero || h.Type == wire.TypeLost {
		length = int(h.Length)
	}
	g.number(l, &h, length)
	f := g.enc.Encode(h, content)
	l.out = append(l.out, f.B...)
	f.Release()
}

// number gives a frame its place on the stream, and counts what it carries.
func (g *Group) number(l *groupLink, h *wire.Header, length int) {
	l.seq++
	h.Epoch, h.Seq = g.epoch, l.seq
	switch h.Type {
	case wire.TypeData, wire.TypeZero, wire.TypeLost:
		l.frames++
		l.content += uint64(length)
	default:
	}
}

// flushFull sends what was gathered if it is much.
func (g *Group) flushFull(l *groupLink) error {
	if len(l.out) < sendAt {
		return nil
	}
	return g.flush(l)
}

// flush sends what was gathered.
func (g *Group) flush(l *groupLink) error {
	if len(l.out) == 0 {
		return nil
	}
	start := time.Now()
	g.mu.Lock()
	g.shipped += int64(len(l.out))
	if l.sent == l.taken {
		l.moved = start
	}
	l.sent = l.seq
	g.mu.Unlock()
	_, err := l.conn.Write(l.out)
	now := time.Now()
	l.stalled += now.Sub(start)
	g.enc.SetEffort(l.effort(now))
	l.out = l.out[:0]
	return err
}

// idleShare: a link on which an epoch is under way for less than this part of the rest before it counts as idle.
const idleShare = 4

// effort is what compression is worth: little where the link is not what is waited for, or where nobody waits and the link is idle
// most of the time.
func (l *groupLink) effort(now time.Time) wire.Effort {
	took := now.Sub(l.began)
	if 2*l.stalled < took || idleShare*took < l.rested {
		return wire.Hurried
	}
	return wire.Thorough
}
