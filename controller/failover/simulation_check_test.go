package failover_test

import "github.com/godwit-project/godwit/controller/failover"

// look checks the rules after a sub-step.
func (w *world) look() error {
	if w.broke != nil {
		return w.broke
	}
	a, b, s := w.agents[0], w.agents[1], w.store.state
	if a.runs && b.runs && a.home == b.home {
		return w.violate("two hosts run the service under epoch %d", a.home)
	}
	for _, h := range w.agents[:2] {
		switch {
		case !h.runs:
		case h.home > s.Owner.Epoch:
			return w.violate("%s runs under epoch %d, the owner's is %d", h.name, h.home, s.Owner.Epoch)
		case h.home == s.Owner.Epoch && h.name != s.Owner.Host:
			return w.violate("%s runs under the epoch of %s", h.name, s.Owner.Host)
		case h.home < s.Owner.Epoch && h.name != s.Owner.Host && !w.fences(h):
			return w.violate("%s runs under epoch %d, which is over, and nobody is going to stop it", h.name, h.home)
		}
	}
	if !w.moved {
		return nil
	}
	w.moved = false
	return w.nothingIsLost()
}

// fences says whether the store knows that the host has to be stopped.
func (w *world) fences(h *agent) bool {
	for _, l := range w.store.state.Left {
		if l.Agent == h.name && (l.What == failover.Demote || l.What == failover.RemoveAll) {
			return true
		}
	}
	return false
}

// nothingIsLost: every write that was acknowledged is on a primary, or was kept when that was fenced.
func (w *world) nothingIsLost() error {
	for n := 1; n <= w.writes; n++ {
		found := false
		for _, h := range w.agents[:2] {
			found = found || h.volume.role == primary && h.volume.has(n)
			for _, k := range h.kept {
				found = found || k.has(n)
			}
		}
		if !found {
			return w.violate("write %d was acknowledged, and is neither in use nor kept", n)
		}
	}
	return nil
}

// sharing checks, when a host starts on the external disk, that the other one was stopped if it was there all the time.
func (w *world) sharing(a, other *agent, epoch uint64) {
	if other.runs && other.home < epoch && other.attended != nil && other.attended == other.session {
		_ = w.violate("%s is started on the disk that %s uses, which has answered all the time", a.name, other.name)
	}
}

// atRest checks what has become of it when all are there and nothing moves.
func (w *world) atRest() {
	s := w.store.state
	owner := w.agent(s.Owner.Host)
	switch {
	case s.Phase != failover.Running:
		_ = w.violate("at rest it is %s: %s", s.Phase, s.Message)
	case len(s.Left) > 0:
		_ = w.violate("at rest there is still left: %v", s.Left)
	case !owner.runs || owner.home != s.Owner.Epoch:
		_ = w.violate("at rest %s does not run under epoch %d", owner.name, s.Owner.Epoch)
	}
	for _, x := range w.agents {
		switch {
		case x.edge && x.routes != (x.site == s.Owner.Site):
			_ = w.violate("at rest %s leads clients to it: %v", x.name, x.routes)
		case !x.edge && x != owner && x.runs:
			_ = w.violate("at rest %s still runs", x.name)
		case !x.edge && x != owner && !w.external && (x.volume.role != standby || x.volume.epoch != s.Owner.Epoch || !x.volume.complete):
			_ = w.violate("at rest the replica at %s is %+v", x.name, x.volume)
		}
		w.count.tails += len(x.kept)
	}
}
