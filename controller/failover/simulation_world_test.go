package failover_test

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/godwit-project/godwit/controller/failover"
)

// The simulated world: two sites with a host and an edge each, a store, two controllers of which one leads, operators, and sessions that
// break, lose, double and delay. One schedule is one seed: the world takes one sub-step at a time, chosen at random, and the rules are
// looked at after each.

// breakage names what is wrong with a deliberately broken machine. The zero value is the real one.
type breakage struct {
	noFence          bool // nothing is left to the old owner's host
	removed          bool // the old owner's volumes are to be removed, not demoted
	decideTwice      bool // a wish that was decided is decided again
	epochTwice       bool // the new owner gets the old one's epoch
	noCAS            bool // what was read is not compared when the decision is stored
	noGuard          bool // a controller that leads no more decides
	startFirst       bool // the service is started before the old owner is stopped
	staleNote        bool // a start is noted whoever is the owner by then
	refusedIsDone    bool // a demotion that was refused is forgotten
	neverLooks       bool // nobody looks for what has died before it was noted as started
	torn             bool // what is left to do is read before the owner, and may be older
	forgetsUnstopped bool // a leftover whose agent did not answer is forgotten
}

type world struct {
	rng      *rand.Rand
	broken   breakage
	external bool // the service has an external disk only

	store     store
	ctls      [2]*controller
	agents    []*agent // host-a, host-b, edge-a, edge-b
	bag       []*call
	operators [2]operator

	writes    int               // acknowledged so far: numbered from 1
	decisions map[string]uint64 // wish → epoch
	owners    map[uint64]string // epoch → host
	lives     int
	trouble   int // how often faults strike, in parts of a thousand
	pace      pace
	calm      bool
	sharp     bool // operators want one failover after the other, and agents are soon back
	moved     bool // a copy of the writes has changed
	hot       bool // something was done that nobody has noted yet: look for trouble there

	count   counters
	tracing bool
	trace   []string
	broke   error
}

// pace is how often something moves, beside the rest; it differs between schedules.
type pace struct{ work, deliver, operate, connect int }

// store is the model of etcd: the record and the owner with a revision each, leftovers, the counter of epochs, the lead.
type store struct {
	state              failover.State
	record, owner      int // revisions
	counter            uint64
	leader, leaderLife int
}

// operator asks for one failover until it is answered, by one name.
type operator struct {
	wish   failover.Wish
	asking bool
	job    *job
	number int
}

type counters struct {
	decided, again, refused, conflicts, crashes, renewed, outdated, fenced, tails, overtaken, dead, deposed, external, substeps int
}

func (c *counters) add(o counters) {
	c.decided += o.decided
	c.again += o.again
	c.refused += o.refused
	c.conflicts += o.conflicts
	c.crashes += o.crashes
	c.renewed += o.renewed
	c.outdated += o.outdated
	c.fenced += o.fenced
	c.tails += o.tails
	c.overtaken += o.overtaken
	c.dead += o.dead
	c.deposed += o.deposed
	c.external += o.external
	c.substeps += o.substeps
}

const (
	siteA = "a"
	siteB = "b"
)

func newWorld(seed, schedule uint64, broken breakage) *world {
	rng := rand.New(rand.NewPCG(seed, schedule))
	w := &world{
		rng: rng, broken: broken, external: rng.IntN(4) == 0, trouble: []int{0, 4, 15, 50}[rng.IntN(4)],
		pace:      pace{work: 40 + rng.IntN(30), deliver: 2 + rng.IntN(20), operate: 2 + rng.IntN(15), connect: 2 + rng.IntN(20)},
		decisions: map[string]uint64{}, owners: map[uint64]string{},
	}
	if w.sharp = rng.IntN(3) == 0; w.sharp {
		w.pace = pace{work: 40, deliver: 3 + rng.IntN(20), operate: 15, connect: 20}
	}
	for _, kind := range []string{"host", "edge"} {
		for _, site := range []string{siteA, siteB} {
			w.agents = append(w.agents, &agent{name: kind + "-" + site, site: site, edge: kind == "edge"})
		}
	}
	const first = 1
	w.store.counter = first
	w.store.state = failover.State{
		Service: "shop", Owner: failover.Owner{Place: failover.Place{Site: siteA, Host: "host-a"}, Epoch: first}, Phase: failover.Running, External: w.external,
	}
	a, b := w.agent("host-a"), w.agent("host-b")
	a.runs, a.home, a.seen = true, first, first
	w.agent("edge-a").routes, w.agent("edge-a").home = true, first
	if w.external {
		w.count.external++
	} else {
		w.store.state.Replica = failover.Place{Site: siteB, Host: "host-b"}
		a.volume = volume{role: primary, epoch: first, source: true}
		b.volume = volume{role: standby, epoch: first, complete: true}
	}
	w.owners[first] = "host-a"
	for i := range w.ctls {
		w.ctls[i] = &controller{id: i}
	}
	w.elect(w.ctls[0])
	for _, a := range w.agents {
		w.connect(a)
	}
	return w
}

func (w *world) agent(name string) *agent {
	return w.agents[slices.IndexFunc(w.agents, func(a *agent) bool { return a.name == name })]
}

// live runs one schedule: a time with faults, then one without, in which everything has to come to rest.
func (w *world) live() error {
	defer func() {
		for _, c := range w.ctls {
			c.die()
		}
	}()
	for range 200 + w.rng.IntN(1000) {
		w.count.substeps++
		w.chaos()
		if w.look() != nil {
			return w.broke
		}
	}
	w.settle()
	return w.broke
}

