package link

// ring is a byte buffer that holds frames in their order, each contiguous, with the time of its arrival. Frames are
// read into it and written out of it in place.
type ring struct {
	buf     []byte
	entries []entry
	head    int // index of the oldest entry
	count   int
	tail    int // where the next frame begins in buf
	used    int // bytes between the oldest frame's begin and tail, skipped ones included
}

type entry struct {
	due     int64
	epoch   uint64
	offset  int
	size    int // bytes in buf
	skipped int // bytes left unused before offset, to keep the frame contiguous
	wire    int // bytes on the wire
	packets int
}

// frameRoom is the room that must be free for reading one frame: 64 KiB of payload and its headers.
const frameRoom = 65536 + 256

func newRing(bytes, entries int) *ring {
	return &ring{buf: make([]byte, max(bytes, 2*frameRoom)), entries: make([]entry, max(entries, 1))}
}

// room returns a slice to read the next frame into, and how many bytes are skipped to get it in one piece; nil when
// the ring is full.
func (r *ring) room() (space []byte, skipped int) {
	if r.count == len(r.entries) {
		return nil, 0
	}
	if r.count == 0 {
		r.tail, r.used = 0, 0
	}
	free := len(r.buf) - r.used
	if rest := len(r.buf) - r.tail; rest < frameRoom {
		if free-rest < frameRoom {
			return nil, 0
		}
		return r.buf[:frameRoom], rest
	}
	if free < frameRoom {
		return nil, 0
	}
	return r.buf[r.tail : r.tail+frameRoom], 0
}

// push keeps the frame that was read into room.
func (r *ring) push(e entry) {
	e.offset = r.tail
	if e.skipped > 0 {
		e.offset = 0
	}
	r.entries[(r.head+r.count)%len(r.entries)] = e
	r.count++
	r.tail = e.offset + e.size
	r.used += e.skipped + e.size
}

// oldest returns the first frame; nil when there is none.
func (r *ring) oldest() *entry {
	if r.count == 0 {
		return nil
	}
	return &r.entries[r.head]
}

func (r *ring) frame(e *entry) []byte { return r.buf[e.offset : e.offset+e.size] }

func (r *ring) pop() {
	e := &r.entries[r.head]
	r.used -= e.skipped + e.size
	r.head = (r.head + 1) % len(r.entries)
	r.count--
}
