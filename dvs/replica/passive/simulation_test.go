package passive_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/godwit-project/godwit/dvs/replica/passive"
	"github.com/godwit-project/godwit/dvs/replica/replicatest"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

// The simulation puts real replicas into a world in which messages overtake each other, come twice or never, replicas cannot reach each other
// or the store for a while, processes die and begin again, the store answers late, and anybody may think at any time that the
// primary is dead. One seed is one schedule.

var (
	schedules = flag.Uint64("schedules", 10000, "how many schedules the simulation runs")
	histories = flag.Uint64("histories", 1000, "how many of them are checked for linearizability")
)

const (
	simReplicas = 3
	simClients  = 3
	simSteps    = 900
)

// fault is a mistake that is planted to see whether the simulation finds it.
type fault int

const (
	none         fault = iota
	earlyReply         // the reply leaves before it is acknowledged
	noTable            // the table of replies stays with the primary
	noEpoch            // backups obey whoever says that it is the primary
	noSwap             // the store takes whatever is written
	earlyJoin          // a joiner is listed, but nobody waits for it
	sameIdentity       // a process that begins again is thought the same
)

type process struct {
	*passive.Replica
	self    state.Member
	machine replicatest.Machine
	jobs    []passive.Action
}

type letter struct {
	from, to int
	m        passive.Message
}

// errand is on its way to the store or back.
type errand struct {
	at       int
	self     state.Member
	swap     *passive.Swap
	answer   *state.Record
	answered bool
}

type client struct {
	id   uint64
	seq  uint64
	busy bool
	q    state.Request
	at   int
}

type world struct {
	rng       *rand.Rand
	fault     fault
	now       int64
	replicas  [simReplicas]*process
	cut       [simReplicas][simReplicas]bool
	offStore  [simReplicas]bool
	bag       []letter
	roads     *replicatest.Roads[passive.Message] // unless nil, letters go there
	errands   []errand
	record    state.Record
	clients   []*client
	history   replicatest.History
	lives     uint64
	broken    string
	calm      bool
	primaries map[uint64]state.Member

	promotions, images, answers, deaths, joins int
}

func name(i int) string { return string(rune('a' + i)) }

func newWorld(seed uint64, f fault, lines bool) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 2)), fault: f, primaries: map[uint64]state.Member{}}
	if lines {
		w.roads = replicatest.NewRoads(simReplicas, func(m passive.Message) bool { return m.Kind == passive.Image })
	}
	for i := range simReplicas {
		w.start(i)
	}
	for i := range simClients {
		w.clients = append(w.clients, &client{id: uint64(i + 1)})
	}
	return w
}

func (w *world) start(i int) {
	w.lives++
	p := &process{machine: replicatest.Machine{}, self: state.Member{Name: name(i), Incarnation: w.lives}}
	if w.fault == sameIdentity {
		p.self.Incarnation = 1
	}
	o := passive.Options{Self: p.self, Every: 5, Patience: 40, ImagePatience: 60, KeepBytes: 600, ShipBytes: 300}
	for j := range simReplicas {
		if j != i {
			o.Peers = append(o.Peers, name(j))
		}
	}
	if w.roads != nil {
		o.ImagePatience = forever
	}
	p.Replica = passive.New(o)
	w.replicas[i] = p
	for j := range simReplicas {
		w.connect(i, j)
		w.connect(j, i)
	}
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) failf(format string, a ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, a...)
	}
}

// event steps a replica and carries out what it wants.
func (w *world) event(i int, e passive.Event) {
	p := w.replicas[i]
	if p == nil {
		return
	}
	if x, ok := e.(passive.Executed); ok && w.fault == earlyReply && p.Role() == passive.Primary {
		w.answered(x.Reply)
	}
	for _, a := range p.Step(e) {
		switch a := a.(type) {
		case passive.Send:
			w.post(letter{i, int(a.To[0] - 'a'), a.Message})
		case passive.Answer:
			w.answered(a.Reply)
		case passive.Refuse:
			for _, c := range w.clients {
				if c.busy && c.id == a.Caller && c.q.Seq == a.Seq && c.at == i {
					c.at = -1
				}
			}
		case passive.Execute, passive.Apply, passive.Snapshot, passive.Restore:
			p.jobs = append(p.jobs, a)
		case passive.Swap:
			w.errands = append(w.errands, errand{at: i, self: p.self, swap: &a})
		case passive.Load:
			w.errands = append(w.errands, errand{at: i, self: p.self})
		case passive.Become:
			if a.Role == passive.Primary {
				if other, ok := w.primaries[a.Record.Epoch]; ok && other != p.self {
					w.failf("epoch %d has two primaries: %v and %v", a.Record.Epoch, other, p.self)
				}
				w.primaries[a.Record.Epoch] = p.self
			}
		}
	}
}

