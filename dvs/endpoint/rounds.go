package endpoint

import "time"

// Rounds decides how long a state that moves while its program runs goes on doing so. The zero value has seen no round.
type Rounds struct {
	// Outage is how long the program may stand still at the end.
	Outage time.Duration
	// Count, Bytes and Last are the rounds so far, what they carried, and what the last one carried.
	Count       int
	Bytes, Last uint64
	took        time.Duration // by the last one
	stuck       int           // rounds that carried no less than the one before
}

const (
	// DefaultOutage is half of the aim for the whole outage: the rest is for what comes besides the state.
	DefaultOutage = 25 * time.Millisecond
	mostRounds    = 30
	mostStuck     = 3
	smallRound    = 64 << 10 // bytes: what a round costs besides them is more
)

// Another takes in what a round carried and how long that took until it was applied, and tells whether another one is worth it. What
// remains after a round was changed while it ran: at the pace of changes that the round shows, and the pace at which it was carried,
// that takes took²/(the time of the round before).
func (r *Rounds) Another(bytes uint64, took time.Duration) bool {
	before, last := r.took, r.Last
	r.Count++
	r.Bytes += bytes
	r.Last, r.took = bytes, took
	outage := r.Outage
	if outage <= 0 {
		outage = DefaultOutage
	}
	if r.Count > 1 && bytes >= last-last/16 {
		r.stuck++
	}
	switch {
	case r.Count >= mostRounds, r.stuck >= mostStuck, bytes <= smallRound, took <= outage/4:
		return false
	case r.Count == 1:
		return true
	default:
		return took.Seconds()*took.Seconds()/max(before.Seconds(), 1e-9) > outage.Seconds()
	}
}
