package migration_test

import (
	"fmt"
	"testing"

	"github.com/godwit-project/godwit/simulation"
)

// The plan of a process, simulated: three nodes, each with a runner and an agent in one, which die together with what is in their memory. What a
// node decides and its journal outlive it, or not. Links lose, double, reorder and deliver after the attempt.

// processBreakage names what is wrong with a deliberately broken machine.
type processBreakage struct {
	leaveFirst   bool // the source leaves before the destination owns
	resumeOnGone bool // a source goes on though the destination may have been the owner
	noTombstone  bool // agents run verbs of an aborted epoch
	actionsFirst bool // a commit is sent before it is stored
	journalAfter bool // a destination writes its journal after it is the owner
	noAdoption   bool // a standby that nobody knows waits for ever
	lateEpoch    bool // an epoch is used again
}

var simulatedProcess = simulation.Core[processBreakage, processCounters]{
	Flags: simFlags,
	Live: func(seed, schedule uint64, broken processBreakage, traced bool) (processCounters, []string, error) {
		w := newProcessWorld(seed, schedule, broken)
		w.tracing = traced
		err := w.live()
		return w.count, w.trace, err
	},
	Add: (*processCounters).add,
}

// Ten thousand random schedules of moves of a process: never two owners, no acknowledged write lost but with the node that had the only copy,
// and when the faults stop, one owner and nothing left behind.
func TestProcessScheduleIsSafe(t *testing.T) {
	c, n := simulatedProcess.Holds(t)
	simulation.Visited(t, n, n/200, map[string]int{
		"commits": c.commits, "aborts": c.aborts, "crashes": c.crashes, "unborn": c.unborn, "gone": c.gone, "adopted": c.adopted,
		"processes saved from a node that died": c.saved, "processes that died": c.deaths,
	})
}

func TestABrokenMachineForProcessesIsCaught(t *testing.T) {
	simulatedProcess.Catches(t, 1, map[string]processBreakage{
		"whose source leaves before the destination owns":     {leaveFirst: true},
		"whose source goes on though the destination may own": {resumeOnGone: true},
		"whose agents run verbs of an aborted epoch":          {noTombstone: true},
		"that sends the commit before it is stored":           {actionsFirst: true},
		"whose destination writes its journal after it owns":  {journalAfter: true},
		"whose standbys wait for ever":                        {noAdoption: true},
		"that uses an epoch again":                            {lateEpoch: true},
	})
}

// processCounters prove that a run went where bugs are.
type processCounters struct {
	attempts, commits, aborts, crashes, deaths, saved, unborn, gone, adopted, substeps int
}

func (c *processCounters) add(o processCounters) {
	c.attempts += o.attempts
	c.commits += o.commits
	c.aborts += o.aborts
	c.crashes += o.crashes
	c.deaths += o.deaths
	c.saved += o.saved
	c.unborn += o.unborn
	c.gone += o.gone
	c.adopted += o.adopted
	c.substeps += o.substeps
}

// look checks what must hold after every sub-step.
func (w *processWorld) look() error {
	owners, latest := 0, false
	for _, n := range w.nodes {
		if n.copy.state == owning {
			if owners++; n.copy.content != w.acked {
				return w.violate("write %d was acknowledged, the owner at %d knows %d", w.acked, n.id, n.copy.content)
			}
		}
		if n.copy.state != absent && n.copy.content == w.acked || n.standby.staged && n.standby.content == w.acked {
			latest = true
		}
	}
	switch {
	case w.broke != nil:
		return w.broke
	case owners > 1:
		return w.violate("two owners")
	case !latest && !w.died:
		return w.violate("write %d is nowhere, and no node that had it alone died", w.acked)
	}
	return nil
}

// atRest checks what must hold when all is over.
func (w *processWorld) atRest() {
	owners := 0
	for _, n := range w.nodes {
		switch {
		case n.standby.epoch != 0:
			_ = w.violate("at rest: a standby is left at %d: %+v", n.id, n.standby)
		case n.copy.state == holding:
			_ = w.violate("at rest: the process is held at %d", n.id)
		case len(n.disk.moves) > 0:
			_ = w.violate("at rest: node %d has moves in its book: %v", n.id, n.disk.moves)
		case n.copy.state == owning:
			owners++
		}
	}
	if owners == 0 && !w.died {
		_ = w.violate("at rest: nobody owns")
	}
}

func (w *processWorld) violate(format string, args ...any) error {
	if w.broke == nil {
		w.broke = fmt.Errorf(format, args...)
		w.note("VIOLATION: %v", w.broke)
	}
	return w.broke
}

func (w *processWorld) note(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf(format, args...))
	}
}
