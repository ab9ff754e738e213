package passive_test

import (
	"slices"
	"testing"

	"github.com/godwit-project/godwit/dvs/replica/passive"
)

// forever is a patience that no schedule lives to see the end of.
const forever = 1 << 60

// roads are connections as there really are: each keeps the order of its letters, except that an image takes long and is overtaken by all that is
// short. It loses what is on it when it breaks, all of it and nothing else, and its sender hears of the next one.
type roads [simReplicas][simReplicas]struct{ short, long []letter }

func (r *roads) post(w *world, l letter) {
	road := &r[l.from][l.to]
	switch {
	case w.cut[l.from][l.to]:
	case l.m.Kind == passive.Image:
		road.long = append(road.long, l)
	default:
		road.short = append(road.short, l)
	}
}

func (r *roads) deliver(w *world) {
	pairs := w.rng.Perm(simReplicas * simReplicas)
	k := slices.IndexFunc(pairs, func(k int) bool {
		road := r[k/simReplicas][k%simReplicas]
		return len(road.short)+len(road.long) > 0
	})
	if k < 0 {
		return
	}
	road := &r[pairs[k]/simReplicas][pairs[k]%simReplicas]
	from := &road.short
	if len(road.short) == 0 || len(road.long) > 0 && w.chance(15) {
		from = &road.long
	}
	l := (*from)[0]
	*from = (*from)[1:]
	w.event(l.to, passive.Receive{Message: l.m})
}

// connect replaces the connection from a to b, if there can be one.
func (w *world) connect(a, b int) {
	if w.roads == nil || a == b {
		return
	}
	w.roads[a][b].short, w.roads[a][b].long = nil, nil
	if !w.cut[a][b] {
		w.event(a, passive.Lost{Peer: name(b)})
	}
}

// under returns how many letters are under way.
func (w *world) under() int {
	n := len(w.bag)
	if w.roads != nil {
		for a := range w.roads {
			for _, road := range w.roads[a] {
				n += len(road.short) + len(road.long)
			}
		}
	}
	return n
}

// Whatever is lost is lost with its connection, and no image counts as lost because of the time: so everybody still joins, and soon.
func TestOverConnectionsNothingWaitsForTheImagesPatience(t *testing.T) { runSchedules(t, true) }
