package node

import (
	"encoding/binary"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

const (
	linkBatch = 256 << 10 // bytes written at once, at most, unless one packet is longer
	linkRoom  = 16 << 20  // bytes queued before a moving state waits
	ackAfter  = 32        // packets
	maxSpare  = 1 << 20   // bytes of a buffer that is used again
)

// queue is what a link has to send: packets in order, kept until the other node has them. Parts of moving states wait for everything
// else. Guarded by the node's lock.
type queue struct {
	first uint64     // number of the first packet kept
	kept  []*segment // given to a connection, and not acknowledged
	again int        // the first of kept that this connection has not been given
	mail  []byte
	mails int
	bulk  [][]byte // a packet each
	bytes int
	spare []byte
}

// segment is packets that are written together.
type segment struct {
	count   int
	b       []byte
	written bool // nobody reads b any more
}

func newQueue() queue { return queue{first: 1} }

func (q *queue) forward(container string, frame wire.Encoded) {
	q.grow(func(b []byte) []byte {
		return wire.Forward{Container: container, Frame: frame}.Append(b, wire.KindForward)
	})
}

func (q *queue) announce(a wire.Announce) { q.grow(a.Append) }

// packet queues another packet.
func (l *link) packetOutLocked(add func([]byte) []byte) {
	if l.away {
		return
	}
	l.q.grow(add)
	l.queuedLocked()
}

func (q *queue) grow(add func([]byte) []byte) {
	if q.mail == nil {
		q.mail, q.spare = q.spare, nil
	}
	before := len(q.mail)
	q.mail = add(q.mail)
	q.mails++
	q.bytes += len(q.mail) - before
}

// state queues a part of a moving state.
func (q *queue) state(container string, frame wire.Encoded) {
	b := wire.Forward{Container: container, Frame: frame}.Append(make([]byte, 0, len(frame)+len(container)+16), wire.KindState)
	q.bulk = append(q.bulk, b)
	q.bytes += len(b)
}

// due tells whether there is something to write.
func (q *queue) due() bool { return q.again < len(q.kept) || q.mails > 0 || len(q.bulk) > 0 }

// take returns what is to be written next, or nil.
func (q *queue) take(single bool) *segment {
	switch {
	case q.again < len(q.kept):
	case q.mails > 0:
		count, size := q.mails, len(q.mail)
		if single || size > linkBatch {
			count, size = prefix(q.mail, single)
		}
		q.kept = append(q.kept, &segment{count: count, b: q.mail[:size:size]})
		q.mails -= count
		if q.mail = q.mail[size:]; q.mails == 0 {
			q.mail = nil
		}
	case len(q.bulk) > 0:
		q.kept = append(q.kept, &segment{count: 1, b: q.bulk[0]})
		q.bulk[0] = nil
		q.bulk = q.bulk[1:]
	default:
		return nil
	}
	q.again++
	return q.kept[q.again-1]
}

// prefix returns how many packets at the front are to be written at once, and their size.
func prefix(b []byte, single bool) (count, size int) {
	for size < len(b) {
		next := size + 4 + int(binary.LittleEndian.Uint32(b[size:]))
		if count > 0 && (single || next > linkBatch) {
			break
		}
		count, size = count+1, next
	}
	return count, size
}

// ack forgets what the other node has, and tells whether that was anything.
func (q *queue) ack(received uint64) bool {
	k := 0
	for k < len(q.kept) && q.first+uint64(q.kept[k].count)-1 <= received {
		s := q.kept[k]
		q.first += uint64(s.count)
		q.bytes -= len(s.b)
		if s.written && cap(s.b) > cap(q.spare) && cap(s.b) <= maxSpare {
			q.spare = s.b[:0]
		}
		q.kept[k] = nil
		k++
	}
	q.kept = q.kept[k:]
	q.again = max(q.again-k, 0)
	return k > 0
}

func announcement(r *record) wire.Announce {
	return wire.Announce{Container: r.container, Name: r.name, Version: r.version, Line: r.line, State: r.state, Replicated: r.replicated}
}

// sendLocked queues a message for the other node.
func (l *link) sendLocked(container string, frame wire.Encoded) {
	if l.away || !l.shares(container) {
		return // it is told everything when it is back
	}
	l.q.forward(container, frame)
	l.queuedLocked()
}

func (l *link) stateLocked(container string, frame wire.Encoded) {
	if l.away || !l.shares(container) {
		return
	}
	l.q.state(container, frame)
	l.queuedLocked()
}

func (l *link) announceLocked(a wire.Announce) {
	if l.away || !l.shares(a.Container) {
		return
	}
	l.q.announce(a)
	l.queuedLocked()
}

// endOfLocked tells the other node that an endpoint that it announced has ended.
func (l *link) endOfLocked(r *record) {
	a := announcement(r)
	a.State = endpoint.Nowhere
	l.announceLocked(a)
}

func (l *link) queuedLocked() {
	l.n.stats.Out++
	l.wake.Broadcast()
}
