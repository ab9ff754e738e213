package active_test

import (
	"testing"

	"github.com/godwit-project/godwit/dvs/replica/active"
)

// connect replaces the connection from a to b, if there can be one; its sender hears of it.
func (w *world) connect(a, b int) {
	if w.roads == nil || a == b {
		return
	}
	w.roads.Break(a, b)
	if !w.cut[a][b] {
		w.event(a, active.Lost{Peer: name(b)})
	}
}

// under returns how many letters are under way.
func (w *world) under() int {
	if w.roads != nil {
		return w.roads.Len()
	}
	return len(w.bag)
}

// Whatever is lost is lost with its connection, and no image counts as lost because of the time: so everybody still joins, and soon.
func TestOverConnectionsNothingWaitsForTheImagesPatience(t *testing.T) { runSchedules(t, true) }
