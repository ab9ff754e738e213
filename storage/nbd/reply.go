package nbd

import (
	"encoding/binary"
	"slices"
)

const (
	simpleHead = 16
	chunkHead  = 20
	// replyHead is the most that stands before a payload.
	replyHead = chunkHead + 8
)

func appendSimple(b []byte, req *request, no uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, magicSimple)
	b = binary.BigEndian.AppendUint32(b, no)
	return binary.BigEndian.AppendUint64(b, req.cookie)
}

// appendChunk begins the only chunk of a structured reply, whose payload of length bytes follows.
func appendChunk(b []byte, req *request, kind uint16, length int) []byte {
	b = binary.BigEndian.AppendUint32(b, magicStructured)
	b = binary.BigEndian.AppendUint16(b, chunkDone)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, req.cookie)
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// appendRead appends the good answer to a READ, and returns its payload, which is yet to be filled.
func (t *transmission) appendRead(b []byte, req *request) (reply, payload []byte) {
	b = t.appendReadHead(b, req)
	n := int(req.length)
	b = slices.Grow(b, n)
	return b[:len(b)+n], b[len(b) : len(b)+n]
}

// appendReadHead appends what stands before the payload of that answer.
func (t *transmission) appendReadHead(b []byte, req *request) []byte {
	if t.terms.structured {
		b = appendChunk(b, req, chunkOffsetData, 8+int(req.length))
		return binary.BigEndian.AppendUint64(b, req.off)
	}
	return appendSimple(b, req, 0)
}

func (t *transmission) appendError(b []byte, req *request, no uint32) []byte {
	if t.terms.structured && (req.cmd == cmdRead || req.cmd == cmdBlockStatus) {
		b = appendChunk(b, req, chunkError, 6)
		b = binary.BigEndian.AppendUint32(b, no)
		return append(b, 0, 0)
	}
	return appendSimple(b, req, no)
}

// appendExtents appends a block status. Only the last extent may reach beyond the request, and not if one alone was asked
// for; so all are cut to it.
func appendExtents(b []byte, req *request, extents []Extent, most int) []byte {
	start := len(b)
	b = appendChunk(b, req, chunkBlockStatus, 0)
	b = binary.BigEndian.AppendUint32(b, contextID)
	left := int64(req.length)
	for i, e := range extents {
		n := min(e.Length, left)
		if n <= 0 || i >= most {
			break
		}
		left -= n
		flags := uint32(0)
		if e.Hole {
			flags |= 1
		}
		if e.Zero {
			flags |= 2
		}
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = binary.BigEndian.AppendUint32(b, flags)
	}
	binary.BigEndian.PutUint32(b[start+chunkHead-4:], uint32(len(b)-start-chunkHead))
	return b
}
