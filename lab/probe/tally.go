package probe

import (
	"bytes"
	"slices"
	"time"
)

// noticed is the length from which a gap is listed.
const noticed = 20 * time.Millisecond

// maxGaps bounds the list of gaps.
const maxGaps = 1000

// bucketsMs are the lower ends of the histogram's buckets.
var bucketsMs = [...]float64{20, 50, 100, 200, 500, 1000, 5000}

// RTTs are counted in steps of 10 µs up to one second.
const (
	rttStep  = 10 * time.Microsecond
	rttSteps = 100_000
)

// tally is what the reader adds up. Only the reader touches it, until it has ended.
type tally struct {
	s      *session
	r      Report
	rest   []byte // the begin of a line whose end has not come
	last   int64  // when the last reply came, ns; 0 before the first
	next   uint64 // the N expected
	rtts   []uint32
	maxRTT time.Duration
	shown  int64
}

func newTally(s *session, started time.Time) *tally {
	t := &tally{s: s, next: 1, rtts: make([]uint32, rttSteps), rest: make([]byte, 0, 128)}
	t.r.Started = started
	for _, ms := range bucketsMs {
		t.r.Histogram = append(t.r.Histogram, Bucket{OverMs: ms})
	}
	t.r.Gaps = []Gap{}
	return t
}

// take adds bytes that the kernel received at the time given and that were read late ns after it.
func (t *tally) take(data []byte, at, late int64) {
	t.r.ReaderLateMaxMs = max(t.r.ReaderLateMaxMs, ms(time.Duration(late)))
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			t.rest = append(t.rest, data[:min(len(data), 128)]...)
			break
		}
		line := data[:end]
		if len(t.rest) > 0 {
			t.rest = append(t.rest, line...)
			line = t.rest
		}
		t.reply(line, at)
		t.rest, data = t.rest[:0], data[end+1:]
	}
	if len(t.rest) > 256 { // no line of ours is that long
		t.r.Malformed++
		t.rest = t.rest[:0]
	}
	if at-t.shown > int64(time.Second) {
		t.shown = at
		view := t.snapshot()
		t.s.view.Store(&view)
	}
}

func (t *tally) reply(line []byte, at int64) {
	n, count, acked, ok := parseReply(line)
	if !ok {
		t.r.Malformed++
		return
	}
	t.gap(at, n)
	t.last = at
	if n != t.next {
		t.r.OutOfOrder++
	}
	t.next = n + 1
	if t.r.Answered > 0 && count != t.r.LastCount+1 {
		t.r.Miscounted++
	}
	if acked < t.r.LastAcked {
		t.r.AckedWentBack++
	}
	t.r.LastCount, t.r.LastAcked = count, acked
	t.r.Answered++
	t.s.answered.Store(t.r.Answered)
	if sent := t.s.sentAt[n%slots].Load(); sent > 0 && at >= sent {
		rtt := time.Duration(at - sent)
		t.rtts[min(int(rtt/rttStep), rttSteps-1)]++
		t.maxRTT = max(t.maxRTT, rtt)
	}
}

// gap notes the time since the last reply, which the reply to n has ended.
func (t *tally) gap(at int64, n uint64) {
	since := t.last
	if since == 0 {
		return
	}
	length := time.Duration(at - since)
	late := ms(time.Duration(t.s.lateBy[n%slots].Load()))
	if ms(length) > t.r.LongestGapMs {
		t.r.LongestGapMs, t.r.LongestGapAt, t.r.LongestGapLateMs = ms(length), time.Unix(0, since), late
	}
	if length <= noticed {
		return
	}
	if len(t.r.Gaps) < maxGaps {
		t.r.Gaps = append(t.r.Gaps, Gap{At: time.Unix(0, since), Ms: ms(length), LateMs: late})
	}
	i, _ := slices.BinarySearchFunc(t.r.Histogram, ms(length), func(b Bucket, v float64) int {
		if b.OverMs < v {
			return -1
		}
		return 1
	})
	t.r.Histogram[max(i-1, 0)].Count++
}

// snapshot is the report so far, without the lists.
func (t *tally) snapshot() Report {
	r := t.r
	r.Gaps, r.Histogram = nil, nil
	t.complete(&r)
	return r
}

func (t *tally) complete(r *Report) {
	r.Sent = t.s.sent.Load()
	r.Duration = ms(time.Since(r.Started))
	r.SenderLateMaxMs = ms(time.Duration(t.s.lateMax.Load()))
	r.SenderLateCount = t.s.lates.Load()
	r.RTTMedianMs, r.RTT99Ms, r.RTTMaxMs = t.quantile(0.5), t.quantile(0.99), ms(t.maxRTT)
}

// finish closes the books. Requests that nobody answered are a gap that lasted to the end.
func (t *tally) finish(now time.Time) Report {
	if t.s.sent.Load() > t.r.Answered {
		if t.last == 0 {
			t.last = t.r.Started.UnixNano()
		}
		t.gap(now.UnixNano(), t.next)
	}
	t.complete(&t.r)
	return t.r
}

// quantile returns the RTT below which the share q of all replies lie, in ms.
func (t *tally) quantile(q float64) float64 {
	var all, below uint64
	for _, n := range t.rtts {
		all += uint64(n)
	}
	for i, n := range t.rtts {
		below += uint64(n)
		if below > 0 && float64(below) >= q*float64(all) {
			return ms(time.Duration(i) * rttStep)
		}
	}
	return 0
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// parseReply reads "N COUNT ACKED".
func parseReply(line []byte) (n, count, acked uint64, ok bool) {
	var fields [3]uint64
	for i := range fields {
		digits := 0
		for len(line) > 0 && line[0] >= '0' && line[0] <= '9' && digits < 19 {
			fields[i] = fields[i]*10 + uint64(line[0]-'0')
			line = line[1:]
			digits++
		}
		if digits == 0 {
			return 0, 0, 0, false
		}
		if i < 2 {
			if len(line) == 0 || line[0] != ' ' {
				return 0, 0, 0, false
			}
			line = line[1:]
		}
	}
	return fields[0], fields[1], fields[2], len(line) == 0
}
