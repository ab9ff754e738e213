package failover_test

import (
	"errors"
	"slices"

	"github.com/godwit-project/godwit/controller/failover"
)

// The model of what package controller does about leftovers, and about the replication.

// finish is services.finish.
func (c *controller) finish(w *world, j *job, l failover.Leftover) error {
	fate, err := c.askLeftover(w, j, l)
	if fate == failover.Renew {
		w.count.renewed++
		fresh, over := c.epoch(w, j)
		if over != nil {
			return over
		}
		j.pause()
		at := w.leftover(l)
		if at < 0 || !c.leads(w) {
			return errConflict
		}
		left := slices.Clone(w.store.state.Left)
		left[at].Epoch, l.Epoch = fresh, fresh
		w.store.state.Left = left
		fate, err = c.askLeftover(w, j, l)
	}
	if fate != failover.Forget {
		return err
	}
	w.hot = true
	j.pause()
	if !c.leads(w) {
		return errDeposed
	}
	if at := w.leftover(l); at >= 0 {
		w.store.state.Left = slices.Delete(slices.Clone(w.store.state.Left), at, at+1)
		w.note("forgotten: %v", l)
	}
	return nil
}

func (w *world) leftover(l failover.Leftover) int {
	return slices.IndexFunc(w.store.state.Left, func(o failover.Leftover) bool { return o.Agent == l.Agent && o.Epoch == l.Epoch })
}

func (c *controller) askLeftover(w *world, j *job, l failover.Leftover) (failover.Fate, error) {
	j.pause()
	s := w.store.state
	if s.Outdated(l) {
		w.count.outdated++
		return failover.Forget, nil
	}
	j.pause()
	t := call{agent: w.agent(l.Agent), kind: stopTask, epoch: l.Epoch}
	if l.What == failover.Demote {
		t = call{agent: t.agent, kind: standbyTask, epoch: s.Owner.Epoch, serial: l.Epoch}
	}
	err := c.ask(w, j, t)
	outcome := failover.Unknown
	switch {
	case err == nil || w.broken.forgetsUnstopped:
		outcome = failover.Done
	case errors.Is(err, errRefused):
		if outcome = failover.Refused; w.broken.refusedIsDone {
			outcome = failover.Done
		}
	}
	return l.Answered(outcome), err
}

// replicate is services.replicate, of a service whose replica is known.
func (c *controller) replicate(w *world, j *job) {
	j.pause()
	owner, have := w.store.state.Owner, w.store.state.Replica
	if !c.there(w)(have.Host) {
		if serial, err := c.epoch(w, j); err == nil {
			_ = c.ask(w, j, call{agent: w.agent(owner.Host), kind: sourceTask, epoch: owner.Epoch, serial: serial})
		}
		return
	}
	j.pause()
	for _, l := range w.store.state.Left {
		if l.Agent == have.Host && c.finish(w, j, l) != nil {
			return
		}
	}
	serial, err := c.epoch(w, j)
	if err != nil {
		return
	}
	if c.ask(w, j, call{agent: w.agent(have.Host), kind: standbyTask, epoch: owner.Epoch, serial: serial}) == nil {
		_ = c.ask(w, j, call{agent: w.agent(owner.Host), kind: sourceTask, epoch: owner.Epoch, serial: serial})
	}
}
