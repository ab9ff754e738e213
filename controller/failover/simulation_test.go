package failover_test

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeed      = flag.Uint64("sim.seed", 0, "seed of the simulation; 0 takes one from the clock")
	simSchedules = flag.Int("sim.schedules", 10000, "number of random schedules")
	simFirst     = flag.Int("sim.first", 0, "number of the first schedule, to replay one")
)

func schedules() int {
	if *simSchedules <= scheduleShare {
		return *simSchedules
	}
	return *simSchedules / scheduleShare
}

func seed(t *testing.T) uint64 {
	t.Helper()
	s := *simSeed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("replay with -sim.seed=%d -sim.schedules=%d -sim.first=%d", s, *simSchedules, *simFirst)
	return s
}

// simulate runs schedules on all processors until one is violated. It returns that one's number, or -1.
func simulate(seed uint64, broken breakage, first, n int) (int, counters) {
	var (
		wg    sync.WaitGroup
		next  atomic.Int64
		found atomic.Int64
		mu    sync.Mutex
		sum   counters
	)
	found.Store(-1)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			var mine counters
			for found.Load() < 0 {
				i := int(next.Add(1)) - 1
				if i >= n {
					break
				}
				w := newWorld(seed, uint64(first+i), broken)
				if w.live() != nil {
					found.Store(int64(first + i))
				}
				mine.add(w.count)
			}
			mu.Lock()
			sum.add(mine)
			mu.Unlock()
		})
	}
	wg.Wait()
	return int(found.Load()), sum
}

// story replays a schedule and returns how it went wrong.
func story(seed uint64, schedule int, broken breakage) (string, string) {
	w := newWorld(seed, uint64(schedule), broken)
	w.tracing = true
	err := w.live()
	return fmt.Sprint(err), strings.Join(w.trace[max(0, len(w.trace)-100):], "\n")
}

func TestNoScheduleHasTwoOwnersAndAllEnd(t *testing.T) {
	s, n := seed(t), schedules()
	schedule, c := simulate(s, breakage{}, *simFirst, n)
	if schedule >= 0 {
		why, trace := story(s, schedule, breakage{})
		t.Fatalf("schedule %d (-sim.seed=%d -sim.first=%d -sim.schedules=1): %s\n%s", schedule, s, schedule, why, trace)
	}
	t.Logf("%d schedules: %+v", n, c)
	if n < 1000 {
		return
	}
	for what, got := range map[string]int{
		"decisions": c.decided, "wishes asked again": c.again, "refusals": c.refused, "conflicts": c.conflicts, "crashes": c.crashes,
		"demotions renewed": c.renewed * 10, "fenced owners": c.fenced, "tails": c.tails,
		"starts overtaken": c.overtaken * 10, "dead hosts": c.dead, "deposed leaders": c.deposed, "external disks": c.external,
	} {
		if got < n/100 {
			t.Errorf("only %d %s: the simulation does not go where bugs are", got, what)
		}
	}
}

func TestABrokenMachineIsCaught(t *testing.T) {
	s, n := seed(t), 3*(*simSchedules) // few are needed, rarely many
	for name, broken := range map[string]breakage{
		"that leaves nothing to the old owner":                 {noFence: true},
		"that removes what the old owner has":                  {removed: true},
		"that decides a wish twice":                            {decideTwice: true},
		"that gives the old owner's epoch to the new one":      {epochTwice: true},
		"that does not compare what it has read":               {noCAS: true},
		"that decides though it leads no more":                 {noGuard: true},
		"that starts before the old owner is stopped":          {startFirst: true},
		"that notes a start whoever is the owner by then":      {staleNote: true},
		"that takes a demotion for done that was refused":      {refusedIsDone: true},
		"that misses what died before it was noted as started": {neverLooks: true},
		"that reads a state which never was":                   {torn: true},
		"that forgets a leftover whose agent did not answer":   {forgetsUnstopped: true},
	} {
		t.Run(name, func(t *testing.T) {
			schedule, _ := simulate(s, broken, *simFirst, n)
			if schedule < 0 {
				t.Fatalf("nothing found in %d schedules", n)
			}
			why, _ := story(s, schedule, broken)
			t.Logf("schedule %d: %s", schedule, why)
		})
	}
}
