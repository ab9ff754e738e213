package endpoint_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/godwit-project/godwit/dvs/endpoint"
)

// The simulation puts the real mailboxes, callers, routes and fences into a world in which messages overtake each other and come twice, nodes
// cannot reach each other for a while, processes and the coordinator die, and commands come late. One seed is one
// schedule.
//
// What is modelled beside them: the store (one compare-and-swap decides an epoch, and gives a dead endpoint to a new
// process), the coordinator (asks for the steps in any order that the engine could), nodes (a route, a fence, a process).

const (
	simNodes   = 3
	simCallers = 4
	simSteps   = 250
)

var simID = endpoint.Resolve("c", "s")

// process is a program that is the owner, was it, or waits to be.
type process struct {
	box    *endpoint.Mailbox
	app    map[uint64]uint64 // by caller: the last sequence executed; the program's state
	count  int               // executions in this state
	work   *endpoint.Request
	staged uint64
	hold   uint64 // the epoch that wants its state
	peer   int
}

type simNode struct {
	route endpoint.Route
	at    int // where the route leads
	fence endpoint.Fence
	proc  *process
}

type simCaller struct {
	*endpoint.Caller
	home  int
	asked bool
	at    endpoint.Version
	line  uint64
}

// message is on its way between two nodes; coordinator messages come from node -1.
type message struct {
	from, to int
	req      *endpoint.Request
	rep      *endpoint.Reply
	route    *endpoint.Route
	at       int
	state    []byte
	epoch    uint64
	cmd      string // "role/verb"
	peer     int
	ack      bool
	ok       bool
}

type attempt struct {
	epoch    uint64
	from, to int
	acks     map[string]bool
	gaveUp   bool
}

type world struct {
	rng   *rand.Rand
	nodes [simNodes]*simNode
	calls []*simCaller
	bag   []message
	cut   [simNodes][simNodes]bool

	epoch    uint64
	decision map[uint64]string // the store
	owner    int               // by the store
	now      *attempt

	executed map[[2]uint64]int
	lines    map[[2]uint64]uint64 // which line executed it
	answered int
	unknown  int
	moves    int
	aborts   int
	calm     bool // nothing bad happens any more
	fault    string
}

func newWorld(seed uint64) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 1)), decision: map[uint64]string{}, executed: map[[2]uint64]int{}, lines: map[[2]uint64]uint64{},
	}
	for i := range w.nodes {
		w.nodes[i] = &simNode{at: -1}
	}
	for i := range simCallers {
		w.calls = append(w.calls, &simCaller{Caller: endpoint.NewCaller(uint64(i + 1)), home: i % simNodes})
	}
	w.bind(0)
	return w
}

func (w *world) failf(format string, a ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, a...)
	}
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) send(m message) {
	w.bag = append(w.bag, m)
	if !w.calm && m.state == nil && w.chance(8) {
		w.bag = append(w.bag, m)
	}
}

// bind starts a fresh owner, whose epoch the store gives out.
func (w *world) bind(at int) {
	w.epoch++
	if w.now != nil {
		w.decision[w.now.epoch] = "abort"
	}
	w.owner = at
	n := w.nodes[at]
	n.proc = &process{box: endpoint.NewMailbox(simID, endpoint.Version{Epoch: w.epoch}, endpoint.Active), app: map[uint64]uint64{}}
	n.learn(w, endpoint.Route{Version: n.proc.box.Version(), Line: w.epoch, State: endpoint.Open}, at)
	w.publish(at)
}

// publish tells all nodes the route of a node.
func (w *world) publish(at int) {
	for i := range w.nodes {
		if i != at {
			r := w.nodes[at].route
			w.send(message{from: at, to: i, route: &r, at: w.nodes[at].at})
		}
	}
}

// learn takes over a newer route, and lets the callers of the node go on.
func (n *simNode) learn(w *world, r endpoint.Route, at int) {
	if !n.route.Learn(r) {
		return
	}
	n.at = at
	n.fence.Raise(r.Version.Epoch)
	for _, c := range w.calls {
		if w.nodes[c.home] == n {
			w.evaluate(c)
		}
	}
}

// evaluate is what the library does when a route changes or a call begins.
func (w *world) evaluate(c *simCaller) {
	out, ok := c.Outstanding()
	n := w.nodes[c.home]
	switch {
	case !ok:
	case c.asked && n.route.Line != c.line:
		c.Abandon()
		w.unknown++
	case n.route.State == endpoint.Open && (!c.asked || c.at.Compare(n.route.Version) < 0):
		c.asked, c.at, c.line = true, n.route.Version, n.route.Line
		out.Line = c.line
		w.send(message{from: c.home, to: n.at, req: &out})
	case n.route.State == endpoint.Dead && c.asked:
		c.Abandon()
		w.unknown++
	}
}

func (w *world) step() {
	switch k := w.rng.IntN(100); {
	case k < 55:
		w.deliver()
	case k < 65:
		c := w.calls[w.rng.IntN(len(w.calls))]
		if _, busy := c.Outstanding(); !busy {
			c.Begin(endpoint.Request{Kind: endpoint.SendRec, To: simID})
			c.asked = false
			w.evaluate(c)
		} else if w.chance(5) {
			c.Abandon() // its deadline
		} else if w.chance(20) {
			w.probe(c)
		}
	case k < 80:
		w.run(w.nodes[w.rng.IntN(simNodes)])
	case k < 92:
		w.coordinate()
	case k < 94:
		w.publish(w.rng.IntN(simNodes))
	case k < 96:
		a, b := w.rng.IntN(simNodes), w.rng.IntN(simNodes)
		cut := w.chance(50) && a != b
		w.cut[a][b], w.cut[b][a] = cut, cut
	case k < 97:
		w.crash(w.rng.IntN(simNodes))
	case k < 98 && w.now != nil:
		w.now.acks = map[string]bool{} // the coordinator died, and knows only what the store says
	default:
		w.standby(w.rng.IntN(simNodes))
	}
	w.check()
}

