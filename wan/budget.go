package wan

import (
	"sync"
	"time"
)

// Budget bounds what the streams of one machine send together, and shares it out by class: while a more urgent one has
// something to send, less urgent ones wait. It has no idea of the line; set it below what the line carries, or the
// line's own queue decides again. TCP's and IP's headers, some 4 %, are not counted. A nil Budget is without limit.
type Budget struct {
	rate  float64 // bytes per second
	burst float64 // bytes that may go at once after a pause

	mu      sync.Mutex
	tokens  float64 // bytes that may go now; below zero what went too early
	at      time.Time
	waiting [Bulk + 1][]*turn // by class, who came first first
	count   int
	grants  int
	timer   *time.Timer
	waited  [Bulk + 1]time.Duration
}

// share: every so manieth piece goes to who has waited longest, whatever the class. So nobody starves, and no stream is silent
// until its far end takes it for dead.
const share = 8

// turn is one writer's place; it is used again for each of its pieces.
type turn struct {
	size  float64
	since time.Time
	ready chan struct{} // holds one: the piece may go
}

// NewBudget makes a budget of that many bits per second; nil, which is none, for 0 or less.
func NewBudget(rate int64) *Budget {
	if rate <= 0 {
		return nil
	}
	bytes := float64(rate) / 8
	// Two records of TLS, or 2 ms: more would stand in a queue of the line before what is more urgent.
	b := &Budget{rate: bytes, burst: max(32<<10, bytes/500), at: time.Now()}
	b.tokens = b.burst
	return b
}

// Waited is for how long pieces of a class have waited in all.
func (b *Budget) Waited(c Class) time.Duration {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waited[known(c)]
}

// known puts a class that this release does not know with the least urgent.
func known(c Class) Class {
	if c < Handover || c > Bulk {
		return Bulk
	}
	return c
}

// take waits until a piece of size bytes may go. The caller's turn is used by one piece at a time.
func (b *Budget) take(c Class, size int, t *turn) {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.refill(time.Now())
	if b.count == 0 && b.tokens > 0 {
		b.tokens -= float64(size)
		b.mu.Unlock()
		return
	}
	c = known(c)
	t.size, t.since = float64(size), b.at
	b.waiting[c] = append(b.waiting[c], t)
	b.count++
	b.arm()
	b.mu.Unlock()
	<-t.ready
}

func (b *Budget) refill(now time.Time) {
	b.tokens = min(b.burst, b.tokens+now.Sub(b.at).Seconds()*b.rate)
	b.at = now
}

// arm has grant called when something may go.
func (b *Budget) arm() {
	if b.timer != nil {
		return
	}
	wait := time.Duration(max(-b.tokens, 0)/b.rate*float64(time.Second)) + time.Microsecond
	b.timer = time.AfterFunc(wait, b.grant)
}

// grant lets go what may.
func (b *Budget) grant() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timer = nil
	b.refill(time.Now())
	for b.count > 0 && b.tokens > 0 {
		c := b.next()
		queue := b.waiting[c]
		t := queue[0]
		b.waiting[c] = queue[:copy(queue, queue[1:])]
		b.count--
		b.tokens -= t.size
		b.waited[c] += b.at.Sub(t.since)
		t.ready <- struct{}{}
	}
	if b.count > 0 {
		b.arm()
	}
}

// next is the class whose turn it is. Somebody waits.
func (b *Budget) next() Class {
	b.grants++
	var first Class
	for c := Handover; c <= Bulk; c++ {
		switch {
		case len(b.waiting[c]) == 0:
		case first == 0:
			first = c
			if b.grants%share != 0 {
				return c
			}
		case b.waiting[c][0].since.Before(b.waiting[first][0].since):
			first = c
		}
	}
	return first
}
