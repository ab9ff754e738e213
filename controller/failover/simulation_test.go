package failover_test

import (
	"testing"

	"github.com/godwit-project/godwit/simulation"
)

var simulated = simulation.Core[breakage, counters]{
	Flags: simulation.Register(),
	Live: func(seed, schedule uint64, broken breakage, traced bool) (counters, []string, error) {
		w := newWorld(seed, schedule, broken)
		w.tracing = traced
		err := w.live()
		return w.count, w.trace, err
	},
	Add: (*counters).add,
}

func TestNoScheduleHasTwoOwnersAndAllEnd(t *testing.T) {
	c, n := simulated.Holds(t)
	simulation.Visited(t, n, n/100, map[string]int{
		"decisions": c.decided, "wishes asked again": c.again, "refusals": c.refused, "conflicts": c.conflicts, "crashes": c.crashes,
		"demotions renewed": c.renewed * 10, "fenced owners": c.fenced, "tails": c.tails,
		"starts overtaken": c.overtaken * 10, "dead hosts": c.dead, "deposed leaders": c.deposed, "external disks": c.external,
	})
}

func TestABrokenMachineIsCaught(t *testing.T) {
	simulated.Catches(t, 3, map[string]breakage{
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
	})
}
