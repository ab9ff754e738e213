package node

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/godwit-project/godwit/dvs/wire"
)

// readBuffer holds what one read of a link can bring; frames in it are dealt with where they are.
const readBuffer = 256 << 10

// write sends what is queued, as much as there is at a time.
func (l *link) write(c net.Conn, turn int) {
	n := l.n
	p := press{mode: l.o.Compress}
	var out []byte
	var sent *segment
	for fresh := true; ; fresh = false {
		if sent != nil && sent.count > 1 {
			runtime.Gosched() // there is load: what others are about to send goes along
		}
		n.mu.Lock()
		if sent != nil {
			sent.written = true
		}
		for l.turn == turn && !fresh && !l.q.due() && !l.beat && l.received-l.acked < ackAfter {
			l.wake.Wait()
		}
		if l.turn != turn {
			n.mu.Unlock()
			return
		}
		out = out[:0]
		if fresh {
			out = wire.LinkStart{Number: l.q.first}.Append(out)
		}
		if l.received > l.acked || l.beat {
			out = wire.LinkAck{Received: l.received}.Append(out)
			l.acked, l.beat = l.received, false
		}
		sent = l.q.take(l.o.Single)
		n.stats.Writes++
		n.mu.Unlock()

		if sent != nil {
			out = p.pack(out, sent.b)
		}
		l.wrote.Add(uint64(len(out))) // before: whoever is answered may look
		began := time.Now()
		_, err := c.Write(out)
		p.wrote(len(out), time.Since(began))
		if err != nil {
			_ = c.Close()
			return
		}
		if cap(out) > 4*linkBatch {
			out = nil
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
	const most = 64 // frames under one lock
	var scratch []byte
	var told time.Time
	for {
		if now := time.Now(); now.Sub(told) > l.n.o.PeerTimeout/8 {
			told = now
			_ = c.SetReadDeadline(now.Add(l.n.o.PeerTimeout))
		}
		e, inPlace, err := next(r)
		if err != nil {
			return err
		}
		l.n.mu.Lock()
		for i := 1; ; i++ {
			if l.turn != turn {
				err = net.ErrClosed
			} else {
				scratch, err = l.takeLocked(e, scratch)
			}
			if inPlace {
				_, _ = r.Discard(len(e)) // it is in the buffer
			}
			if err != nil || i >= most {
				break
			}
			if e, err = wire.Buffered(r); e == nil {
				break
			}
			inPlace = true
		}
		l.n.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// next waits for a frame. One that is in place is still in the reader's buffer.
func next(r *bufio.Reader) (e wire.Encoded, inPlace bool, err error) {
	head, err := r.Peek(4)
	if err != nil {
		return nil, false, err
	}
	n, err := wire.Length(head)
	if err != nil {
		return nil, false, err
	}
	if n+4 <= r.Size() {
		e, err = r.Peek(n + 4)
		return e, true, err
	}
	e, err = wire.ReadEncoded(r)
	return e, false, err
}

// takeLocked takes in a frame. scratch is memory for what was compressed.
func (l *link) takeLocked(e wire.Encoded, scratch []byte) ([]byte, error) {
	if e.Kind() != wire.KindPressed {
		return scratch, l.frameLocked(e)
	}
	b, err := unpack(e.Body(), scratch)
	if err != nil {
		return scratch, err
	}
	for rest := b; len(rest) > 0; {
		if len(rest) < 4 {
			return b, wire.Complete(rest)
		}
		size := min(4+uint64(binary.LittleEndian.Uint32(rest)), uint64(len(rest)))
		one := wire.Encoded(rest[:size])
		if err := wire.Complete(one); err != nil {
			return b, err
		}
		if err := l.frameLocked(one); err != nil {
			return b, err
		}
		rest = rest[size:]
	}
	return b, nil
}

func (l *link) frameLocked(e wire.Encoded) error {
	switch e.Kind() {
	case wire.KindLinkAck:
		m, err := wire.ParseLinkAck(e.Body())
		if err == nil && l.q.ack(m.Received) {
			l.wake.Broadcast()
		}
		return err
	case wire.KindLinkStart:
		m, err := wire.ParseLinkStart(e.Body())
		if err == nil && m.Number > l.received+1 {
			err = fmt.Errorf("%w: packet %d after %d", wire.ErrFrame, m.Number, l.received)
		}
		l.number = m.Number
		return err
	case wire.KindForward, wire.KindAnnounce, wire.KindState, wire.KindMeet, wire.KindMet:
		if l.number == 0 {
			return fmt.Errorf("%w: a packet without a number", wire.ErrFrame)
		}
		l.number++
		if l.number-1 <= l.received {
			return nil // it was here before the link broke
		}
		l.received++
		l.n.stats.In++
		if l.received-l.acked >= ackAfter {
			l.wake.Broadcast()
		}
		return l.packetLocked(e)
	default:
		return fmt.Errorf("%w: unexpected %s", wire.ErrFrame, e.Kind())
	}
}

func (l *link) packetLocked(e wire.Encoded) error {
	switch e.Kind() {
	case wire.KindMeet:
		m, err := wire.ParseMeet(e.Body())
		if err == nil {
			l.n.meetLocked(l, m)
		}
		return err
	case wire.KindMet:
		m, err := wire.ParseMet(e.Body())
		if err == nil {
			l.n.metLocked(m)
		}
		return err
	}
	if e.Kind() == wire.KindAnnounce {
		m, err := wire.ParseAnnounce(e.Body())
		if err == nil && m.Name != "" && m.Container != "" && l.shares(m.Container) {
			l.n.learnLocked(l, m)
		}
		return err
	}
	m, err := wire.ParseForward(e.Body())
	if err != nil || !l.shares(m.Container) {
		return err
	}
	if e.Kind() == wire.KindForward {
		return l.n.forwardedLocked(l, m)
	}
	return l.n.stateLocked(l, m)
}
