package storage

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Keep has the standby name a point, of this moment or later, as a cut, and keep it for so long (0: for ever). It returns when the cut
// is there; [Standby.Cuts] lists it.
func (g *Group) Keep(ctx context.Context, name string, keepFor time.Duration) error {
	k := &keep{seconds: uint64((keepFor + time.Second - 1) / time.Second), name: name}
	g.mu.Lock()
	number, _ := g.tracker.Current()
	g.keeps = append(g.keeps, k)
	g.wanted = max(g.wanted, number)
	g.work.Signal()
	g.mu.Unlock()
	err := g.await(ctx, func() (bool, error) { return !slices.Contains(g.keeps, k), k.err })
	if err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.dropLocked(k)
		return fmt.Errorf("keep cut %s of group %s: %w", name, g.name, err)
	}
	return nil
}

// unsentLocked are the cuts that go with the next epoch.
func (g *Group) unsentLocked() (unsent []*keep) {
	for _, k := range g.keeps {
		if k.link == nil {
			unsent = append(unsent, k)
		}
	}
	return unsent
}

func (g *Group) dropLocked(k *keep) {
	g.keeps = slices.DeleteFunc(g.keeps, func(other *keep) bool { return other == k })
}

// keptLocked takes the standby's word that it has so many frames of a link.
func (g *Group) keptLocked(l *groupLink, taken uint64) {
	g.keeps = slices.DeleteFunc(g.keeps, func(k *keep) bool { return k.link == l && k.seq <= taken })
	g.changed.Broadcast()
}

// resendLocked is called when a link breaks: whether what it carried has arrived is not known. A cut that is there already is a
// success.
func (g *Group) resendLocked(l *groupLink, why error) {
	for _, k := range slices.Clone(g.keeps) {
		if k.link != l {
			continue
		}
		k.link = nil
		if k.tries++; k.tries >= keepTries {
			k.err = fmt.Errorf("the link broke %d times over it: %w", k.tries, why)
			g.dropLocked(k)
		}
	}
}
