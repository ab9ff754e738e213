package migration_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/godwit-project/godwit/migration"
)

type copyState string

const (
	absent  copyState = ""
	owning  copyState = "owning"
	holding copyState = "holding"
)

// processNode is a node: its disk, and what dies with it.
type processNode struct {
	id   int
	kept bool // the disk is one; else it is memory
	up   bool
	disk processDisk

	copy struct {
		state   copyState
		content int
		epoch   uint64 // under which it owns
	}
	standby struct {
		epoch   uint64
		from    int
		staged  bool
		content int
	}
	fence   migration.Journal // of the steps of the source: it dies with the process
	ops     []*processOp
	runners map[uint64]*processRunner
	again   bool // the process is held though its attempt is over: another has to begin
}

// processDisk is the book.
type processDisk struct {
	id      int // of this book
	counter uint64
	journal migration.Journal
	moves   map[uint64]processMove
}

type processMove struct {
	state  migration.State
	memory int // the id of the destination's book
}

// processRunner is what runs one attempt.
type processRunner struct {
	processMove
	inbox  []migration.Event
	outbox []migration.Action
}

// processOp is a step at work at an agent.
type processOp struct {
	processCall
	pc int
}

// processCall is what links carry: a step that is asked for, a state, or an answer.
type processCall struct {
	from, to int
	epoch    uint64
	step     migration.StepID // of a request and its answer
	answer   bool
	memory   int // of a request to a destination: the book that it is meant for
	failed   string
	fate     migration.Fate
	by       uint64
	state    bool // a state, or that it was restored
	content  int
}

type processWorld struct {
	rng    *rand.Rand
	now    time.Time
	broken processBreakage
	nodes  [3]*processNode
	bag    []processCall
	slow   []processCall

	acked     int
	died      bool // the only copy was on a node that died
	wanted    int
	trouble   int
	books     int
	decisions map[string]string

	count   processCounters
	tracing bool
	trace   []string
	broke   error
}

func newProcessWorld(seed, schedule uint64, broken processBreakage) *processWorld {
	w := &processWorld{
		rng: rand.New(rand.NewPCG(seed, schedule+1<<32)), broken: broken, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		decisions: map[string]string{},
	}
	w.wanted = 1 + w.rng.IntN(4)
	w.trouble = []int{0, 2, 8, 25}[w.rng.IntN(4)]
	for i := range w.nodes {
		n := &processNode{id: i, kept: w.rng.IntN(3) > 0, up: true, runners: map[uint64]*processRunner{}}
		w.newBook(n)
		w.nodes[i] = n
	}
	w.nodes[0].copy.state, w.nodes[0].copy.epoch = owning, 1
	return w
}

func (w *processWorld) newBook(n *processNode) {
	w.books++
	n.disk = processDisk{id: w.books, moves: map[uint64]processMove{}}
}

func (w *processWorld) live() error {
	for range 100 + w.rng.IntN(1200) {
		w.chaos()
		if w.look() != nil {
			return w.broke
		}
	}
	w.wanted = 0
	for round := range 2000 {
		w.bag, w.slow = append(w.bag, w.slow...), nil
		for n := len(w.bag); n > 0; n-- {
			w.deliver(false)
		}
		for _, n := range w.nodes {
			if !n.up {
				w.begin(n)
			}
			w.work(n)
			w.work(n)
			for range 6 {
				w.run(n)
				if w.look() != nil {
					return w.broke
				}
			}
			if round%5 == 0 {
				w.adopt(n)
				w.timeOut(n, 1)
			}
		}
		w.pass(300 * time.Millisecond)
		if w.look() != nil {
			return w.broke
		}
		if w.idle() {
			w.atRest()
			return w.broke
		}
	}
	return w.violate("liveness: not at rest long after the faults stopped")
}

func (w *processWorld) idle() bool {
	if len(w.bag) > 0 {
		return false
	}
	for _, n := range w.nodes {
		if !n.up || n.again || len(n.ops) > 0 || len(n.runners) > 0 || !w.broken.noAdoption && n.standby.epoch != 0 {
			return false
		}
	}
	return true
}

func (w *processWorld) chaos() {
	w.count.substeps++
	n := w.nodes[w.rng.IntN(3)]
	if w.rng.IntN(1000) < w.trouble {
		w.crash(n)
		return
	}
	if (n.standby.staged || n.copy.state == owning && n.copy.epoch > 1) && w.trouble > 0 && w.rng.IntN(60) == 0 {
		w.crash(n) // look for trouble where there is little time for it
		return
	}
	switch k := w.rng.IntN(100); {
	case k < 30:
		w.deliver(true)
	case k < 55:
		w.work(n)
	case k < 90:
		w.run(n)
	case k < 94:
		for _, n := range w.nodes {
			if n.copy.state == owning {
				w.acked++
				n.copy.content = w.acked
			}
		}
	case k < 96:
		w.adopt(n)
	case k < 97:
		w.timeOut(n, 3)
	default:
		w.pass(time.Duration(w.rng.IntN(2000)) * time.Millisecond)
	}
}

