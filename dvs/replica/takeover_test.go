package replica_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/godwit-project/godwit/dvs/replica/passive"
	"github.com/godwit-project/godwit/dvs/replica/replicatest"
	"github.com/godwit-project/godwit/dvs/replica/state"
	"github.com/godwit-project/godwit/dvs/replica/watch"
)

// The simulations of the cores show that nothing wrong is answered. This one shows that something is: passive core and watcher together, as the
// driver has them, in a world whose lines work, and whose replicas die at the worst moments, for good or not. As long as one that is listed is
// left, the group goes on. A step is a millisecond; one seed is one schedule.

var takeovers = flag.Uint64("takeovers", 1000, "how many schedules of deaths are simulated")

const (
	takeoverEvery    = 20
	takeoverPatience = 500
	takeoverRest     = 40_000 // within which a request must be answered: the pauses of the watcher grow with changes
)

// mortal is one replica, as the driver drives it.
type mortal struct {
	core    *passive.Replica
	watch   *watch.Watcher
	self    state.Member
	machine replicatest.Machine
	asking  int // of the store
	dead    bool
}

type takeoverWorld struct {
	rng      *rand.Rand
	now      int64
	due      map[int64][]func()
	replicas map[string]*mortal
	record   state.Record
	lives    uint64
	deaths   int
	lines    map[[2]string]int64 // when the last message of a line arrives
	answered map[uint64]bool
	worst    bool // a death is about to come between the store and those that it lists
}

func newTakeoverWorld(seed uint64) *takeoverWorld {
	w := &takeoverWorld{
		rng: rand.New(rand.NewPCG(seed, 3)), due: map[int64][]func(){}, replicas: map[string]*mortal{}, lines: map[[2]string]int64{},
		answered: map[uint64]bool{},
	}
	for _, n := range names {
		w.start(n)
	}
	return w
}

func (w *takeoverWorld) start(name string) {
	w.lives++
	m := &mortal{self: state.Member{Name: name, Incarnation: w.lives}, machine: replicatest.Machine{}}
	peers := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
	m.core = passive.New(passive.Options{
		Self: m.self, Peers: peers, Every: takeoverEvery, Patience: takeoverPatience, ImagePatience: 60_000, KeepBytes: 1 << 20, ShipBytes: 1 << 20,
	})
	m.watch = watch.New(watch.Options{Self: name, Peers: peers, Grace: takeoverPatience, Calm: 2 * takeoverPatience})
	w.replicas[name] = m
	w.after(1+w.rng.Int64N(takeoverEvery), func() { w.tick(m) })
}

func (w *takeoverWorld) after(steps int64, f func()) {
	w.due[w.now+steps] = append(w.due[w.now+steps], f)
}

func (w *takeoverWorld) tick(m *mortal) {
	if m.dead {
		return
	}
	w.step(m, passive.Tick{Now: w.now})
	w.decide(m, m.watch.Tick(w.now))
	w.after(takeoverEvery, func() { w.tick(m) })
}

func (w *takeoverWorld) decide(m *mortal, all []watch.Decision) {
	for _, d := range all {
		switch d.Verdict {
		case watch.Promote:
			w.step(m, passive.Promote{Without: d.Without})
		case watch.Found:
			w.step(m, passive.Found{})
		case watch.Look:
			w.ask(m, nil)
		}
	}
}

func (w *takeoverWorld) step(m *mortal, e passive.Event) {
	if m.dead {
		return
	}
	for _, a := range m.core.Step(e) {
		switch a := a.(type) {
		case passive.Send:
			w.send(m, a)
		case passive.Answer:
			w.answered[a.Reply.Seq] = true
		case passive.Execute:
			reply, d := m.machine.Call(a.Request.Payload)
			p := state.Reply{Caller: a.Request.Caller, Seq: a.Request.Seq, Payload: reply}
			w.after(1, func() { w.step(m, passive.Executed{Reply: p, Delta: d}) })
		case passive.Apply:
			m.machine.Apply(a.Delta)
		case passive.Snapshot:
			b := m.machine.Snapshot()
			w.after(1, func() { w.step(m, passive.Imaged{Machine: b}) })
		case passive.Restore:
			_ = m.machine.Restore(a.Machine) // of another one like it
			w.after(1+w.rng.Int64N(50), func() { w.step(m, passive.Restored{}) })
		case passive.Swap:
			w.ask(m, &a)
		case passive.Load:
			w.ask(m, nil)
		case passive.Become:
			w.decide(m, m.watch.Record(a.Record, w.now))
		}
	}
}

