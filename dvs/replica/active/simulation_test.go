package active_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/cryptotest"

	"github.com/zeebo/xxh3"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/godwit-project/godwit/dvs/replica/active"
	"github.com/godwit-project/godwit/dvs/replica/replicatest"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

// The simulation puts real replicas into a world in which messages overtake each other, come twice or never, replicas cannot reach each other
// or the store for a while, processes die and begin again, the store answers late, and now and then a bit flips in a machine. One seed is
// one schedule: raft's own random numbers are set as well.

var (
	schedules = flag.Uint64("schedules", 3000, "how many schedules the simulation runs")
	histories = flag.Uint64("histories", 300, "how many of them are checked for linearizability")
)

const (
	simReplicas = 3
	simClients  = 3
	simSteps    = 900
	flipped     = 200 // the key that a fault changes, and no client uses
	taste       = 100 // the key that depends on clock and random bits
)

// fault is a mistake that is planted to see whether the simulation finds it.
type fault int

const (
	none         fault = iota
	earlyReply         // a reply from the machine of whoever is asked, before the log has it
	noTable            // images come without the table of replies
	noSum              // hashes are not exchanged: divergence goes unnoticed
	ownClock           // each replica executes by its own clock
	brokenLine         // no mistake: the line of each first image breaks, and nobody waits for it in vain
	sameIdentity       // a process that begins again is thought the same
)

type process struct {
	*active.Replica
	self    state.Member
	machine replicatest.Machine
	jobs    []active.Action
}

type letter struct {
	from, to int
	m        active.Message
}

// errand is on its way to the store or back.
type errand struct {
	at       int
	self     state.Member
	swap     *active.Swap
	answer   *state.Record
	answered bool
}

type client struct {
	id, seq uint64
	busy    bool
	q       state.Request
	at      int
}

type world struct {
	rng      *rand.Rand
	fault    fault
	now      int64
	replicas [simReplicas]*process
	cut      [simReplicas][simReplicas]bool
	bag      []letter
	roads    *replicatest.Roads[active.Message] // unless nil, letters go there
	errands  []errand
	record   state.Record
	clients  []*client
	history  replicatest.History
	lives    uint64
	broken   string
	calm     bool
	leaders  map[uint64]state.Member

	lost map[[2]int]bool // lines that have broken, and whether their senders have been told

	answers, deaths, flips, odd, images int
}

func name(i int) string { return string(rune('a' + i)) }

