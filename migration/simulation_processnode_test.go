package migration_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/godwit-project/godwit/migration"
)

const (
	standbyPrepared = "endpoint/destination/prepare"
	standbyCommit   = "endpoint/destination/commit"
	standbyAbort    = "endpoint/destination/abort"
)

// run takes one sub-step of a node's runners: one sends, one takes an event, or a new attempt begins.
func (w *processWorld) run(n *processNode) {
	if !n.up {
		w.begin(n)
		return
	}
	settled := true
	for _, epoch := range slices.Sorted(maps.Keys(n.runners)) {
		r := n.runners[epoch]
		done := func(id migration.StepID) bool { return !r.state.Steps[id].Done.IsZero() }
		settled = settled && r.state.Phase == migration.Aborting && done("endpoint/source/abort") && done("process/source/abort")
		switch {
		case len(r.outbox) > 0:
			a := r.outbox[0]
			r.outbox = r.outbox[1:]
			w.send(n, r, a)
			return
		case len(r.inbox) > 0:
			e := r.inbox[0]
			r.inbox = r.inbox[1:]
			w.feed(n, r, e)
			return
		}
	}
	if settled && (w.wanted > 0 && n.copy.state == owning || n.again && n.copy.state == holding) {
		w.attempt(n)
	} else if settled {
		n.again = n.again && n.copy.state == holding
	}
}

func (w *processWorld) attempt(n *processNode) {
	if !n.again {
		w.wanted--
	}
	n.again = false
	n.disk.counter = max(n.copy.epoch, n.fence.Epoch, n.disk.counter) + 1
	if w.broken.lateEpoch {
		n.disk.counter = n.copy.epoch + 1
	}
	epoch := n.disk.counter
	to := (n.id + 1 + w.rng.IntN(2)) % 3
	plan := migration.Process()
	if w.rng.IntN(2) == 0 {
		plan = migration.FrozenProcess()
	}
	if w.broken.leaveFirst {
		for i := range plan.Steps {
			if plan.Steps[i].Phase == migration.Committed {
				plan.Steps[i].After = nil
			}
		}
	}
	s, actions, err := migration.New(migration.Spec{
		Name: "move", Service: "shop/kv", Epoch: epoch, Source: fmt.Sprint(n.id), Destination: fmt.Sprint(to), Plan: plan,
	}, w.now)
	if err != nil {
		_ = w.violate("new: %v", err)
		return
	}
	w.count.attempts++
	w.note("node %d begins %v", n.id, s)
	for _, r := range n.runners {
		if r.state.Spec.Destination == s.Spec.Destination {
			r.inbox = append(r.inbox, migration.Superseded{At: w.now, By: epoch})
		}
	}
	r := &processRunner{processMove: processMove{state: s, memory: w.nodes[to].disk.id}, outbox: actions}
	n.disk.moves[epoch] = r.processMove
	n.runners[epoch] = r
}

func (w *processWorld) feed(n *processNode, r *processRunner, e migration.Event) {
	before := r.state
	after, actions, err := migration.Step(before, e)
	if err != nil {
		if !errors.Is(err, migration.ErrAhead) {
			w.note("node %d: %v: %v", n.id, e, err)
		}
		return
	}
	if after.Phase != before.Phase || len(actions) > 0 {
		w.note("node %d: %v: %s -> %s, %v", n.id, e, before.Phase, after.Phase, actions)
	}
	commits := before.Decision == "" && after.Decision == migration.DecisionCommit
	if commits && n.copy.epoch >= after.Spec.Epoch {
		_ = w.violate("a commit of %d at an owner of %d", after.Spec.Epoch, n.copy.epoch)
	}
	if w.broken.actionsFirst && commits {
		for _, a := range actions {
			w.send(n, r, a)
		}
		if w.rng.IntN(2) == 0 { // the node may die before it is stored
			w.crash(n)
			return
		}
		actions = nil
	}
	r.state = after
	if migration.DurableFirst(before, after) {
		w.store(n, r)
	}
	if r.outbox = append(r.outbox, actions...); after.Terminal() {
		delete(n.runners, after.Spec.Epoch)
	}
	if before.Phase.BeforeCommit() && !after.Phase.BeforeCommit() {
		n.ops = slices.DeleteFunc(n.ops, func(o *processOp) bool {
			return o.epoch == after.Spec.Epoch && o.step.Role() == migration.Source && o.step.Verb() != migration.AbortVerb
		})
	}
}

func (w *processWorld) store(n *processNode, r *processRunner) {
	epoch := r.state.Spec.Epoch
	if n.kept {
		name := fmt.Sprintf("%d of %d", epoch, n.disk.id)
		if was := w.decisions[name]; was != "" && was != r.state.Decision {
			_ = w.violate("decision %s of %s became %q", was, name, r.state.Decision)
		} else if was == "" {
			switch r.state.Decision {
			case migration.DecisionCommit:
				w.count.commits++
			case migration.DecisionAbort:
				w.count.aborts++
			}
		}
		w.decisions[name] = r.state.Decision
	}
	if n.disk.moves[epoch] = r.processMove; r.state.Terminal() {
		delete(n.disk.moves, epoch)
	}
}