// send is a line that keeps the order and loses nothing while both live; what reaches a new life finds another one.
func (w *takeoverWorld) send(from *mortal, a passive.Send) {
	line := [2]string{from.self.Name, a.To}
	at := max(w.lines[line], w.now+1+w.rng.Int64N(5))
	w.lines[line] = at
	to := w.replicas[a.To]
	w.due[at] = append(w.due[at], func() {
		if to.dead {
			return
		}
		w.step(to, passive.Receive{Message: a.Message})
		if p := to.core.Record().Primary; p.Name != from.self.Name || p == from.self {
			w.decide(to, to.watch.Heard(from.self.Name, w.now))
		}
	})
}

// ask asks the store, one thing at a time, as the driver does. The worst moment to die is when it has changed, and nobody has heard of it.
func (w *takeoverWorld) ask(m *mortal, s *passive.Swap) {
	if m.asking > 1 {
		return
	}
	m.asking++
	w.after(1+w.rng.Int64N(10), func() {
		if s != nil && s.Old.Epoch == w.record.Epoch {
			w.record = s.New
			if w.worst && w.mayDie(m) {
				w.worst = false
				w.die(m)
			}
		}
		held := w.record
		w.after(1+w.rng.Int64N(10), func() {
			m.asking--
			w.step(m, passive.Stored{Record: held})
			w.decide(m, m.watch.Record(held, w.now))
		})
	})
}

// mayDie tells whether another one that is listed is left then.
func (w *takeoverWorld) mayDie(m *mortal) bool {
	return !m.dead && slices.ContainsFunc(w.record.Synced, func(o state.Member) bool {
		r := w.replicas[o.Name]
		return r != m && r.self == o && !r.dead
	})
}

func (w *takeoverWorld) die(m *mortal) {
	m.dead = true
	w.deaths++
	if w.rng.IntN(2) == 0 {
		w.after(w.rng.Int64N(3000), func() { w.start(m.self.Name) })
	}
}

func (w *takeoverWorld) pass(steps int64, until func() bool) bool {
	for end := w.now + steps; w.now < end; w.now++ {
		for len(w.due[w.now]) > 0 {
			all := w.due[w.now]
			delete(w.due, w.now)
			for _, f := range all {
				f()
			}
		}
		if until != nil && until() {
			return true
		}
	}
	return false
}

// request asks everybody now and then, and says whether there was an answer in time.
func (w *takeoverWorld) request(seq uint64) bool {
	var again func()
	again = func() {
		if w.answered[seq] {
			return
		}
		for _, n := range names {
			w.step(w.replicas[n], passive.Ask{Request: state.Request{Caller: 1, Seq: seq, Payload: replicatest.Request(1, "x")}})
		}
		w.after(50, again)
	}
	again()
	return w.pass(takeoverRest, func() bool { return w.answered[seq] })
}

func (w *takeoverWorld) String() string {
	s := fmt.Sprintf("after %d ms the store holds %+v", w.now, w.record)
	for _, n := range names {
		m := w.replicas[n]
		s += fmt.Sprintf("\n%v dead %v: %s, %+v", m.self, m.dead, m.core.Role(), m.core.Record())
	}
	return s
}

func TestAsLongAsOneIsLeftTheGroupGoesOn(t *testing.T) {
	n := *takeovers
	if testing.Short() || raceEnabled {
		n = 200
	}
	deaths := 0
	for seed := range n {
		w := newTakeoverWorld(seed)
		for round := range uint64(4) {
			if w.rng.IntN(2) == 0 { // else it may be before the group has begun
				w.pass(w.rng.Int64N(3000), nil)
			}
			if w.worst = w.rng.IntN(2) == 0; !w.worst {
				w.pass(w.rng.Int64N(1000), nil)
				if m := w.replicas[names[w.rng.IntN(len(names))]]; w.mayDie(m) {
					w.die(m)
				}
			}
			if w.rng.IntN(3) > 0 && !w.request(round+1) {
				t.Fatalf("seed %d: nobody answers: %s", seed, w)
			}
		}
		if !w.request(100) {
			t.Fatalf("seed %d: in the end nobody answers: %s", seed, w)
		}
		deaths += w.deaths
	}
	t.Logf("%d schedules, %d deaths", n, deaths)
	if deaths < int(n) {
		t.Error("the schedules do not show what they should")
	}
}
