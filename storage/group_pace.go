package storage

import "time"

const (
	// restFor is how many times as long as the sender worked on an epoch, waiting for the link left out, it rests when nobody waits: so
	// much more coalesces, and writers have the disk to themselves. What an epoch costs in all, at both ends, is about ten times that work.
	restFor = 150
	// fullEpoch cuts an epoch before its time where somebody may come to wait for it, in bytes; a smaller one says nothing of the pace.
	fullEpoch = 32 << 20
	minPaced  = 4 << 20
)

// pace is how fast epochs come to be on stable storage at the standby.
type pace struct {
	perSecond int64 // bytes; 0 for not known
}

// shipped counts an epoch, which took so long from its cut until it was confirmed.
func (p *pace) shipped(bytes int64, took time.Duration) {
	if bytes < minPaced || took <= 0 {
		return
	}
	now := int64(float64(bytes) / took.Seconds())
	if p.perSecond > now || p.perSecond == 0 {
		p.perSecond = now // what has become slow is believed at once
		return
	}
	p.perSecond += (now - p.perSecond) / 4
}

// growth is how much is written, at so many bytes in that time, while so many are shipped.
func (p *pace) growth(bytes, written int64, in time.Duration) int64 {
	if p.perSecond == 0 || in <= 0 {
		return bytes
	}
	return int64(float64(bytes) / float64(p.perSecond) * float64(written) / in.Seconds())
}

// restLocked is how long the sender rests after an epoch that cost it so much work and took so long to hand over: an eighth of Lag at
// most. Where that is too little for the work, in async mode, and much was written over, so that a longer rest ships hardly more,
// it is twice as long, rest and handing over together two thirds of Lag at most: the third that is left is for an epoch that the link
// takes longer for than for the last one.
func (g *Group) restLocked(work, took time.Duration, rewritten bool) time.Duration {
	rest, most := restFor*work, g.limits.Lag/8
	switch {
	case rest <= most:
		return rest
	case rewritten && g.mode == ModeAsync:
		return max(most, min(2*rest, g.limits.Lag/3*2-took))
	default:
		return most
	}
}

// dueLocked says whether an epoch is to be cut now, or else after what time, 0 for when something happens.
func (g *Group) dueLocked(now time.Time) (bool, time.Duration) {
	current, written := g.tracker.Current()
	interval := max(g.limits.Interval, g.pause)
	switch {
	case len(g.cuts) >= maxUnderway:
		return false, 0
	case g.wanted >= current || len(g.unsentLocked()) > 0:
		return true, 0
	case !written:
		return false, 0
	case g.firstWrite.IsZero():
		g.firstWrite = now
	case now.Sub(g.firstWrite) >= interval:
		return true, 0
	}
	full, again := g.fullLocked(now)
	if full && len(g.cuts) < 2 {
		return true, 0
	}
	return false, min(g.limits.Interval, again, max(interval-now.Sub(g.firstWrite), time.Millisecond))
}

// fullLocked says whether the epoch is large enough to be cut before its time: in async mode, when the bound would come near before it
// is shipped; when it may not be, and after what time that is to be asked again.
func (g *Group) fullLocked(now time.Time) (full bool, again time.Duration) {
	const rarely = time.Hour
	if g.mode != ModeAsync {
		return g.tracker.Pending() >= min(max(fullEpoch, g.limits.Bytes/4), g.limits.Bytes), rarely
	}
	written, size := g.tracker.Written()
	if size <= g.limits.Bytes {
		return false, rarely // more can never be lacking
	}
	bound := g.limits.Bytes / 4 * 3
	lacking, in := g.tracker.Lacking(), now.Sub(g.firstWrite)
	left := bound - lacking - g.pace.growth(written, written, in)
	if left <= 0 || written == 0 {
		return left <= 0, rarely
	}
	return false, max(time.Duration(float64(left)/float64(written)*float64(in)/4), time.Millisecond)
}
