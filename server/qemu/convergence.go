package qemu

import "time"

// verdict is what to do after a look at the stream.
type verdict int

const (
	goOn    verdict = iota
	holdNow         // this is as good as asked for, or as it gets
	giveUp          // it does not get good enough
)

// sample is one look at a flowing stream.
type sample struct {
	at        time.Time
	pass      int   // QEMU's count of passes: a new one begins with all memory dirtied since the last began
	remaining int64 // bytes of this pass not yet sent
	sent      int64 // bytes sent since the stream began
}

// convergence decides when to freeze a stream. What a stop would cost at a moment is what remains of the pass plus what
// was dirtied since it began. It is for one run from thaw to freeze; the zero value but for the limits is ready.
type convergence struct {
	holdAt   time.Duration // sending the rest may take this long
	worst    time.Duration // and at most this long where it does not get better
	patience int           // passes without getting nearer, before giving up

	rate      float64 // bytes/s that the link took at its best
	dirtyRate float64 // bytes/s that the guest changes, by the last whole pass
	carried   float64 // bytes/s that the link took in the last whole pass

	started   bool
	firstPass int
	pass      int
	passAt    time.Time
	passSent  int64
	windowAt  time.Time
	window    int64
	best      int64 // the least that a pass began with
	nearest   int64 // the least that a stop would have cost
	stale     int   // passes since best got better
}

const (
	rateWindow = 200 * time.Millisecond
	leastHold  = 128 << 10 // bytes: always good enough, whatever the rate is measured to be
	plateau    = 5         // passes that did not get nearer make a plateau
)

// look takes one sample in.
func (c *convergence) look(s sample) verdict {
	if !c.started {
		c.started = true
		c.firstPass, c.pass, c.passAt, c.passSent = s.pass, s.pass, s.at, s.sent
		c.windowAt, c.window = s.at, s.sent
		return goOn
	}
	c.measure(s)
	if s.pass != c.pass {
		c.newPass(s)
	}
	if c.pass == c.firstPass {
		return goOn // how much was dirtied since it began is not known yet
	}
	cost := s.remaining + int64(c.dirtyRate*s.at.Sub(c.passAt).Seconds())
	if c.nearest == 0 || cost < c.nearest {
		c.nearest = cost
	}
	bearable := cost <= int64(c.rate*c.worst.Seconds())
	// On a plateau, wait for a moment as good as the best one; the longer, the less choosy.
	asGood := cost <= c.nearest+c.nearest/10*int64(1+c.stale-plateau)
	switch {
	case cost <= max(leastHold, int64(c.rate*c.holdAt.Seconds())):
		return holdNow
	case bearable && c.stale >= plateau && (asGood || c.stale >= c.patience):
		return holdNow
	case c.stale >= c.patience:
		return giveUp
	}
	return goOn
}

// measure keeps the best rate of any window: in others there was less to send.
func (c *convergence) measure(s sample) {
	d := s.at.Sub(c.windowAt)
	if d < rateWindow {
		return
	}
	c.rate = max(c.rate, float64(s.sent-c.window)/d.Seconds())
	c.windowAt, c.window = s.at, s.sent
}

func (c *convergence) newPass(s sample) {
	first := c.pass == c.firstPass
	if d := s.at.Sub(c.passAt).Seconds(); d > 0 {
		c.dirtyRate, c.carried = float64(s.remaining)/d, float64(s.sent-c.passSent)/d
	}
	c.pass, c.passAt, c.passSent = s.pass, s.at, s.sent
	const nearer = 0.9
	if first || float64(s.remaining) < nearer*float64(c.best) {
		c.best, c.stale = s.remaining, 0
		return
	}
	c.stale++
}
