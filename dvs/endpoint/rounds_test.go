package endpoint_test

import (
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
)

// carry plays rounds of a state of that many bytes that changes at a pace (bytes per second), over a way of another, and returns
// how long the last, frozen one takes.
func carry(r *endpoint.Rounds, size, dirty, rate float64) time.Duration {
	next := size
	for {
		took := next / rate
		more := r.Another(uint64(next), time.Duration(took*1e9))
		next = min(dirty*took, size)
		if !more {
			return time.Duration(next / rate * 1e9)
		}
	}
}

func TestRoundsEndWhenTheRestFitsTheOutage(t *testing.T) {
	for _, c := range []struct {
		name              string
		size, dirty, rate float64
		most              int
	}{
		{"idle", 1 << 30, 0, 1e9, 2},
		{"small", 64 << 10, 1e9, 1e9, 1},
		{"slow changes", 1 << 30, 1e6, 1e9, 2},
		{"half the pace", 1 << 30, 5e8, 1e9, 8},
		{"nine tenths", 1 << 28, 4.5e8, 5e8, 30},
	} {
		r := endpoint.Rounds{Outage: 50 * time.Millisecond}
		if got := carry(&r, c.size, c.dirty, c.rate); got > r.Outage || r.Count > c.most {
			t.Errorf("%s: the rest takes %v after %d rounds", c.name, got, r.Count)
		}
	}
}

func TestRoundsEndThatGainNothing(t *testing.T) {
	r := endpoint.Rounds{Outage: time.Millisecond}
	carry(&r, 1<<28, 2e9, 1e9)
	if r.Count > 4 {
		t.Errorf("%d rounds of what changes faster than it moves", r.Count)
	}
}
