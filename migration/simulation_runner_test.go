package migration_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-project/godwit/migration"
)

// store is the model of etcd: one revision for the active migration, the owner key, the counter of epochs.
type store struct {
	revision int
	active   *migration.State
	bytes    []byte // the same as JSON, in some schedules
	owner    int    // site
	epoch    uint64 // of the owner
	counter  uint64
}

// runner is the model of the controller's runner. Everything in it is lost in a crash.
type runner struct {
	id       int
	up       bool
	loaded   bool
	state    migration.State
	revision int
	epoch    uint64 // allocated for an attempt that is not stored yet
	next     *migration.State
	actions  []migration.Action // to be sent when next is stored
	outbox   []migration.Action
	inbox    []migration.Event
	resend   bool
}

// run takes one sub-step; a crash may come between any two.
func (w *world) run(r *runner) {
	switch {
	case !r.up:
		r.up = true
		w.note("runner %d is back", r.id)
	case r.next != nil:
		w.persist(r)
	case len(r.outbox) > 0:
		c := r.outbox[0]
		r.outbox = r.outbox[1:]
		w.post(message{agent: w.agentFor(c), action: c})
	case !r.loaded && w.store.active != nil:
		w.takeOver(r)
	case !r.loaded:
		w.begin(r)
	case r.resend || (len(r.inbox) == 0 && w.rng.IntN(30) == 0):
		r.resend = false
		r.outbox = append(r.outbox, r.state.Outstanding()...)
	case len(r.inbox) > 0:
		e := r.inbox[0]
		r.inbox = r.inbox[1:]
		w.feed(r, e)
	}
}

func (w *world) agentFor(c migration.Action) int {
	site := 0
	if w.hostSite(c) == "east" {
		site = 1
	}
	if c.Participant == migration.Network {
		return 2*site + 1
	}
	return 2 * site
}

// hostSite reads the site from the migration's name, which says from where to where it goes.
func (w *world) hostSite(c migration.Action) string {
	if (c.Role == migration.Source) == (c.Migration[:4] == "west") {
		return "west"
	}
	return "east"
}

// begin starts an attempt that the operator wants: an epoch first, then the record.
func (w *world) begin(r *runner) {
	if r.epoch == 0 {
		if w.wanted == 0 {
			return
		}
		if !w.broken.epochTwice || w.store.counter == 0 || w.rng.IntN(2) == 0 {
			w.store.counter++
		}
		r.epoch = w.store.counter
		return
	}
	if w.wanted == 0 || (w.store.counter != r.epoch && !w.broken.lateEpoch) {
		r.epoch = 0 // the transaction would find it out
		return
	}
	from, to := "west", "east"
	if w.store.owner == 1 {
		from, to = to, from
	}
	spec := migration.Spec{
		Name: fmt.Sprintf("%s-%d-%d", from, r.epoch, w.count.attempts), Service: "shop", Epoch: r.epoch, Source: from,
		Destination: to, Plan: w.plan, Hold: w.rng.IntN(3) == 0,
	}
	if w.rng.IntN(8) == 0 {
		spec.Limits = migration.Limits{
			Prepare: 4 * time.Second, Converge: 4 * time.Second, Synchronize: 3 * time.Second, Quiesce: 3 * time.Second,
		}
	}
	if spec.Hold && w.rng.IntN(2) == 0 {
		spec.HoldUntil = w.now.Add(time.Duration(w.rng.IntN(20)) * time.Second)
	}
	s, actions, err := migration.New(spec, w.now)
	if err != nil {
		_ = w.violate("new: %v", err)
		return
	}
	r.epoch = 0
	if first, ok := w.attempts[spec.Epoch]; ok {
		_ = w.violate("epoch %d is used by %s and by %s", spec.Epoch, first, spec.Name)
	}
	w.attempts[spec.Epoch] = spec.Name
	w.wanted--
	w.count.attempts++
	w.bereft = false
	w.put(&s)
	r.loaded, r.state, r.revision, r.outbox = true, s, w.store.revision, append(r.outbox, actions...)
	w.note("runner %d begins %v", r.id, s)
}

