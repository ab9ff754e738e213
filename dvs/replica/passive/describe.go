package passive

import (
	"fmt"
	"strings"
	"time"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// String tells a person what the replica knows of itself and of the others, and what it waits for.
func (r *Replica) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s in epoch %d of %s, synced %v, committed %d of %d", r.role, r.record.Epoch, r.record.Primary.Name, names(r.record.Synced), r.committed, r.history.last().Seq)
	switch {
	case r.restoring:
		b.WriteString(", taking an image")
	case !r.valid || r.diverged:
		b.WriteString(", without a state that counts")
	}
	if r.attempt != nil {
		fmt.Fprintf(&b, ", asks the store for epoch %d with %v", r.attempt.Epoch, names(r.attempt.Synced))
	}
	if r.role != Primary {
		return b.String()
	}
	if r.imaging != nil {
		b.WriteString(", waits for an image of its machine")
	}
	for _, name := range r.o.Peers {
		p := r.peers[name]
		if p == nil {
			fmt.Fprintf(&b, "; %s is not heard", name)
			continue
		}
		fmt.Fprintf(&b, "; %s heard %v ago, has %d", name, r.since(p.heard), p.match)
		switch {
		case p.wants:
			b.WriteString(", wants an image")
		case p.imaged != 0:
			fmt.Fprintf(&b, ", image sent %v ago", r.since(p.imaged))
		case !p.valid:
			b.WriteString(", without a state that counts")
		}
	}
	return b.String()
}

func (r *Replica) since(at int64) time.Duration {
	return time.Duration(r.now - at).Round(time.Millisecond)
}

func names(all []state.Member) (names []string) {
	for _, m := range all {
		names = append(names, m.Name)
	}
	return names
}
