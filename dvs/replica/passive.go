package replica

import (
	"fmt"
	"time"

	"github.com/godwit-project/godwit/dvs/replica/passive"
	"github.com/godwit-project/godwit/dvs/replica/state"
	"github.com/godwit-project/godwit/dvs/replica/watch"
)

// How much of the history a passive replica keeps for those who catch up, and sends at a time; how long an image may be under way.
const (
	keepBytes     = 64 << 20
	shipBytes     = 1 << 20
	imagePatience = 60 * time.Second
)

// passiveEngine drives the passive core, and the watcher that has it take over.
type passiveEngine struct {
	r     *Replica
	core  *passive.Replica
	watch *watch.Watcher
	now   time.Duration
}

func newPassive(r *Replica) *passiveEngine {
	o := r.o
	return &passiveEngine{
		r: r,
		core: passive.New(passive.Options{
			Self: r.self, Peers: o.Peers, Every: int64(o.Every), Patience: int64(o.Patience), ImagePatience: int64(imagePatience),
			KeepBytes: keepBytes, ShipBytes: shipBytes,
		}),
		watch: watch.New(watch.Options{Self: o.Self, Peers: o.Peers, Grace: int64(o.Patience), Calm: int64(2 * o.Patience)}),
	}
}

func (e *passiveEngine) tick(now time.Duration) {
	e.now = now
	e.step(passive.Tick{Now: int64(now)})
	e.decide(e.watch.Tick(int64(now)))
}

// decide carries out what the watcher advises, and tells the host of the rest.
func (e *passiveEngine) decide(all []watch.Decision) {
	for _, d := range all {
		switch d.Verdict {
		case watch.Promote:
			e.step(passive.Promote{Without: d.Without})
		case watch.Found:
			e.step(passive.Found{})
		case watch.Look:
			e.r.load()
		default:
			e.r.change(Change{Epoch: d.Epoch, Primary: d.Primary.Name, Verdict: d.Verdict.String()})
		}
	}
}

func (e *passiveEngine) message(body []byte, from state.Member) error {
	m, err := passive.Parse(body)
	if err != nil {
		return err
	}
	if m.From != from {
		return fmt.Errorf("%w: a message of %s from %s", ErrFrame, m.From.Name, from.Name)
	}
	e.step(passive.Receive{Message: m})
	if e.core.Record().Primary.Name != from.Name || e.core.Record().Primary == from {
		e.decide(e.watch.Heard(from.Name, int64(e.now))) // a new life of the primary is no sign of life of the old
	}
	return nil
}

func (e *passiveEngine) ask(q state.Request)  { e.step(passive.Ask{Request: q}) }
func (e *passiveEngine) forget(caller uint64) { e.step(passive.Forget{Caller: caller}) }
func (e *passiveEngine) lost(peer string)     { e.step(passive.Lost{Peer: peer}) }

func (e *passiveEngine) regular(string) bool { return true }

func (e *passiveEngine) members() (all []string) {
	for _, m := range e.core.Record().Synced {
		all = append(all, m.Name)
	}
	return all
}

func (e *passiveEngine) stored(c state.Record) {
	e.step(passive.Stored{Record: c})
	e.decide(e.watch.Record(c, int64(e.now)))
}

func (e *passiveEngine) describe() string { return e.core.String() }

// step carries out what the core wants.
func (e *passiveEngine) step(event passive.Event) {
	r := e.r
	for _, a := range e.core.Step(event) {
		switch a := a.(type) {
		case passive.Send:
			r.links[a.To].out.send(a.Message.Append(nil), a.Message.Kind == passive.Image)
		case passive.Answer:
			r.answer(a.Reply)
		case passive.Refuse:
			r.refuse(a.Caller, a.Seq)
		case passive.Execute:
			e.execute(a.Request)
		case passive.Apply:
			r.jobs.put(func() {
				if err := r.o.Machine.Apply(a.Delta); err != nil {
					r.fail("apply", err)
				}
			})
		case passive.Snapshot:
			r.snapshot(func(b []byte) { e.step(passive.Imaged{Machine: b}) })
		case passive.Restore:
			r.restore(a.Machine, func() { e.step(passive.Restored{}) })
		case passive.Swap:
			r.swap(a.Old.Epoch, a.New)
		case passive.Load:
			r.load()
		case passive.Become:
			r.change(Change{Serving: a.Role == passive.Primary, Epoch: a.Record.Epoch, Primary: a.Record.Primary.Name})
			e.decide(e.watch.Record(a.Record, int64(e.now)))
		}
	}
}

func (e *passiveEngine) execute(q state.Request) {
	r := e.r
	r.call(q, time.Now().UnixNano(), randomBits(), func(p state.Reply) {
		d, err := r.o.Machine.Changes()
		if err != nil {
			r.fail("find what has changed", err)
			return
		}
		r.events.put(func() { e.step(passive.Executed{Reply: p, Delta: d}) })
	})
}