// probe asks what has become of a request.
func (w *world) probe(c *simCaller) {
	out, ok := c.Outstanding()
	n := w.nodes[c.home]
	if ok && c.asked && n.route.State == endpoint.Open {
		probe := out
		probe.Kind = 0
		w.send(message{from: c.home, to: n.at, req: &probe})
	}
}

func (w *world) crash(at int) {
	n := w.nodes[at]
	if n.proc == nil || !w.chance(30) {
		return
	}
	st := n.proc.box.Status()
	n.proc = nil
	if n.at == at && (st == endpoint.Active || st == endpoint.Holding) {
		v := n.route.Version
		v.Serial++
		n.learn(w, endpoint.Route{Version: v, Line: n.route.Line, State: endpoint.Dead}, at)
		w.publish(at)
	}
}

func (w *world) standby(at int) {
	n := w.nodes[at]
	if n.proc == nil || n.proc.box.Status() == endpoint.Left {
		n.proc = &process{box: endpoint.NewMailbox(simID, endpoint.Version{}, endpoint.Standby), app: map[uint64]uint64{}}
	}
	// The store gives a dead endpoint to a new process.
	if w.lost() && w.chance(30) {
		w.bind(at)
		w.now = nil
	}
}

// lost tells whether the process that owns the endpoint by the store is dead.
func (w *world) lost() bool {
	p := w.nodes[w.owner].proc
	if p == nil || p.box.Status() == endpoint.Left {
		return true
	}
	decided := w.now != nil && w.decision[w.now.epoch] == "commit" && w.now.to == w.owner
	return p.box.Status() == endpoint.Standby && !(decided && p.staged == w.now.epoch)
}

// check holds after every step: never two active owners.
func (w *world) check() {
	active := 0
	for _, n := range w.nodes {
		if n.proc != nil && n.proc.box.Status() == endpoint.Active {
			active++
		}
	}
	if active > 1 {
		w.failf("%d active owners", active)
	}
}

// rest lets everything come to its end: no call may be left.
func (w *world) rest() {
	w.calm = true
	w.cut = [simNodes][simNodes]bool{}
	for range 400 {
		for range 2*len(w.bag) + 5 {
			w.deliver()
		}
		w.coordinate()
		for i, n := range w.nodes {
			w.run(n)
			w.publish(i)
		}
		for _, c := range w.calls {
			w.probe(c)
		}
		if w.lost() {
			if w.now == nil || w.decision[w.now.epoch] != "abort" {
				w.bind(w.rng.IntN(simNodes))
				w.now = nil
			}
		}
		w.check()
		if w.fault != "" || w.now == nil && w.idle() {
			break
		}
	}
	for _, c := range w.calls {
		if out, waits := c.Outstanding(); waits {
			w.failf("caller %d still waits for %d; %s", c.ID(), out.Seq, w)
		}
	}
	w.compare()
}

// String shows the world when something is wrong.
func (w *world) String() string {
	s := fmt.Sprintf("owner %d, attempt %+v, decision %v", w.owner, w.now, w.decision)
	for i, n := range w.nodes {
		s += fmt.Sprintf("\nnode %d: route %+v to %d, fence %+v", i, n.route, n.at, n.fence)
		if n.proc != nil {
			s += fmt.Sprintf(", mailbox %+v status %d staged %d", n.proc.box.Version(), n.proc.box.Status(), n.proc.staged)
		}
	}
	return s
}

func (w *world) idle() bool {
	for _, c := range w.calls {
		if _, waits := c.Outstanding(); waits {
			return false
		}
	}
	return true
}

// compare looks for executions that the surviving state does not know.
func (w *world) compare() {
	p := w.nodes[w.owner].proc
	if p == nil || p.box.Status() != endpoint.Active {
		w.failf("no owner in the end: node %d", w.owner)
		return
	}
	line := w.nodes[w.owner].route.Line
	want := 0
	for _, l := range maps.All(w.lines) {
		if l == line {
			want++
		}
	}
	if p.count != want {
		w.failf("the state has %d executions, %d were made", p.count, want)
	}
}

func TestRandomSchedulesOfMovesCrashesAndPartitions(t *testing.T) {
	schedules := uint64(20000)
	if testing.Short() || raceEnabled {
		schedules = 1000
	}
	var answered, unknown, moves, aborts int
	for seed := range schedules {
		w := newWorld(seed)
		for range simSteps {
			if w.fault == "" {
				w.step()
			}
		}
		if w.fault == "" {
			w.rest()
		}
		if w.fault != "" {
			t.Fatalf("seed %d: %s", seed, w.fault)
		}
		answered, unknown, moves, aborts = answered+w.answered, unknown+w.unknown, moves+w.moves, aborts+w.aborts
	}
	t.Logf("%d schedules: %d answers, %d unknown, %d moves, %d aborts", schedules, answered, unknown, moves, aborts)
	if answered == 0 || moves == 0 || aborts == 0 || unknown == 0 {
		t.Error("the schedules do not show what they should")
	}
}
