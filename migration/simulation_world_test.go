package migration_test

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/godwit-project/godwit/migration"
)

// The simulated world: two sites with a host and an edge each, a store, two runners, and links that lose, double, delay
// and reorder. One schedule is one seed: the world takes one sub-step at a time, chosen at random, and the invariants
// are looked at after each.

// breakage names what is wrong with a deliberately broken machine. The zero value is the real one.
type breakage struct {
	commitBeforeLoaded bool // the plan does not wait for the destination
	epochTwice         bool // an epoch is given out again
	lateEpoch          bool // an epoch is used although a newer one was given out
	noGate             bool // the stopped source keeps tap and volume open
	noFence            bool // the stopped source keeps its volume open
	abortAfterCommit   bool // an operator's abort is obeyed after the commit
	noCAS              bool // runners write whatever they have
	actionsFirst       bool // runners send before they store
	noJournal          bool // agents run whatever arrives
	noTombstone        bool // agents run verbs of an epoch that was aborted
	oldEpochs          bool // agents run verbs of an epoch older than one seen
	lazyReach          bool // runners put off every write but decisions, also when a new end is reached
}

type world struct {
	rng    *rand.Rand
	now    time.Time
	broken breakage
	plan   migration.Plan

	store   store
	runners [2]*runner
	agents  [4]*agent // site*2 + kind
	hosts   [2]*host
	edges   [2]*edge
	bag     []message // what links carry
	slow    []message // what they deliver much later, perhaps after the attempt

	acked     int  // writes acknowledged so far; the last one's number
	bereft    bool // a fault killed a QEMU that may have had the only memory
	wanted    int  // attempts the operator still wants
	trouble   int  // how often faults strike, in parts of a thousand
	json      bool // the store keeps JSON
	attempts  map[uint64]string
	decisions map[uint64]string

	count   counters
	tracing bool
	trace   []string
	broke   error // the first violation
}

// counters prove that a run went where bugs are.
type counters struct {
	attempts, commits, aborts, swapsLost, refused, doubled, crashes, resumes, deaths, held, ahead, substeps int
}

func (c *counters) add(o counters) {
	c.attempts += o.attempts
	c.commits += o.commits
	c.aborts += o.aborts
	c.swapsLost += o.swapsLost
	c.refused += o.refused
	c.doubled += o.doubled
	c.crashes += o.crashes
	c.resumes += o.resumes
	c.deaths += o.deaths
	c.held += o.held
	c.ahead += o.ahead
	c.substeps += o.substeps
}

func newWorld(seed, schedule uint64, broken breakage) *world {
	rng := rand.New(rand.NewPCG(seed, schedule))
	w := &world{
		rng: rng, broken: broken, plan: virtualMachine,
		now:       time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		wanted:    1 + rng.IntN(4),
		trouble:   []int{0, 2, 6, 25}[rng.IntN(4)],
		json:      rng.IntN(50) == 0,
		attempts:  map[uint64]string{},
		decisions: map[uint64]string{},
	}
	if broken.commitBeforeLoaded {
		w.plan = withoutLoading(w.plan)
	}
	for site := range 2 {
		w.hosts[site] = &host{}
		w.edges[site] = &edge{}
		w.agents[2*site] = &agent{site: site, up: true}
		w.agents[2*site+1] = &agent{site: site, edge: true, up: true}
		w.runners[site] = &runner{id: site, up: true}
	}
	*w.hosts[0] = host{qemu: running, tap: true, volume: volume{exists: true, writable: true}}
	w.edges[0].announced = true
	return w
}

var virtualMachine = migration.VirtualMachine()

// withoutLoading is the plan of a machine that commits without asking whether the destination has loaded.
func withoutLoading(p migration.Plan) migration.Plan {
	var steps []migration.PlannedStep
	for _, s := range p.Steps {
		if s.ID != "server/destination/quiesce" {
			steps = append(steps, s)
		}
	}
	return migration.Plan{Kind: p.Kind, Steps: steps}
}

// live runs one schedule: a time with faults, then one without, in which everything has to come to rest.
func (w *world) live() error {
	for range 200 + w.rng.IntN(2500) {
		w.chaos()
		if w.look() != nil {
			return w.broke
		}
	}
	if w.settle() == nil {
		w.atRest()
	}
	return w.broke
}

func (w *world) chaos() {
	w.count.substeps++
	if w.rng.IntN(1000) < w.trouble {
		w.fault()
		return
	}
	// QEMU stands paused for few sub-steps: look for trouble there.
	for site, h := range w.hosts {
		if h.qemu == paused && w.trouble > 0 && w.rng.IntN(100) == 0 {
			w.resumeUnasked(site)
			return
		}
	}
	switch n := w.rng.IntN(100); {
	case n < 30:
		w.deliver()
	case n < 58:
		w.workSomewhere()
	case n < 88:
		w.run(w.runners[w.rng.IntN(2)])
	case n < 93:
		w.clientWrites()
	case n < 96:
		w.replicate(1 + w.rng.IntN(4))
	case n < 98:
		w.load()
	case n < 99:
		w.pass(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
	default:
		w.operate()
	}
}

// settle lets everything run fairly and without faults until nothing moves.
func (w *world) settle() error {
	if w.count.attempts > 0 {
		w.wanted = 0
	}
	for round := 0; round < 3000; round++ {
		w.bag, w.slow = append(w.bag, w.slow...), nil
		for n := len(w.bag); n > 0; n-- {
			w.deliver()
		}
		for _, a := range w.agents {
			w.work(a)
			w.work(a)
		}
		for _, r := range w.runners {
			r.resend = r.resend || round%10 == 0
			for range 8 {
				w.run(r)
				if w.look() != nil {
					return w.broke
				}
			}
		}
		w.replicate(1000)
		w.load()
		w.pass(500 * time.Millisecond)
		if w.store.active != nil && w.store.active.Ready {
			w.tell(w.runners[round%2], migration.Continue{At: w.now})
		}
		if w.look() != nil {
			return w.broke
		}
		if w.store.active == nil && w.wanted == 0 && w.idle() {
			return nil
		}
	}
	return w.violate("liveness: not at rest long after the faults stopped: %v", w.store.active)
}

func (w *world) idle() bool {
	if len(w.bag)+len(w.slow) > 0 {
		return false
	}
	for _, a := range w.agents {
		if !a.up || len(a.ops) > 0 {
			return false
		}
	}
	for _, r := range w.runners {
		if len(r.outbox) > 0 || r.next != nil {
			return false
		}
	}
	return true
}

// pass lets time pass, and the runners see it.
func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	for _, r := range w.runners {
		w.tell(r, migration.Tick{At: w.now})
	}
}

func (w *world) operate() {
	r := w.runners[w.rng.IntN(2)]
	switch w.rng.IntN(60) {
	case 0:
		w.tell(r, migration.Abort{At: w.now, Reason: "changed my mind"})
	default:
		w.tell(r, migration.Continue{At: w.now})
	}
}

// tell feeds a runner that has the migration at hand; others take no calls.
func (w *world) tell(r *runner, e migration.Event) {
	if r.up && r.loaded {
		r.inbox = append(r.inbox, e)
	}
}

func (w *world) violate(format string, args ...any) error {
	if w.broke == nil {
		w.broke = fmt.Errorf(format, args...)
		w.note("VIOLATION: %v", w.broke)
	}
	return w.broke
}

func (w *world) note(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf(format, args...))
	}
}
