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
	if 2*l.stalled < now.Sub(l.began) {
		g.enc.SetEffort(wire.Hurried)
	} else {
		g.enc.SetEffort(wire.Thorough)
	}
	l.out = l.out[:0]
	return err
}
