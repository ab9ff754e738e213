package storage

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/godwit-project/godwit/storage/changes"
)

// GroupStatus is a snapshot of a group. Sizes are in bytes.
type GroupStatus struct {
	Name    string
	Epoch   uint64
	Volumes []string
	// Wanted is the mode that was set, Mode the one that holds: flush and sync hold once all that was written before is at
	// the standby, and fall back to async without it.
	Wanted, Mode string
	Connected    bool
	// Lag is what the standby lacks, LagTime the age of the oldest write among it.
	Lag     int64
	LagTime time.Duration
	// Point is the standby's last consistent point as far as it is known here, 0 for none, and PointTime when this end was
	// there.
	Point     uint64
	PointTime time.Time
	// Throttled is the number of writers that are being slowed at the bounds, Slowed how long writers were in all.
	Throttled int
	Slowed    time.Duration
	// Overflow says that the link was down for so long that changes are only remembered.
	Overflow bool
	// Resyncing says that the standby is catching up; writers are not slowed meanwhile. Copied is what it has confirmed
	// since the group began, found equal or shipped, and ETA, if it can be told, how long the rest takes.
	Resyncing bool
	Copied    int64
	ETA       time.Duration
	// Rate is the recent speed of that, bytes per second; Shipped what went over the link in all.
	Rate    int64
	Shipped int64
	// Repaired is what had rotted on the disks here and was put right with the standby's content.
	Repaired int64
	// Lost is what had rotted here before the standby had it: it can be read at neither end until it is written anew.
	Lost int64
	// Err is the last trouble, empty when all is well.
	Err string
}

// Status is a snapshot.
func (g *Group) Status() GroupStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := GroupStatus{
		Name: g.name, Epoch: g.epoch, Wanted: g.mode, Mode: g.actualLocked(), Connected: g.link != nil,
		Lag: g.tracker.Lacking(), LagTime: g.lagLocked(time.Now()), Point: g.point.number, PointTime: g.point.at,
		Throttled: g.throttled, Slowed: g.slowed, Overflow: g.overflown,
		Resyncing: g.tracker.CommittedTo() < g.catchUp, Copied: g.copied, Rate: g.rate.perSecond, Shipped: g.shipped, Repaired: g.repaired,
	}
	for _, m := range g.members {
		st.Volumes = append(st.Volumes, m.v.name)
	}
	if st.Rate > 0 {
		st.ETA = time.Duration(float64(st.Lag) / float64(st.Rate) * float64(time.Second))
	}
	st.Lost = int64(len(g.lost)) * changes.BlockSize
	if err := cmp.Or(g.trouble, g.lostLocked()); err != nil {
		st.Err = err.Error()
	}
	return st
}

// Groups reports on all groups of the store.
func (s *Store) Groups() []GroupStatus {
	s.mu.Lock()
	groups := slices.Collect(maps.Values(s.groups))
	s.mu.Unlock()
	out := make([]GroupStatus, 0, len(groups))
	for _, g := range groups {
		out = append(out, g.Status())
	}
	return out
}

// Standbys reports on all standbys of the store.
func (s *Store) Standbys() []StandbyStatus {
	s.mu.Lock()
	standbys := slices.Collect(maps.Values(s.standby))
	s.mu.Unlock()
	out := make([]StandbyStatus, 0, len(standbys))
	for _, b := range standbys {
		out = append(out, b.Status())
	}
	return out
}