func (w *world) post(l letter) {
	if w.fault == noTable {
		us := slices.Clone(l.m.Updates)
		for i := range us {
			us[i].Replies = nil
		}
		l.m.Updates = us
		l.m.Image.Table = state.Table{}
	}
	l.m.Image.Table = l.m.Image.Table.Clone() // what is sent is encoded: nobody shares it
	if w.fault == earlyJoin && l.m.Kind == passive.Ack {
		l.m.OK, l.m.Last.Seq = true, l.m.Last.Seq+3 // an acknowledgement of what has not come
	}
	if w.roads != nil {
		if !w.cut[l.from][l.to] {
			w.roads.Post(l.from, l.to, l.m)
		}
		return
	}
	if w.cut[l.from][l.to] || !w.calm && w.chance(5) {
		return
	}
	w.bag = append(w.bag, l)
	if !w.calm && w.chance(8) {
		w.bag = append(w.bag, l)
	}
}

func (w *world) answered(r state.Reply) {
	for k, c := range w.clients {
		if c.busy && c.id == r.Caller && c.seq == r.Seq {
			c.busy = false
			w.answers++
			w.history.Answer(k, string(r.Payload), w.now)
		}
	}
}

func (w *world) step() {
	w.now++
	switch k := w.rng.IntN(1000); {
	case k < 450:
		w.deliver()
	case k < 600:
		w.job(w.rng.IntN(simReplicas))
	case k < 700:
		w.event(w.rng.IntN(simReplicas), passive.Tick{Now: w.now})
	case k < 780:
		w.store()
	case k < 930:
		w.client(w.rng.IntN(simClients))
	case k < 950:
		w.event(w.rng.IntN(simReplicas), passive.Found{})
	case k < 965:
		i := w.rng.IntN(simReplicas)
		e := passive.Promote{}
		if w.chance(30) {
			e.Without = []string{name(w.rng.IntN(simReplicas))}
		}
		w.event(i, e)
	case k < 980:
		a, b := w.rng.IntN(simReplicas), w.rng.IntN(simReplicas)
		w.cut[a][b] = w.chance(40) // one direction alone, often
		w.connect(a, b)
		if w.chance(60) {
			w.cut[b][a] = w.cut[a][b]
			w.connect(b, a)
		}
	case k < 985:
		w.offStore[w.rng.IntN(simReplicas)] = w.chance(40)
	case k < 990:
		w.crash(w.rng.IntN(simReplicas))
	case k < 992:
		w.event(w.rng.IntN(simReplicas), passive.Lost{Peer: name(w.rng.IntN(simReplicas))})
	case k < 994:
		w.event(w.rng.IntN(simReplicas), passive.Forget{Caller: 99})
	default:
		if i := w.rng.IntN(simReplicas); w.replicas[i] == nil {
			w.start(i)
		}
	}
}

func (w *world) deliver() {
	if w.roads != nil {
		if to, m, ok := w.roads.Take(w.rng); ok {
			w.event(to, passive.Receive{Message: m})
		}
		return
	}
	if len(w.bag) == 0 {
		return
	}
	i := w.rng.IntN(len(w.bag))
	if w.chance(70) {
		i = 0
	}
	l := w.bag[i]
	w.bag = slices.Delete(w.bag, i, i+1)
	if w.cut[l.from][l.to] {
		return
	}
	if p := w.replicas[l.to]; w.fault == noEpoch && p != nil && l.m.Kind == passive.Ship && p.Role() != passive.Primary {
		l.m.Record = p.Record() // it lets itself be told by anybody
		l.m.From = l.m.Record.Primary
	}
	w.event(l.to, passive.Receive{Message: l.m})
}

