package link

import "time"

// model is the arithmetic of one direction of a link, without I/O or clock: frames queue for the line, take their
// time on it at the line's rate, and arrive a delay later. Times are nanoseconds of one monotonic clock.
//
// It computes when each frame arrives at the moment that it enters, so there is no token bucket to fill and no burst:
// two frames are never closer than the line's rate allows.
type model struct {
	lineFree int64 // when the line has sent everything accepted so far
	lastDue  int64 // when the last accepted frame arrives: frames do not overtake, also when the delay shrinks
}

// admit decides about a frame of size bytes that enters at now: when it arrives, or that it finds the queue full.
func (m *model) admit(now int64, size int, p *params) (due int64, ok bool) {
	start := max(now, m.lineFree)
	if p.rate > 0 {
		waiting := (start - now) * p.rate / (8 * int64(time.Second)) // bytes
		if waiting > 0 && waiting+int64(size) > p.queue {
			return 0, false
		}
		start += int64(size) * 8 * int64(time.Second) / p.rate
	}
	m.lineFree = start
	m.lastDue = max(m.lastDue, start+p.delay)
	return m.lastDue, true
}

// params is one immutable setting of a direction.
type params struct {
	cut      bool
	rate     int64  // bit/s, 0: no limit
	delay    int64  // ns
	queue    int64  // bytes that may wait for the line
	nap      int64  // ns between two looks at a busy line
	lossOver uint64 // a frame is lost when 64 random bits fall below this
	epoch    uint64 // grows with every cut, so that what was under way is lost
}

// Queue limits: a queue holds what the line sends in one round trip, as is the custom, but never less than some
// dozens of packets, which a burst of a slow start needs.
const (
	minQueue    = 64 * 1514
	minQueueRTT = 20 * time.Millisecond
)

func queueFor(s Settings) int64 {
	if s.Queue > 0 {
		return s.Queue
	}
	if s.Rate <= 0 {
		return 0
	}
	rtt := max(4*s.Delay, minQueueRTT) // two such links lie between the sites, there and back
	return max(s.Rate/8*int64(rtt)/int64(time.Second), minQueue)
}

func (s Settings) params(epoch uint64) *params {
	p := &params{cut: s.Cut, rate: max(s.Rate, 0), delay: int64(max(s.Delay, 0)), queue: queueFor(s), nap: longNap, epoch: epoch}
	if s.Rate <= 0 || s.Rate >= offloadRate {
		p.nap = shortNap
	}
	if s.Loss > 0 {
		p.lossOver = uint64(s.Loss*(1<<63)) << 1
	}
	return p
}
