// Package simulation is what the simulations of pure cores share: which schedules are run, on all processors, until one is violated, and
// how that one is told and replayed. Only tests import it.
//
// No world may enter. What stands for a store, an agent or a line is modelled beside the core that it surrounds: each core needs other
// things to go wrong, and a model that served two would hide what it leaves out of either.
package simulation

import (
	"flag"
	"strings"
	"testing"
	"time"
)

// Flags are how a run is told which schedules to take.
type Flags struct {
	seed             *uint64
	schedules, first *int
}

// Register adds them to a test's command line. A package of tests does so once, in a variable.
func Register() Flags {
	return Flags{
		seed:      flag.Uint64("sim.seed", 0, "seed of the simulation; 0 takes one from the clock"),
		schedules: flag.Int("sim.schedules", 10000, "number of random schedules"),
		first:     flag.Int("sim.first", 0, "number of the first schedule, to replay one"),
	}
}

// Core is a core that is simulated: B says what is broken in a machine, and its zero value is the real one; C counts what a schedule went
// through.
type Core[B, C any] struct {
	Flags Flags
	// Live runs a schedule, which is the same whenever it is run. It returns what that went through, the trace of it if one is
	// wanted, and how it was violated.
	Live func(seed, schedule uint64, broken B, traced bool) (count C, trace []string, violated error)
	// Add adds what one schedule went through to the sum.
	Add func(sum *C, one C)
}

// Holds fails the test if a schedule of the real machine is violated, and tells the end of its story. It returns what they all went
// through, and how many there were: under the race detector a part of those that were asked for.
func (c Core[B, C]) Holds(t *testing.T) (C, int) {
	t.Helper()
	const told = 150 // lines
	var right B
	seed, first, n := c.seed(t), *c.Flags.first, *c.Flags.schedules
	if n > raceShare {
		n /= raceShare
	}
	schedule, sum, _ := c.run(seed, right, n)
	if schedule >= 0 {
		_, trace, why := c.Live(seed, uint64(schedule), right, true)
		t.Fatalf("schedule %d (-sim.seed=%d -sim.first=%d -sim.schedules=1): %v\n%s", schedule, seed, schedule, why, strings.Join(trace[max(0, len(trace)-told):], "\n"))
	}
	t.Logf("%d schedules from %d: %+v", n, first, sum)
	return sum, n
}

// Catches fails the test if a machine that is broken, of those by the name of what is wrong, survives that many times the schedules that
// were asked for. Few are needed, rarely many.
func (c Core[B, C]) Catches(t *testing.T, times int, machines map[string]B) {
	t.Helper()
	seed, n := c.seed(t), times*(*c.Flags.schedules)
	for name, broken := range machines {
		t.Run(name, func(t *testing.T) {
			schedule, _, why := c.run(seed, broken, n)
			if schedule < 0 {
				t.Fatalf("nothing found in %d schedules", n)
			}
			t.Logf("schedule %d: %v", schedule, why)
		})
	}
}

// Visited fails the test if the schedules, once there are enough to tell, did not go at least that often where bugs are.
func Visited(t *testing.T, schedules, least int, went map[string]int) {
	t.Helper()
	const enough = 1000
	if schedules < enough {
		return
	}
	for what, got := range went {
		if got < least {
			t.Errorf("only %d %s: the simulation does not go where bugs are", got, what)
		}
	}
}

func (c Core[B, C]) seed(t *testing.T) uint64 {
	t.Helper()
	s := *c.Flags.seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("replay with -sim.seed=%d -sim.schedules=%d -sim.first=%d", s, *c.Flags.schedules, *c.Flags.first)
	return s
}