// send gives an action to this node, or to the links.
func (w *processWorld) send(n *processNode, r *processRunner, a migration.Action) {
	if a.Verb == migration.ObserveVerb {
		if a.Role == migration.Source { // it was asked because the node began again
			r.inbox = append(r.inbox, migration.Lost{At: w.now, Epoch: a.Epoch, Participant: a.Participant, Role: a.Role, Reason: "gone"})
		}
		return
	}
	c := processCall{from: n.id, to: n.id, epoch: a.Epoch, step: a.Step, memory: r.memory}
	if a.Role == migration.Destination {
		c.to = int(r.state.Spec.Destination[0] - '0')
		w.bag = append(w.bag, c)
		return
	}
	w.take(n, c)
}

func (w *processWorld) takeAnswer(n *processNode, c processCall) {
	r := n.runners[c.epoch]
	if r == nil || c.step.Role() == migration.Destination && fmt.Sprint(c.from) != r.state.Spec.Destination {
		return
	}
	w.note("answer %v", c)
	switch {
	case c.step == standbyCommit && c.fate != "":
		switch c.fate {
		case migration.Gone:
			w.count.gone++
			if n.copy.state == holding && !w.broken.resumeOnGone {
				n.copy.state = absent
			}
			n.again = w.broken.resumeOnGone && n.copy.state == holding
		case migration.Unborn:
			w.count.unborn++
			n.again = n.copy.state == holding
		case migration.Over: // it went on from there
			if n.copy.state == holding && n.copy.epoch < c.epoch {
				n.copy.state = absent
			}
		case migration.Owner, migration.Ready:
		}
		r.inbox = append(r.inbox, migration.Superseded{At: w.now, By: max(c.by, c.epoch+1)})
	case c.failed != "" && !(c.fate == migration.Over && c.step.Verb() == migration.AbortVerb):
		r.inbox = append(r.inbox, migration.Failed{At: w.now, Epoch: c.epoch, Step: c.step, Reason: c.failed})
	default:
		r.inbox = append(r.inbox, migration.Done{At: w.now, Epoch: c.epoch, Step: c.step})
	}
}

// take is a step's arrival.
func (w *processWorld) take(n *processNode, c processCall) {
	w.note("node %d gets %v", n.id, c)
	j := &n.disk.journal
	if c.step.Role() == migration.Source {
		j = &n.fence
	}
	if c.step.Role() == migration.Destination && c.step != standbyCommit && c.memory != n.disk.id {
		w.reply(c, "it has begun again", migration.Over, 0) // what was prepared is gone
		return
	}
	if c.step != standbyCommit {
		before := j.Epoch
		switch verdict, why := j.Admit(c.epoch, c.step); {
		case verdict == migration.AlreadyDone:
			w.reply(c, "", "", 0)
			return
		case verdict == migration.Refuse && w.broken.noTombstone && c.epoch == before:
		case verdict == migration.Refuse && c.epoch < before && c.step == "endpoint/source/abort":
			w.reply(c, "", "", 0)
			return
		case verdict == migration.Refuse && c.epoch < before:
			w.reply(c, why, migration.Over, before)
			return
		case verdict == migration.Refuse:
			w.reply(c, why, "", 0)
			return
		}
		if c.step.Verb() == migration.AbortVerb || c.epoch > before {
			for _, o := range slices.Clone(n.ops) {
				if o.step.Role() == c.step.Role() && (o.epoch < c.epoch || o.step.Verb() != migration.AbortVerb) {
					n.ops = slices.DeleteFunc(n.ops, func(other *processOp) bool { return other == o })
					w.reply(o.processCall, "stopped", "", 0)
				}
			}
		}
	}
	if !slices.ContainsFunc(n.ops, func(o *processOp) bool { return o.step == c.step && o.epoch == c.epoch && o.memory == c.memory }) {
		n.ops = append(n.ops, &processOp{processCall: c})
	}
}

// work takes one sub-step of something at hand. The steps of one role are done one at a time.
func (w *processWorld) work(n *processNode) {
	if !n.up || len(n.ops) == 0 {
		return
	}
	i := w.rng.IntN(len(n.ops))
	i = slices.IndexFunc(n.ops, func(o *processOp) bool { return o.step.Role() == n.ops[i].step.Role() })
	o := n.ops[i]
	j := &n.disk.journal
	var done bool
	var err error
	switch {
	case o.step == standbyCommit:
		done, err = w.commitStep(n, o)
	case o.step.Role() == migration.Destination:
		done, err = w.destinationStep(n, o)
	default:
		done, err = w.sourceStep(n, o)
		j = &n.fence
	}
	if done && err == nil {
		if err = j.Record(o.epoch, o.step); err != nil && w.broken.noTombstone {
			err = nil
		}
	}
	if !done && err == nil {
		o.pc++
		return
	}
	n.ops = slices.DeleteFunc(n.ops, func(other *processOp) bool { return other == o })
	var f *fateError
	switch {
	case errors.As(err, &f):
		w.reply(o.processCall, "final", f.fate, n.disk.journal.Epoch)
	case err != nil:
		w.reply(o.processCall, err.Error(), "", 0)
	default:
		w.reply(o.processCall, "", "", 0)
	}
}

