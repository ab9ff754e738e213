package active

import (
	"fmt"
	"strings"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// String tells a person what the replica knows of itself and of the others, and what it waits for.
func (r *Replica) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, record of epoch %d of %s", r.role, r.record.Epoch, r.record.Primary.Name)
	switch {
	case r.asking:
		b.WriteString(", asks the store to begin")
	case r.restoring != nil:
		b.WriteString(", taking an image")
	case r.diverged:
		b.WriteString(", odd: waits for an image")
	case r.halted:
		b.WriteString(", halted: no majority agrees")
	}
	if r.rn == nil {
		return b.String()
	}
	s := r.rn.BasicStatus()
	fmt.Fprintf(&b, ", term %d led by %q, applied %d of %d", s.GetTerm(), r.names[s.Lead], r.applied, r.handed)
	if !r.leads() {
		return b.String()
	}
	if r.wanted || r.store.wanted {
		b.WriteString(", needs an image")
	}
	r.rn.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		if id == r.o.Self.Incarnation {
			return
		}
		fmt.Fprintf(&b, "; %s has %d, active %v, learner %v, %s", r.names[id], p.Match, p.RecentActive, p.IsLearner, p.State)
		if at, under := r.imaged[id]; under {
			fmt.Fprintf(&b, ", image sent %d ticks ago", r.ticks-at)
		}
	})
	return b.String()
}