// job has a machine do what it was given first.
func (w *world) job(i int) {
	p := w.replicas[i]
	if p == nil || len(p.jobs) == 0 {
		return
	}
	a := p.jobs[0]
	p.jobs = slices.Delete(p.jobs, 0, 1)
	switch a := a.(type) {
	case passive.Execute:
		reply, d := p.machine.Call(a.Request.Payload)
		w.event(i, passive.Executed{Reply: state.Reply{Caller: a.Request.Caller, Seq: a.Request.Seq, Payload: reply}, Delta: d})
	case passive.Apply:
		p.machine.Apply(a.Delta)
	case passive.Snapshot:
		w.images++
		w.event(i, passive.Imaged{Machine: p.machine.Snapshot()})
	case passive.Restore:
		if err := p.machine.Restore(a.Machine); err != nil {
			w.failf("%v", err)
		}
		w.event(i, passive.Restored{})
	}
}

// store moves one errand: to the store, or back from it.
func (w *world) store() {
	if len(w.errands) == 0 {
		return
	}
	i := w.rng.IntN(len(w.errands))
	e := w.errands[i]
	w.errands = slices.Delete(w.errands, i, i+1)
	if w.offStore[e.at] && w.chance(50) {
		return // lost; on its way there, or the answer
	}
	if !e.answered {
		w.carryOut(e.swap)
		e.answer, e.answered = new(w.record), true
		w.errands = append(w.errands, e)
		return
	}
	if p := w.replicas[e.at]; p != nil && p.self == e.self {
		w.event(e.at, passive.Stored{Record: *e.answer})
	}
}

func (w *world) carryOut(s *passive.Swap) {
	if s == nil || s.Old.Epoch != w.record.Epoch && w.fault != noSwap {
		return
	}
	if s.New.Primary != w.record.Primary {
		w.promotions++
	} else if len(s.New.Synced) > len(w.record.Synced) {
		w.joins++
	}
	w.record = s.New
}

// crash kills a process, unless it is the last that has everything.
func (w *world) crash(i int) {
	p := w.replicas[i]
	if p == nil {
		return
	}
	w.errands = slices.DeleteFunc(w.errands, func(e errand) bool { return e.at == i })
	left := 0
	for j, q := range w.replicas {
		if j != i && q != nil && w.record.Has(q.self) {
			left++
		}
	}
	if w.record.Has(p.self) && left == 0 {
		return
	}
	w.deaths++
	w.replicas[i] = nil
}

func (w *world) client(k int) {
	c := w.clients[k]
	switch {
	case c.busy && (c.at < 0 || w.chance(15)):
		c.at = w.rng.IntN(simReplicas)
		w.event(c.at, passive.Ask{Request: c.q})
	case !c.busy && !w.calm:
		c.seq++
		o := replicatest.Operation{Key: byte(w.rng.IntN(2))}
		if w.chance(70) {
			o.Word = fmt.Sprintf("%d.%d ", c.id, c.seq)
		}
		c.busy, c.at = true, w.rng.IntN(simReplicas)
		c.q = state.Request{Caller: c.id, Seq: c.seq, Payload: replicatest.Request(o.Key, o.Word)}
		w.history.Call(k, o, w.now)
		w.event(c.at, passive.Ask{Request: c.q})
	}
}

// rest lets everything come to its end: every client is answered, and all replicas agree.
func (w *world) rest() {
	w.calm = true
	was := w.cut
	w.cut, w.offStore = [simReplicas][simReplicas]bool{}, [simReplicas]bool{}
	for a := range was {
		for b, cut := range was[a] {
			if cut {
				w.connect(a, b)
			}
		}
	}
	for i := range w.replicas {
		if w.replicas[i] == nil {
			w.start(i)
		}
	}
	for round := range 600 {
		w.now += 5
		for range 2*w.under() + 5 {
			w.deliver()
			w.store()
		}
		alive := false
		for i, p := range w.replicas {
			w.event(i, passive.Tick{Now: w.now})
			for len(p.jobs) > 0 {
				w.job(i)
			}
			alive = alive || w.record.Primary == p.self
		}
		for i := range w.replicas {
			switch {
			case w.record.Epoch == 0:
				w.event(i, passive.Found{})
			case !alive && round%20 == 19:
				w.event(i, passive.Promote{})
			}
		}
		for k := range w.clients {
			w.client(k)
		}
		if w.broken != "" || w.settled() {
			break
		}
	}
	if w.broken == "" && !w.settled() {
		w.failf("it does not come to rest: %s", w)
	}
	if w.broken == "" {
		w.compare()
	}
}