type fateError struct{ fate migration.Fate }

func (e *fateError) Error() string { return string(e.fate) }

func (w *processWorld) destinationStep(n *processNode, o *processOp) (done bool, err error) {
	switch o.step {
	case "process/destination/prepare":
		n.standby.epoch, n.standby.from, n.standby.staged = o.epoch, o.from, false
	case standbyPrepared:
		if n.standby.epoch != o.epoch || n.copy.state != absent {
			return false, errors.New("no standby, or an owner")
		}
	case standbyAbort:
		n.standby.staged = false
	case "process/destination/abort":
		n.standby.epoch, n.standby.staged = 0, false
	default:
		return false, fmt.Errorf("no such step %s", o.step)
	}
	return true, nil
}

// commitStep is the destination's commit: the journal, the owner, the journal.
func (w *processWorld) commitStep(n *processNode, o *processOp) (done bool, err error) {
	j := &n.disk.journal
	staged := n.standby.epoch == o.epoch && n.standby.staged
	switch {
	case o.pc == 1 && !staged:
		return false, errors.New("the standby has ended")
	case o.pc == 1:
		n.copy.state, n.copy.content, n.copy.epoch = owning, n.standby.content, o.epoch
		n.standby.epoch, n.standby.staged = 0, false
		return false, nil
	case o.pc > 1:
		return true, nil // Record admits it, if nobody has
	}
	fate := j.Fate(o.epoch, standbyPrepared, standbyCommit, staged)
	if o.memory != n.disk.id && fate != migration.Over {
		fate = migration.Gone
	}
	switch fate {
	case migration.Owner:
		return true, nil
	case migration.Gone:
		if n.copy.state != absent && n.copy.epoch == o.epoch {
			return true, nil
		}
		return false, &fateError{fate}
	case migration.Unborn:
		_, _ = j.Admit(o.epoch, standbyAbort)
		return false, &fateError{fate}
	case migration.Over:
		return false, &fateError{fate}
	case migration.Ready:
	}
	if !w.broken.journalAfter {
		if v, why := j.Admit(o.epoch, o.step); v == migration.Refuse {
			return false, errors.New(why)
		}
	}
	return false, nil
}

func (w *processWorld) sourceStep(n *processNode, o *processOp) (done bool, err error) {
	here := n.copy.state != absent && n.copy.epoch < o.epoch
	switch o.step {
	case "endpoint/source/prepare", "process/source/converge":
		if !here {
			return false, errors.New("not here")
		}
	case "endpoint/source/quiesce":
		r := n.runners[o.epoch]
		switch {
		case !here || r == nil:
			return false, errors.New("not here")
		case o.pc == 0:
			n.copy.state = holding
		case o.pc%8 == 1:
			to := int(r.state.Spec.Destination[0] - '0')
			w.bag = append(w.bag, processCall{from: n.id, to: to, epoch: o.epoch, state: true, content: n.copy.content})
		case o.failed == "restored":
			return true, nil
		case o.failed != "":
			return false, errors.New(o.failed)
		}
		return false, nil
	case "endpoint/source/commit":
		if here {
			n.copy.state = absent
		}
	case "process/source/release", "process/source/abort":
	case "endpoint/source/abort":
		if here && n.copy.state == holding {
			n.copy.state = owning
		}
	default:
		return false, fmt.Errorf("no such step %s", o.step)
	}
	return true, nil
}

// takeState is a state's arrival at a standby, or the news that it was restored, at its source.
func (w *processWorld) takeState(n *processNode, c processCall) {
	w.note("node %d gets %v", n.id, c)
	if !c.answer {
		j := n.disk.journal
		back := processCall{from: n.id, to: c.from, epoch: c.epoch, state: true, answer: true, failed: "restored"}
		if n.standby.epoch != c.epoch || c.epoch < j.Epoch || c.epoch == j.Epoch && j.Decision == migration.DecisionAbort && !w.broken.noTombstone {
			back.failed = "no standby"
		} else if j.Decision != migration.DecisionCommit {
			n.standby.staged, n.standby.content = true, c.content
		}
		w.bag = append(w.bag, back)
		return
	}
	for _, o := range n.ops {
		if o.epoch == c.epoch && strings.HasSuffix(string(o.step), "source/quiesce") {
			o.failed = c.failed
		}
	}
}

// adopt ends a standby whose source knows nothing of the move.
func (w *processWorld) adopt(n *processNode) {
	if !n.up || n.standby.epoch == 0 || w.broken.noAdoption {
		return
	}
	from, epoch := w.nodes[n.standby.from], n.standby.epoch
	if !from.up || from.runners[epoch] != nil {
		return
	}
	w.count.adopted++
	for _, step := range []migration.StepID{standbyAbort, "process/destination/abort"} {
		w.take(n, processCall{from: n.standby.from, to: n.id, epoch: epoch, step: step, memory: n.disk.id})
	}
}
