package replica

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/godwit-project/godwit/dvs/replica/active"
	"github.com/godwit-project/godwit/dvs/replica/state"
	"github.com/godwit-project/godwit/dvs/replica/watch"
)

// activeEngine drives the active core. The watcher only says when a group may be begun, and what to tell callers.
type activeEngine struct {
	r     *Replica
	core  *active.Replica
	watch *watch.Watcher
	now   time.Duration
	ticks time.Duration // that the core has been told of
}

func newActive(r *Replica) *activeEngine {
	o := r.o
	ticks := max(int(o.Patience/o.Every), 4)
	return &activeEngine{
		r: r,
		core: active.New(active.Options{
			Self: r.self, Peers: o.Peers, Election: ticks, ImagePatience: int(imagePatience / o.Every), CheckEvery: o.CheckEvery, Keep: 4 * o.CheckEvery,
		}),
		watch: watch.New(watch.Options{Self: o.Self, Peers: o.Peers, Grace: int64(o.Patience), Calm: int64(2 * o.Patience)}),
	}
}

func (e *activeEngine) tick(now time.Duration) {
	e.now = now
	for ; e.ticks+e.r.o.Every <= now; e.ticks += e.r.o.Every {
		e.step(active.Tick{})
	}
	e.decide(e.watch.Tick(int64(now)))
}

func (e *activeEngine) decide(all []watch.Decision) {
	for _, d := range all {
		switch d.Verdict {
		case watch.Promote, watch.Look: // the log chooses by itself
		case watch.Found:
			e.step(active.Found{})
		default:
			e.r.change(Change{Epoch: d.Epoch, Primary: d.Primary.Name, Verdict: d.Verdict.String()})
		}
	}
}

func (e *activeEngine) message(body []byte, from state.Member) error {
	m, err := active.Parse(body)
	if err != nil {
		return err
	}
	if m.From != from {
		return fmt.Errorf("%w: a message of %s from %s", ErrFrame, m.From.Name, from.Name)
	}
	e.step(active.Receive{Message: m})
	e.decide(e.watch.Heard(from.Name, int64(e.now)))
	return nil
}

func (e *activeEngine) ask(q state.Request) {
	e.step(active.Ask{Request: q, Clock: uint64(time.Now().UnixNano()), Random: randomBits()})
}
func (e *activeEngine) forget(caller uint64) { e.step(active.Forget{Caller: caller}) }
func (e *activeEngine) lost(peer string)     { e.step(active.Lost{Peer: peer}) }

func (e *activeEngine) regular(peer string) bool { return e.core.Beats(peer) }

func (e *activeEngine) members() []string { return e.core.Present() }

func (e *activeEngine) stored(c state.Record) {
	e.step(active.Stored{Record: c})
	e.decide(e.watch.Record(c, int64(e.now)))
}

func (e *activeEngine) describe() string { return e.core.String() }

// step carries out what the core wants.
func (e *activeEngine) step(event active.Event) {
	r := e.r
	for _, a := range e.core.Step(event) {
		switch a := a.(type) {
		case active.Send:
			b, err := a.Message.Append(nil)
			if err != nil {
				r.fail("encode", err)
				return
			}
			r.links[a.To].out.send(b, a.Message.Kind == active.Image || a.Message.Raft.GetType() == raftpb.MsgSnap)
		case active.Answer:
			r.answer(a.Reply)
		case active.Refuse:
			r.refuse(a.Caller, a.Seq)
		case active.Execute:
			r.call(a.Request, int64(a.Clock), a.Random, func(p state.Reply) {
				r.events.put(func() { e.step(active.Executed{Reply: p}) })
			})
		case active.Hash:
			r.jobs.put(func() {
				sum := r.o.Machine.Hash()
				r.events.put(func() { e.step(active.Hashed{Sum: sum}) })
			})
		case active.Snapshot:
			r.snapshot(func(b []byte) { e.step(active.Imaged{Machine: b}) })
		case active.Restore:
			r.restore(a.Machine, func() { e.step(active.Restored{}) })
		case active.Swap:
			r.swap(a.Old.Epoch, a.New)
		case active.Load:
			r.load()
		case active.Become:
			r.change(Change{Serving: a.Role == active.Leader, Epoch: a.Record.Epoch, Primary: a.Record.Primary.Name})
		case active.Differ:
			r.o.Log.Error("replicas differ", "group", r.o.Group, "replica", r.o.Self, "entry", a.Index, "odd", a.Odd)
		}
	}
}
