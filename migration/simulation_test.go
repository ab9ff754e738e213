package migration_test

import (
	"testing"

	"github.com/godwit-project/godwit/simulation"
)

var simFlags = simulation.Register()

// simulated is the plan of a virtual server.
var simulated = simulation.Core[breakage, counters]{
	Flags: simFlags,
	Live: func(seed, schedule uint64, broken breakage, traced bool) (counters, []string, error) {
		w := newWorld(seed, schedule, broken)
		w.tracing = traced
		err := w.live()
		return w.count, w.trace, err
	},
	Add: (*counters).add,
}

func TestNoScheduleBreaksASafetyRuleAndAllComeToRest(t *testing.T) {
	c, n := simulated.Holds(t)
	simulation.Visited(t, n, n/100, map[string]int{
		"commits": c.commits, "aborts": c.aborts, "lost swaps": c.swapsLost, "refused commands": c.refused,
		"doubled commands": c.doubled, "crashes": c.crashes, "unasked resumes": c.resumes, "dead QEMUs": c.deaths,
		"holds": c.held, "events ahead of a runner": c.ahead,
	})
}

func TestABrokenMachineIsCaught(t *testing.T) {
	simulated.Catches(t, 1, map[string]breakage{
		"that commits before the destination has loaded":     {commitBeforeLoaded: true},
		"that uses an epoch twice":                           {epochTwice: true},
		"that uses an epoch after a newer one was given out": {lateEpoch: true},
		"that keeps the stopped source's gates open":         {noGate: true},
		"that skips the fence of the source volume":          {noFence: true},
		"that obeys an abort after the commit":               {abortAfterCommit: true},
		"that ignores the compare-and-swap":                  {noCAS: true},
		"that sends actions before it stores the state":      {actionsFirst: true},
		"whose agents run verbs of an aborted epoch":         {noTombstone: true},
		"whose agents run verbs of an older epoch":           {oldEpochs: true},
		"whose agents keep no journal":                       {noJournal: true},
		"that stores too late which ends it has reached":     {lazyReach: true},
	})
}
