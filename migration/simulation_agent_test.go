package migration_test

import (
	"fmt"
	"slices"

	"github.com/godwit-project/godwit/migration"
)

// agent is the model of godwit's agent on a host or an edge. Its journal is durable; what it has at work is not.
type agent struct {
	site    int
	edge    bool
	up      bool
	journal migration.Journal
	ops     []*op
}

// op is a command at work: pc counts the sub-steps taken.
type op struct {
	migration.Action
	pc int
}

func (a *agent) String() string {
	if a.edge {
		return fmt.Sprintf("edge %d", a.site)
	}
	return fmt.Sprintf("host %d", a.site)
}

func (w *world) recorded(a *agent, step string) bool {
	return a.journal.Recorded(a.journal.Epoch, migration.StepID(step))
}

// command is a command's arrival: the agent's duties 1 to 3.
func (w *world) command(a *agent, c migration.Action) {
	if !a.up {
		return
	}
	before := a.journal.Epoch
	verdict, reason := a.journal.Admit(c.Epoch, c.Step)
	switch {
	case w.broken.noJournal,
		w.broken.noTombstone && verdict == migration.Refuse && c.Epoch == before,
		w.broken.oldEpochs && c.Epoch < before:
		verdict = migration.Run
	}
	w.note("%v gets %v: %s %s", a, c, verdict, reason)
	switch verdict {
	case migration.AlreadyDone:
		w.count.doubled++
		w.answer(migration.Done{At: w.now, Epoch: c.Epoch, Step: c.Step})
	case migration.Refuse:
		w.count.refused++
		w.answer(migration.Failed{At: w.now, Epoch: c.Epoch, Step: c.Step, Reason: reason})
	case migration.Run:
		if c.Verb == migration.ObserveVerb {
			w.observe(a, c)
			return
		}
		if c.Verb == migration.AbortVerb || c.Epoch > before {
			a.ops = slices.DeleteFunc(a.ops, func(o *op) bool {
				return o.Epoch < c.Epoch || o.Verb != migration.AbortVerb
			})
		}
		if !slices.ContainsFunc(a.ops, func(o *op) bool { return o.Step == c.Step && o.Epoch == c.Epoch }) {
			a.ops = append(a.ops, &op{Action: c})
		}
	}
}

// observe says Lost when a prepared QEMU is gone, as an agent does by itself, too, when it sees one die.
func (w *world) observe(a *agent, c migration.Action) {
	if c.Participant == migration.Server && a.journal.Epoch == c.Epoch && w.hosts[a.site].gone() &&
		w.recorded(a, fmt.Sprintf("server/%s/prepare", c.Role)) {
		w.answer(migration.Lost{
			At: w.now, Epoch: c.Epoch, Participant: c.Participant, Role: c.Role, Reason: "QEMU is gone",
		})
		return
	}
	w.answer(migration.Done{At: w.now, Epoch: c.Epoch, Step: c.Step})
}

// progress is what one sub-step of a command came to.
type progress string

const (
	onward   progress = "onward" // more sub-steps follow
	wait     progress = "wait"   // for something that others do
	finished progress = "finished"
)

// workSomewhere picks an agent that has something to do.
func (w *world) workSomewhere() {
	first := w.rng.IntN(len(w.agents))
	for i := range w.agents {
		if a := w.agents[(first+i)%len(w.agents)]; !a.up || len(a.ops) > 0 {
			w.work(a)
			return
		}
	}
}

// work takes one sub-step of something that the agent has at hand: duties 4 and 5.
func (w *world) work(a *agent) {
	if !a.up {
		a.up = true
		w.note("%v is back", a)
		return
	}
	if len(a.ops) == 0 {
		return
	}
	i := w.rng.IntN(len(a.ops))
	o := a.ops[i]
	var p progress
	var err error
	switch {
	case a.edge:
		p, err = w.edgeStep(a, o)
	case o.Participant == migration.Server:
		p, err = w.serverStep(a, o)
	default:
		p, err = w.storageStep(a, o)
	}
	if err == nil && p == finished && !w.careless() {
		err = a.journal.Record(o.Epoch, o.Step)
	} else if p == finished && !w.broken.noJournal {
		_ = a.journal.Record(o.Epoch, o.Step)
	}
	switch {
	case err != nil:
		a.ops = slices.Delete(a.ops, i, i+1)
		w.note("%v: %v fails: %v", a, o.Action, err)
		w.answer(migration.Failed{At: w.now, Epoch: o.Epoch, Step: o.Step, Reason: err.Error()})
	case p == finished:
		a.ops = slices.Delete(a.ops, i, i+1)
		w.note("%v: %v is done", a, o.Action)
		w.answer(migration.Done{At: w.now, Epoch: o.Epoch, Step: o.Step})
	case p == onward:
		o.pc++
		w.note("%v: %v goes on", a, o.Action)
	}
}

// careless agents do not mind that a step is not admitted any more.
func (w *world) careless() bool {
	return w.broken.noJournal || w.broken.noTombstone || w.broken.oldEpochs
}

func (w *world) edgeStep(a *agent, o *op) (progress, error) {
	e, near, far := w.edges[a.site], w.hosts[a.site], w.hosts[1-a.site]
	switch o.Step {
	case "network/destination/prepare":
		e.tunnel, e.delivers = o.Epoch, true
	case "network/source/prepare":
		e.tunnel = o.Epoch
	case "network/source/quiesce":
		e.held = true
	case "network/destination/commit":
	case "network/source/commit":
		if !far.inward || !w.edges[1-a.site].delivers {
			return "", w.violate("traffic let go into the tunnel before its far end and the guest's host let it in")
		}
		e.intoTunnel, e.held = true, false
	case "network/destination/optimize":
		e.announced = true
	case "network/source/optimize":
		e.announced = false
	case "network/source/abort":
		if e.held && !near.runs() {
			return "", w.violate("traffic let go to a guest that does not run")
		}
		e.held, e.tunnel = false, 0
	case "network/source/release":
		e.intoTunnel, e.tunnel = false, 0
	case "network/destination/release", "network/destination/abort":
		e.delivers, e.tunnel = false, 0
	default:
		return "", fmt.Errorf("no such step")
	}
	return finished, nil
}

func (w *world) storageStep(a *agent, o *op) (progress, error) {
	v, far := &w.hosts[a.site].volume, &w.hosts[1-a.site].volume
	pending := v.content - far.content
	switch o.Step {
	case "storage/destination/prepare":
		if !v.exists || v.replica != o.Epoch {
			*v = volume{exists: true, replica: o.Epoch}
		}
	case "storage/source/prepare":
		v.session, v.mirrored, v.drained = o.Epoch, false, false
	case "storage/source/converge":
		if pending > 4 {
			return wait, nil
		}
	case "storage/source/synchronize":
		if pending > 0 {
			return wait, nil
		}
		v.mirrored = true
	case "storage/source/quiesce":
		if o.pc == 0 {
			if !w.broken.noFence && !w.broken.noGate {
				v.writable = false
			}
			return onward, nil
		}
		if pending > 0 {
			return wait, nil
		}
		v.drained = true
	case "storage/destination/quiesce":
		if !far.drained || far.content != v.content {
			return wait, nil
		}
	case "storage/destination/commit":
		v.writable = true
	case "storage/source/abort":
		if o.pc == 0 {
			v.session, v.mirrored, v.drained = 0, false, false
			return onward, nil
		}
		v.writable = true
	case "storage/destination/abort", "storage/source/release":
		*v = volume{}
	case "storage/destination/release":
		v.replica = 0
	default:
		return "", fmt.Errorf("no such step")
	}
	return finished, nil
}