func (w *world) settled() bool {
	for _, c := range w.clients {
		if c.busy {
			return false
		}
	}
	var last uint64
	for i, p := range w.replicas {
		if !w.record.Has(p.self) || !p.Record().Equal(w.record) {
			return false
		}
		c, l := p.Committed()
		if c != l || i > 0 && l != last || len(p.jobs) > 0 {
			return false
		}
		last = l
	}
	return true
}

func (w *world) compare() {
	first := string(w.replicas[0].machine.Snapshot())
	for i, p := range w.replicas {
		if got := string(p.machine.Snapshot()); got != first {
			w.failf("replica %s has %q, a has %q", name(i), got, first)
		}
	}
}

// String shows the world when something is wrong.
func (w *world) String() string {
	s := fmt.Sprintf("record %+v", w.record)
	for i, p := range w.replicas {
		if p != nil {
			c, l := p.Committed()
			s += fmt.Sprintf("\n%s %v: %s, epoch %d, committed %d of %d, %d jobs", name(i), p.self, p.Role(), p.Record().Epoch, c, l, len(p.jobs))
		}
	}
	for _, c := range w.clients {
		if c.busy {
			s += fmt.Sprintf("\nclient %d waits for %d", c.id, c.seq)
		}
	}
	return s
}

// schedule runs one seed and says what is wrong.
func schedule(seed uint64, f fault, lines, check bool) (*world, string) {
	w := newWorld(seed, f, lines)
	for range simSteps {
		if w.broken == "" {
			w.step()
		}
	}
	if w.broken == "" {
		w.rest()
	}
	if w.broken == "" && check && !w.history.Linearizable() {
		w.failf("not linearizable:\n%s", w.history.String())
	}
	return w, w.broken
}

func TestRandomSchedulesLoseAndDoubleNothing(t *testing.T) { runSchedules(t, false) }

func runSchedules(t *testing.T, lines bool) {
	n := *schedules
	if testing.Short() || raceEnabled {
		n = 500
	}
	var answers, promotions, images, deaths, joins int
	for seed := range n {
		w, broken := schedule(seed, none, lines, seed < *histories)
		if broken != "" {
			t.Fatalf("seed %d: %s", seed, broken)
		}
		answers, promotions, images = answers+w.answers, promotions+w.promotions, images+w.images
		deaths, joins = deaths+w.deaths, joins+w.joins
	}
	t.Logf("%d schedules: %d answers, %d promotions, %d images, %d deaths, %d joins", n, answers, promotions, images, deaths, joins)
	if answers == 0 || promotions == 0 || images == 0 || deaths == 0 || joins == 0 {
		t.Error("the schedules do not show what they should")
	}
}

func TestPlantedFaultsAreFound(t *testing.T) {
	for f, what := range map[fault]string{
		earlyReply: "a reply before the acknowledgement", noTable: "a table that is not replicated", noEpoch: "an epoch that is not checked",
		noSwap: "a store that does not compare", earlyJoin: "acknowledgements of what has not come", sameIdentity: "a process that lost its state and keeps its identity",
	} {
		t.Run(what, func(t *testing.T) {
			for seed := range uint64(3000) {
				if found(seed, f) {
					t.Logf("found at seed %d", seed)
					return
				}
			}
			t.Error("not found")
		})
	}
}

// found tells whether a schedule fails; a replica that panics on nonsense has noticed it too.
func found(seed uint64, f fault) (yes bool) {
	defer func() { yes = yes || recover() != nil }()
	_, broken := schedule(seed, f, false, true)
	return broken != ""
}