func (w *world) chaos() {
	hot := w.hot && w.trouble > 0
	w.hot = false
	switch strike := w.rng.IntN(30); {
	case hot && strike < 2:
		w.elect(w.ctls[w.rng.IntN(2)])
		return
	case hot && strike < 4:
		w.goDown(w.agents[w.rng.IntN(2)])
		if strike == 3 {
			w.elect(w.ctls[1-w.store.leader])
		}
		return
	case w.rng.IntN(1000) < w.trouble:
		w.fault()
		return
	}
	if w.sharp && w.tempting() && w.rng.IntN(2) == 0 {
		w.operate()
		if o := w.operators[w.rng.IntN(2)]; o.job != nil {
			w.ctls[w.store.leader].workOn(o.job)
		}
		return
	}
	switch n := w.rng.IntN(w.pace.work + w.pace.deliver + w.pace.operate + w.pace.connect + 10); {
	case n < w.pace.work:
		c := w.ctls[w.store.leader]
		if w.rng.IntN(4) == 0 {
			c = w.ctls[1-w.store.leader]
		}
		c.work(w)
	case n < w.pace.work+w.pace.deliver:
		w.deliver()
	case n < w.pace.work+w.pace.deliver+w.pace.operate:
		w.operate()
	case n < w.pace.work+w.pace.deliver+w.pace.operate+w.pace.connect:
		if a := w.agents[w.rng.IntN(4)]; a.session == nil {
			w.connect(a)
		}
	default:
		w.write()
		w.ship()
		for _, a := range w.agents {
			a.told = a.volume
		}
	}
}

// tempting: who was demoted could be the owner again, and the store does not know yet that it was.
func (w *world) tempting() bool {
	return slices.ContainsFunc(w.store.state.Left, func(l failover.Leftover) bool {
		a := w.agent(l.Agent)
		return l.What == failover.Demote && a.session != nil && a.told.role == standby && a.told.complete
	})
}

// fault strikes once.
func (w *world) fault() {
	switch w.rng.IntN(10) {
	case 0, 1, 8, 9:
		w.elect(w.ctls[w.rng.IntN(2)])
	case 2:
		// It leads no more and does not know that yet: what it does goes on for a while.
		if next := w.ctls[1-w.store.leader]; w.rng.IntN(2) == 0 {
			w.count.deposed++
			w.elect(next)
		}
	case 3, 4, 5:
		a := w.agents[[]int{0, 0, 1, 1, 2, 3}[w.rng.IntN(6)]]
		w.note("%s is cut off", a.name)
		a.session = nil
	case 6:
		w.goDown(w.agents[w.rng.IntN(2)])
	case 7:
		if c := w.ctls[1-w.store.leader]; len(c.jobs) > 0 {
			c.die()
		}
	}
}

// goDown ends what runs on a host; its volumes and its book are there when it is back.
func (w *world) goDown(a *agent) {
	if a.runs {
		w.count.dead++
		w.note("%s goes down", a.name)
		a.session, a.runs = nil, false
	}
}

// elect makes a controller lead, in a new life. The sessions of the one before are over.
func (w *world) elect(c *controller) {
	w.count.crashes++
	c.die()
	w.lives++
	c.life, w.store.leader, w.store.leaderLife = w.lives, c.id, w.lives
	w.note("controller %d leads, life %d", c.id, c.life)
	for _, a := range w.agents {
		a.session = nil
	}
	for i := range w.operators {
		w.operators[i].job = nil // asked again: the connection broke
	}
	c.reconcile(w)
	for _, i := range w.rng.Perm(len(w.agents)) {
		if w.lives > 1 && (w.sharp || w.rng.IntN(2) == 0) {
			w.connect(w.agents[i])
		}
	}
}

func (w *world) connect(a *agent) {
	c := w.ctls[w.store.leader]
	a.session, a.told = &session{life: c.life}, a.volume
	w.note("%s is connected", a.name)
	c.lookAt(w, a)
}

// operate has an operator ask for something, or ask again.
func (w *world) operate() {
	n := w.rng.IntN(2)
	o := &w.operators[n]
	if !o.asking {
		if w.calm || !w.sharp && w.rng.IntN(3) > 0 {
			return
		}
		o.number++
		to := []string{siteA, siteB, "", "", "", ""}[w.rng.IntN(6)]
		o.wish = failover.Wish{Request: fmt.Sprintf("wish-%d-%d", n, o.number), To: to, Force: w.rng.IntN(4) > 0}
		if w.rng.IntN(8) == 0 {
			o.wish.Snapshot = "before"
		}
		if w.sharp && !w.external {
			o.wish.To, o.wish.Force = "", true
		}
		o.asking = true
	}
	if o.job == nil && (w.calm || w.rng.IntN(4) == 0) {
		o.job = w.ctls[w.store.leader].failover(w, o)
	}
}

// settle lets everything run fairly and without faults until nothing moves, and looks at what has become of it.
func (w *world) settle() {
	w.calm = true
	for round := range 400 {
		for _, a := range w.agents {
			if a.session == nil {
				w.connect(a)
			}
			a.told = a.volume
		}
		w.ctls[1-w.store.leader].die()
		for i := range w.operators {
			if o := &w.operators[i]; o.asking && o.job == nil {
				o.job = w.ctls[w.store.leader].failover(w, o)
			}
		}
		for range 40 {
			w.ctls[w.store.leader].work(w)
			w.deliver()
			if w.look() != nil {
				return
			}
		}
		w.ship()
		if round > 3 && len(w.ctls[w.store.leader].jobs) == 0 && len(w.bag) == 0 {
			w.atRest()
			return
		}
	}
	_ = w.violate("it does not end: %+v", w.store.state)
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