// crash ends a node with all that is in its memory.
func (w *processWorld) crash(n *processNode) {
	if !n.up {
		return
	}
	w.count.crashes++
	lost := n.copy.state == owning
	if n.copy.state == holding { // another may have it
		committed := false
		for _, m := range n.disk.moves {
			committed = committed || m.state.Decision == migration.DecisionCommit
		}
		lost = !committed || !n.kept || !w.stagedSomewhere()
	}
	j := n.disk.journal
	if n.standby.staged && (j.Decision == migration.DecisionCommit || !n.kept || !w.heldSomewhere()) {
		lost = true
	}
	if lost && !w.died {
		w.died = true
		w.count.deaths++
	}
	if n.copy.state == holding && !lost {
		w.count.saved++
	}
	w.note("node %d crashes, the process died %v", n.id, w.died)
	kept, disk := n.kept, n.disk
	*n = processNode{id: n.id, kept: kept, disk: disk, runners: map[uint64]*processRunner{}}
	if !kept {
		w.newBook(n)
	}
}

func (w *processWorld) stagedSomewhere() bool {
	return slices.ContainsFunc(w.nodes[:], func(n *processNode) bool {
		return n.standby.staged && n.standby.content == w.acked || n.copy.state == owning
	})
}

func (w *processWorld) heldSomewhere() bool {
	return slices.ContainsFunc(w.nodes[:], func(n *processNode) bool { return n.copy.state != absent })
}

// begin is a node's start: it goes on with what its disk says.
func (w *processWorld) begin(n *processNode) {
	n.up = true
	w.note("node %d begins again", n.id)
	for epoch, m := range n.disk.moves {
		after, actions, err := migration.Step(m.state, migration.Recovered{At: w.now})
		if err != nil {
			_ = w.violate("recover: %v", err)
			return
		}
		m.state = after
		n.runners[epoch] = &processRunner{processMove: m, outbox: actions}
	}
}

// pass lets time pass.
func (w *processWorld) pass(d time.Duration) {
	w.now = w.now.Add(d)
	for _, n := range w.nodes {
		for _, epoch := range slices.Sorted(maps.Keys(n.runners)) {
			r := n.runners[epoch]
			r.inbox = append(r.inbox, migration.Tick{At: w.now})
		}
	}
}

// timeOut has runners give up waiting for some answers: what was asked may be done all the same.
func (w *processWorld) timeOut(n *processNode, oneIn int) {
	for _, epoch := range slices.Sorted(maps.Keys(n.runners)) {
		r := n.runners[epoch]
		for _, a := range r.state.Outstanding() {
			if a.Role == migration.Destination && w.rng.IntN(oneIn) == 0 {
				r.inbox = append(r.inbox, migration.Failed{At: w.now, Epoch: a.Epoch, Step: a.Step, Reason: "no answer"})
			}
		}
	}
}

// deliver takes a message from the links; with faults it may be lost, doubled, or come much later.
func (w *processWorld) deliver(faults bool) {
	if len(w.slow) > 0 && w.rng.IntN(12) == 0 {
		i := w.rng.IntN(len(w.slow))
		w.bag, w.slow = append(w.bag, w.slow[i]), slices.Delete(w.slow, i, i+1)
	}
	if len(w.bag) == 0 {
		return
	}
	i := w.rng.IntN(len(w.bag))
	c := w.bag[i]
	w.bag = slices.Delete(w.bag, i, i+1)
	if faults && w.trouble > 0 {
		switch w.rng.IntN(40) {
		case 0:
			return
		case 1:
			w.bag = append(w.bag, c)
		case 2, 3, 4, 5:
			w.slow = append(w.slow, c)
		}
	}
	n := w.nodes[c.to]
	switch {
	case !n.up:
	case c.state:
		w.takeState(n, c)
	case c.answer:
		w.takeAnswer(n, c)
	default:
		w.take(n, c)
	}
}

func (w *processWorld) reply(c processCall, failed string, fate migration.Fate, by uint64) {
	c.from, c.to, c.answer, c.failed, c.fate, c.by = c.to, c.from, true, failed, fate, by
	if c.from == c.to {
		w.takeAnswer(w.nodes[c.to], c)
		return
	}
	w.bag = append(w.bag, c)
}

// String is for traces.
func (c processCall) String() string {
	what := fmt.Sprintf("%s@%d", c.step, c.epoch)
	if c.state {
		what = fmt.Sprintf("state@%d", c.epoch)
	}
	return fmt.Sprintf("%d->%d %s answer %v %s %s", c.from, c.to, what, c.answer, c.failed, c.fate)
}
