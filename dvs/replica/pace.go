package replica

import "time"

const (
	// mostSlow bounds how much slower than the real clock that of the cores may go: so a patience of 0.5 s is one of 4 s at most.
	mostSlow = 8
	// forgetGap is how long it takes until a measured silence counts half.
	forgetGap = 10 * time.Second
	// mostTicks is how far one tick may take the clock, in pauses between ticks: when this process has not run it has heard nobody either.
	mostTicks = 2
)

// pace is the clock of the cores: the real one on a machine that does in time what it is asked for, a slower one where signs of life come late. So all
// that counts silence has more patience there, by the same measure. Its times are since the beginning of the replica.
type pace struct {
	every, patience time.Duration
	real            time.Duration // of the last tick
	now             time.Duration // what the cores know of it
	last            map[string]time.Duration
	gap             time.Duration // the longest silence of one that spoke again, as it counts today
}

func newPace(every, patience time.Duration) *pace {
	return &pace{every: every, patience: patience, last: map[string]time.Duration{}}
}

// heard notes a sign of life. It counts only if the peer is one that is expected to give them in every pause, regular. A silence that was long enough to
// be an outage says nothing of how late signs come.
func (p *pace) heard(peer string, real time.Duration, regular bool) {
	if !regular {
		delete(p.last, peer)
		return
	}
	last, known := p.last[peer]
	p.last[peer] = real
	if gap := real - last; known && gap > p.gap && gap <= 4*p.patience {
		p.gap = gap
	}
}

// tick takes the real time, and returns that of the cores.
func (p *pace) tick(real time.Duration) time.Duration {
	step := real - p.real
	p.real = real
	p.gap -= time.Duration(float64(p.gap) * min(1, float64(step)/float64(2*forgetGap)))
	p.now += time.Duration(float64(min(step, mostTicks*p.every)) / p.slow())
	return p.now
}

// slow is by how much the clock is slower: three times the silence that is usual here is within the patience.
func (p *pace) slow() float64 {
	return min(mostSlow, max(1, float64(3*p.gap)/float64(p.patience)))
}
