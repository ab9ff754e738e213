package replicatest

import (
	"math/rand/v2"
	"slices"
)

// Roads are connections between any two of so many replicas, as there really are: each keeps the order of its messages, except that what is
// long takes long, and is overtaken by all that is short. It loses what is on it when it breaks, all of it and nothing else.
type Roads[M any] struct {
	replicas int
	long     func(M) bool
	roads    []road[M]
}

// longFirst is in how many of a hundred cases what is long arrives though something short waits.
const longFirst = 15

type road[M any] struct{ short, long []M }

// NewRoads builds them, with nothing on them.
func NewRoads[M any](replicas int, long func(M) bool) *Roads[M] {
	return &Roads[M]{replicas: replicas, long: long, roads: make([]road[M], replicas*replicas)}
}

func (r *Roads[M]) between(from, to int) *road[M] { return &r.roads[from*r.replicas+to] }

// Post puts a message on its way.
func (r *Roads[M]) Post(from, to int, m M) {
	if road := r.between(from, to); r.long(m) {
		road.long = append(road.long, m)
	} else {
		road.short = append(road.short, m)
	}
}

// Take has a message arrive, on a road that is chosen at random. There is none when nothing is under way.
func (r *Roads[M]) Take(rng *rand.Rand) (to int, m M, ok bool) {
	roads := rng.Perm(len(r.roads))
	k := slices.IndexFunc(roads, func(k int) bool { return len(r.roads[k].short)+len(r.roads[k].long) > 0 })
	if k < 0 {
		return 0, m, false
	}
	road := &r.roads[roads[k]]
	from := &road.short
	if len(road.short) == 0 || len(road.long) > 0 && rng.IntN(100) < longFirst {
		from = &road.long
	}
	m, *from = (*from)[0], (*from)[1:]
	return roads[k] % r.replicas, m, true
}

// Break loses what is under way from one to the other.
func (r *Roads[M]) Break(from, to int) { *r.between(from, to) = road[M]{} }

// Len returns how many messages are under way.
func (r *Roads[M]) Len() int {
	n := 0
	for _, road := range r.roads {
		n += len(road.short) + len(road.long)
	}
	return n
}
