// Package probe measures what a client of a service notices. It holds one TCP connection, asks every millisecond,
// and reports how long the answers stayed away and whether any was lost, doubled or out of order.
//
// The service answers each line "N\n" with "N COUNT ACKED\n": COUNT is the service's own counter, which grows by one
// per request, and ACKED the number of its last acknowledged disk write.
//
// The probe runs on the machine that it measures, so it records its own lateness as well: a gap during which the
// sender slept is not the network's.
package probe

import "time"

// Report is what a probe saw. Times that end in Ms are milliseconds.
type Report struct {
	Address  string    `json:"address"`
	Started  time.Time `json:"started"`
	Duration float64   `json:"durationMs"`
	// Sent counts requests, Answered the replies to them; the difference was outstanding when the probe ended.
	Sent     uint64 `json:"sent"`
	Answered uint64 `json:"answered"`
	// LongestGapMs is the longest time between two consecutive replies, LongestGapAt when it began.
	LongestGapMs float64   `json:"longestGapMs"`
	LongestGapAt time.Time `json:"longestGapAt"`
	// LongestGapLateMs is how late the probe itself was during that gap: no more than the rest is the network's.
	LongestGapLateMs float64 `json:"longestGapLateMs"`
	// Gaps lists the gaps of more than 20 ms in their order, the first 1000 of them.
	Gaps []Gap `json:"gaps"`
	// Histogram counts the gaps of more than 20 ms by their length.
	Histogram []Bucket `json:"histogram"`
	// OutOfOrder counts replies whose N was not the next one; Miscounted those whose COUNT did not grow by one;
	// Malformed lines that were no reply at all.
	OutOfOrder uint64 `json:"outOfOrder"`
	Miscounted uint64 `json:"miscounted"`
	Malformed  uint64 `json:"malformed"`
	// AckedWentBack counts replies whose ACKED was smaller than one seen before: a lost write.
	AckedWentBack uint64 `json:"ackedWentBack"`
	// Resets counts connections reset by the other side (0 or 1); Error says why the probe ended early.
	Resets int    `json:"resets"`
	Error  string `json:"error,omitempty"`
	// RTTMedianMs and RTT99Ms are of all replies, RTTMaxMs the slowest.
	RTTMedianMs float64 `json:"rttMedianMs"`
	RTT99Ms     float64 `json:"rtt99Ms"`
	RTTMaxMs    float64 `json:"rttMaxMs"`
	// LastCount and LastAcked are those of the last reply.
	LastCount uint64 `json:"lastCount"`
	LastAcked uint64 `json:"lastAcked"`
	// SenderLateMaxMs is the longest that a request left after its time, SenderLateCount how many did by over 5 ms.
	SenderLateMaxMs float64 `json:"senderLateMaxMs"`
	SenderLateCount uint64  `json:"senderLateCount"`
	// ReaderLateMaxMs is the longest that a reply lay in the kernel before the probe read it. It is not part of any gap.
	ReaderLateMaxMs float64 `json:"readerLateMaxMs"`
}

// Gap is a time without replies.
type Gap struct {
	At time.Time `json:"at"`
	Ms float64   `json:"ms"`
	// LateMs is how late the sender was, at worst, with the requests whose replies ended the gap.
	LateMs float64 `json:"lateMs"`
}

// Bucket counts gaps longer than OverMs, up to the next bucket's.
type Bucket struct {
	OverMs float64 `json:"overMs"`
	Count  uint64  `json:"count"`
}

// Clean reports whether every request was answered once, in order, with nothing forgotten.
func (r Report) Clean() bool {
	return r.Error == "" && r.Sent == r.Answered && r.OutOfOrder == 0 && r.Miscounted == 0 && r.Malformed == 0 &&
		r.AckedWentBack == 0 && r.Resets == 0
}