func newWorld(t *testing.T, seed uint64, f fault, lines bool) *world {
	cryptotest.SetGlobalRandom(t, seed)
	w := &world{rng: rand.New(rand.NewPCG(seed, 3)), fault: f, leaders: map[uint64]state.Member{}, lost: map[[2]int]bool{}}
	if lines {
		w.roads = replicatest.NewRoads(simReplicas, func(m active.Message) bool {
			return m.Kind == active.Image || m.Raft.GetType() == raftpb.MsgSnap
		})
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
		p.self.Incarnation = uint64(i + 1)
	}
	o := active.Options{Self: p.self, Election: 6, Retry: 3, ImagePatience: 10, CheckEvery: 8, Keep: 12}
	if w.fault == brokenLine || w.roads != nil {
		o.ImagePatience = 1 << 30
	}
	for j := range simReplicas {
		if j != i {
			o.Peers = append(o.Peers, name(j))
		}
	}
	p.Replica = active.New(o)
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
func (w *world) event(i int, e active.Event) {
	p := w.replicas[i]
	if p == nil {
		return
	}
	if q, ok := e.(active.Ask); ok && w.fault == earlyReply && p.Role() != active.Joining {
		copied := replicatest.Machine{}
		_ = copied.Restore(p.machine.Snapshot())
		reply, _ := copied.Call(q.Request.Payload)
		w.answered(state.Reply{Caller: q.Request.Caller, Seq: q.Request.Seq, Payload: reply})
	}
	for _, a := range p.Step(e) {
		switch a := a.(type) {
		case active.Send:
			w.post(letter{i, int(a.To[0] - 'a'), a.Message})
		case active.Answer:
			w.answered(a.Reply)
		case active.Refuse:
			for _, c := range w.clients {
				if c.busy && c.id == a.Caller && c.q.Seq == a.Seq && c.at == i {
					c.at = -1
				}
			}
		case active.Execute, active.Hash, active.Snapshot, active.Restore:
			p.jobs = append(p.jobs, a)
		case active.Swap:
			w.errands = append(w.errands, errand{at: i, self: p.self, swap: &a})
		case active.Load:
			w.errands = append(w.errands, errand{at: i, self: p.self})
		case active.Become:
			if a.Role == active.Leader {
				if other, ok := w.leaders[a.Record.Epoch]; ok && other != p.self {
					w.failf("epoch %d has two leaders: %v and %v", a.Record.Epoch, other, p.self)
				}
				w.leaders[a.Record.Epoch] = p.self
			}
		case active.Differ:
			if w.odd++; !a.Odd {
				w.failf("no majority agrees at %d", a.Index)
			}
		}
	}
}

func (w *world) post(l letter) {
	if w.fault == noSum && l.m.Kind == active.Sum || w.cut[l.from][l.to] || w.roads == nil && !w.calm && w.chance(4) {
		return
	}
	if _, broke := w.lost[[2]int{l.from, l.to}]; w.fault == brokenLine && l.m.Raft.GetType() == raftpb.MsgSnap && !broke {
		w.lost[[2]int{l.from, l.to}] = false
		return
	}
	if w.fault == noTable && l.m.Raft.GetType() == raftpb.MsgSnap {
		l.m.Raft = proto.Clone(l.m.Raft).(*raftpb.Message)
		l.m.Raft.Snapshot.Data = active.WithoutTable(l.m.Raft.Snapshot.Data)
	}
	if w.roads != nil {
		w.roads.Post(l.from, l.to, l.m)
		return
	}
	w.bag = append(w.bag, l)
	if !w.calm && w.chance(6) {
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
	case k < 520:
		w.deliver()
	case k < 640:
		w.job(w.rng.IntN(simReplicas))
	case k < 740:
		w.event(w.rng.IntN(simReplicas), active.Tick{})
	case k < 790:
		w.store()
	case k < 930:
		w.client(w.rng.IntN(simClients))
	case k < 950:
		w.event(w.rng.IntN(simReplicas), active.Found{})
	case k < 962:
		a, b := w.rng.IntN(simReplicas), w.rng.IntN(simReplicas)
		w.cut[a][b] = w.chance(30)
		w.connect(a, b)
		if w.chance(60) {
			w.cut[b][a] = w.cut[a][b]
			w.connect(b, a)
		}
		if w.roads == nil {
			w.event(a, active.Lost{Peer: name(b)})
		}
	case k < 968:
		w.crash(w.rng.IntN(simReplicas))
	case k < 985:
		w.flip(w.rng.IntN(simReplicas))
	case k < 988:
		w.event(w.rng.IntN(simReplicas), active.Forget{Caller: 99})
	default:
		if i := w.rng.IntN(simReplicas); w.replicas[i] == nil {
			w.start(i)
		}
	}
}

func (w *world) deliver() {
	if w.roads != nil {
		if to, m, ok := w.roads.Take(w.rng); ok {
			w.receive(to, m)
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
	w.receive(l.to, l.m)
}

// receive has a message arrive; raft keeps what it is given, and the message may come again.
func (w *world) receive(to int, m active.Message) {
	if m.Raft != nil {
		m.Raft = proto.Clone(m.Raft).(*raftpb.Message)
	}
	w.event(to, active.Receive{Message: m})
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
	case active.Execute:
		reply, _ := p.machine.Call(a.Request.Payload)
		clock := a.Clock
		if w.fault == ownClock {
			clock = uint64(w.now)
		}
		p.machine[taste] = fmt.Sprint(clock, a.Random)
		w.event(i, active.Executed{Reply: state.Reply{Caller: a.Request.Caller, Seq: a.Request.Seq, Payload: reply}})
	case active.Hash:
		w.event(i, active.Hashed{Sum: xxh3.Hash(p.machine.Snapshot())})
	case active.Snapshot:
		w.images++
		w.event(i, active.Imaged{Machine: p.machine.Snapshot()})
	case active.Restore:
		if err := p.machine.Restore(a.Machine); err != nil {
			w.failf("%v", err)
		}
		w.event(i, active.Restored{})
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
	if !w.calm && w.chance(10) {
		return // lost; on its way there, or the answer
	}
	if !e.answered {
		if e.swap != nil && e.swap.Old.Epoch == w.record.Epoch {
			w.record = e.swap.New
		}
		e.answer, e.answered = new(w.record), true
		w.errands = append(w.errands, e)
		return
	}
	if p := w.replicas[e.at]; p != nil && p.self == e.self {
		w.event(e.at, active.Stored{Record: *e.answer})
	}
}

// canSpare tells whether a replica may fail: it has no part yet, or all others are well. One at a time is what three replicas promise.
func (w *world) canSpare(i int) bool {
	part, well := w.replicas[i].Configured(), true
	for j, p := range w.replicas {
		if p != nil && p.Voting(w.replicas[i].self) {
			part = true
		}
		if j != i && (p == nil || p.Role() == active.Joining || !p.Voting(p.self) || p.Changing() || p.machine[flipped] != "") {
			well = false
		}
	}
	return well || !part && w.record.Primary != w.replicas[i].self
}

// crash kills a process, if it can be spared.
func (w *world) crash(i int) {
	p := w.replicas[i]
	if p == nil || w.record.Epoch == 0 || !w.canSpare(i) || w.sick() {
		return
	}
	w.errands = slices.DeleteFunc(w.errands, func(e errand) bool { return e.at == i })
	w.deaths++
	w.replicas[i] = nil
}

func (w *world) sick() bool {
	return slices.ContainsFunc(w.replicas[:], func(p *process) bool { return p != nil && p.machine[flipped] != "" })
}

// flip changes a machine behind its replica's back, where a majority of others is well.
func (w *world) flip(i int) {
	p := w.replicas[i]
	if p == nil || w.sick() || !w.canSpare(i) || len(p.Voters()) < 3 || slices.Contains(w.replicas[:], nil) {
		return
	}
	p.machine[flipped] = "x"
	w.flips++
}

func (w *world) client(k int) {
	c := w.clients[k]
	switch {
	case c.busy && (c.at < 0 || w.chance(15)):
		c.at = w.rng.IntN(simReplicas)
		w.event(c.at, active.Ask{Request: c.q, Clock: uint64(w.now), Random: w.rng.Uint64()})
	case !c.busy && !w.calm:
		c.seq++
		o := replicatest.Operation{Key: byte(w.rng.IntN(2))}
		if w.chance(70) {
			o.Word = fmt.Sprintf("%d.%d ", c.id, c.seq)
		}
		c.busy, c.at = true, w.rng.IntN(simReplicas)
		c.q = state.Request{Caller: c.id, Seq: c.seq, Payload: replicatest.Request(o.Key, o.Word)}
		w.history.Call(k, o, w.now)
		w.event(c.at, active.Ask{Request: c.q, Clock: uint64(w.now), Random: w.rng.Uint64()})
	}
}

// rest lets everything come to its end: every client is answered, and all replicas agree.
func (w *world) rest() {
	w.calm = true
	was := w.cut
	w.cut = [simReplicas][simReplicas]bool{}
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
	for range 1500 {
		w.now++
		for range w.under() + 5 {
			w.deliver()
			w.store()
		}
		for i, p := range w.replicas {
			w.event(i, active.Tick{})
			for len(p.jobs) > 0 {
				w.job(i)
			}
			if w.record.Epoch == 0 {
				w.event(i, active.Found{})
			}
		}
		for line, told := range w.lost {
			if w.lost[line] = true; !told {
				w.event(line[0], active.Lost{Peer: name(line[1])})
			}
		}
		for k := range w.clients {
			w.client(k)
		}
		if w.sick() && w.chance(10) { // something has to be executed for the next comparison
			w.event(w.rng.IntN(simReplicas), active.Forget{Caller: 99})
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
	var last uint64
	for i, p := range w.replicas {
		applied, committed := p.Applied()
		if p.Role() == active.Joining || len(p.Voters()) != simReplicas || applied != committed || i > 0 && applied != last || len(p.jobs) > 0 {
			return false
		}
		last = applied
	}
	for _, c := range w.clients {
		if c.busy {
			return false
		}
	}
	return !w.sick()
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
	s := fmt.Sprintf("record %+v, %d flips", w.record, w.flips)
	for i, p := range w.replicas {
		if p != nil {
			a, c := p.Applied()
			s += fmt.Sprintf("\n%s %v: %s, applied %d of %d, voters %v, flipped %q, %d jobs", name(i), p.self, p.Role(), a, c, p.Voters(), p.machine[flipped], len(p.jobs))
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
func schedule(t *testing.T, seed uint64, f fault, lines, check bool) (*world, string) {
	w := newWorld(t, seed, f, lines)
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
	var answers, deaths, flips, odd, images int
	for seed := range n {
		w, broken := schedule(t, seed, none, lines, seed < *histories)
		if broken != "" {
			t.Fatalf("seed %d: %s", seed, broken)
		}
		answers, deaths, flips, odd, images = answers+w.answers, deaths+w.deaths, flips+w.flips, odd+w.odd, images+w.images
	}
	t.Logf("%d schedules: %d answers, %d deaths, %d machines changed, %d found odd, %d images", n, answers, deaths, flips, odd, images)
	if answers == 0 || deaths == 0 || flips == 0 || odd < flips || images == 0 {
		t.Error("the schedules do not show what they should")
	}
}

// An image that is lost with its connection is sent again when there is another, however patient the sender is.
func TestAnImageThatIsLostIsSentAgain(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed, brokenLine, false)
		w.rest()
		if w.broken != "" || len(w.lost) == 0 {
			t.Fatalf("seed %d, %d images lost: %s", seed, len(w.lost), w.broken)
		}
	}
}

func TestPlantedFaultsAreFound(t *testing.T) {
	for f, what := range map[fault]string{
		earlyReply: "a reply before the log has it", noTable: "a table that is not in the image", noSum: "a divergence that goes unnoticed",
		ownClock: "a clock that is each replica's own", sameIdentity: "a process that lost its log and keeps its identity",
	} {
		t.Run(what, func(t *testing.T) {
			for seed := range uint64(2000) {
				if found(t, seed, f) {
					t.Logf("found at seed %d", seed)
					return
				}
			}
			t.Error("not found")
		})
	}
}

// found tells whether a schedule fails; a replica that panics on nonsense has noticed it too.
func found(t *testing.T, seed uint64, f fault) (yes bool) {
	defer func() { yes = yes || recover() != nil }()
	_, broken := schedule(t, seed, f, false, true)
	return broken != ""
}