func (w *world) takeOver(r *runner) {
	r.loaded, r.state, r.revision = true, *w.store.active, w.store.revision
	if w.json {
		r.state = migration.State{}
		if err := json.Unmarshal(w.store.bytes, &r.state); err != nil {
			_ = w.violate("stored state: %v", err)
		}
	}
	r.inbox = append(r.inbox, migration.Recovered{At: w.now})
	w.note("runner %d takes over %v", r.id, r.state)
}

// feed is duties 2 and 3.
func (w *world) feed(r *runner, e migration.Event) {
	s := r.state
	if _, ok := e.(migration.Abort); ok && w.broken.abortAfterCommit && s.Phase == migration.Committed {
		s.Phase, s.Decision = migration.Quiesced, migration.DecisionNone
	}
	after, actions, err := migration.Step(s, e)
	if errors.Is(err, migration.ErrAhead) {
		w.count.ahead++
		w.drop(r)
		return
	}
	if err != nil {
		return
	}
	if after.Phase != r.state.Phase || len(actions) > 0 {
		w.note("runner %d: %v: %s -> %s, %v", r.id, e, r.state.Phase, after.Phase, actions)
	}
	first := migration.DurableFirst(r.state, after)
	if w.broken.lazyReach {
		first = r.state.Phase != after.Phase || r.state.Ready != after.Ready || r.state.Released != after.Released
	}
	if !first {
		r.state, r.outbox = after, append(r.outbox, actions...)
		return
	}
	r.next, r.actions = &after, actions
	if w.broken.actionsFirst {
		r.outbox, r.actions = append(r.outbox, actions...), nil
		for len(r.outbox) > 0 {
			w.post(message{agent: w.agentFor(r.outbox[0]), action: r.outbox[0]})
			r.outbox = r.outbox[1:]
		}
	}
}

func (w *world) drop(r *runner) {
	r.loaded, r.next, r.actions, r.inbox = false, nil, nil, nil
}

// persist is the transaction of duties 3 and 4.
func (w *world) persist(r *runner) {
	next := *r.next
	commits := next.Decision == migration.DecisionCommit && r.state.Decision == migration.DecisionNone
	destination := 0
	if next.Spec.Destination == "east" {
		destination = 1
	}
	ok := w.store.revision == r.revision
	if commits {
		ok = ok && w.store.owner == 1-destination && w.store.epoch < next.Spec.Epoch
	}
	if !ok && !w.broken.noCAS {
		w.count.swapsLost++
		w.note("runner %d loses the swap", r.id)
		w.drop(r)
		return
	}
	if commits {
		w.store.owner, w.store.epoch = destination, next.Spec.Epoch
	}
	if next.Ready && !r.state.Ready {
		w.count.held++
	}
	w.put(&next)
	r.state, r.revision, r.next = next, w.store.revision, nil
	r.outbox, r.actions = append(r.outbox, r.actions...), nil
	if next.Terminal() {
		w.drop(r)
	}
}

// put stores a state and watches that decisions stay what they are.
func (w *world) put(s *migration.State) {
	w.store.revision++
	w.note("stored: %v", s)
	if was := w.decisions[s.Spec.Epoch]; was != s.Decision {
		if was != "" {
			_ = w.violate("epoch %d: decision %s became %q", s.Spec.Epoch, was, s.Decision)
		}
		w.decisions[s.Spec.Epoch] = s.Decision
		if s.Decision == migration.DecisionCommit {
			w.count.commits++
		} else {
			w.count.aborts++
		}
	}
	w.store.active = s
	if s.Terminal() {
		w.store.active = nil
	} else if w.json {
		b, err := json.Marshal(s)
		if err != nil {
			_ = w.violate("state to JSON: %v", err)
		}
		w.store.bytes = b
	}
}
