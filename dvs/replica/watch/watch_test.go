package watch_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/godwit-project/godwit/dvs/replica/state"
	"github.com/godwit-project/godwit/dvs/replica/watch"
)

var a, b, c = state.Member{Name: "a", Incarnation: 1}, state.Member{Name: "b", Incarnation: 2}, state.Member{Name: "c", Incarnation: 3}

func record(epoch uint64, synced ...state.Member) state.Record {
	return state.Record{Epoch: epoch, Primary: synced[0], Synced: synced}
}

// story runs a watcher of grace 10 and calm 100 through moments, and tells what it decided, and when.
func story(self string, end int64, happens func(w *watch.Watcher, now int64) []watch.Decision) string {
	var peers []string
	for _, p := range []string{"a", "b", "c"} {
		if p != self {
			peers = append(peers, p)
		}
	}
	w := watch.New(watch.Options{Self: self, Peers: peers, Grace: 10, Calm: 100})
	var said []string
	for now := int64(1000); now < 1000+end; now++ {
		for _, d := range append(happens(w, now-1000), w.Tick(now)...) {
			what := fmt.Sprintf("%d %s", now-1000, d.Verdict)
			if d.Primary.Name != "" {
				what += " " + d.Primary.Name
			}
			if len(d.Without) > 0 {
				what += " without " + strings.Join(d.Without, ",")
			}
			said = append(said, what)
		}
	}
	return strings.Join(said, "; ")
}

func TestVerdicts(t *testing.T) {
	lives := func(w *watch.Watcher, now int64, names ...string) (all []watch.Decision) {
		for _, n := range names {
			all = append(all, w.Heard(n, now+1000)...)
		}
		return all
	}
	for _, s := range []struct {
		name, self, want string
		end              int64
		happens          func(w *watch.Watcher, now int64) []watch.Decision
	}{
		{"nobody is suspected while the primary speaks", "b", "0 rebind a", 400, func(w *watch.Watcher, now int64) []watch.Decision {
			return append(w.Record(record(3, a, b, c), now+1000), lives(w, now, "a", "c")...)
		}},
		{"a dead primary is replaced by the first of the synced", "b", "0 rebind a; 61 hold a; 61 promote; 71 promote; 75 rebind b", 200, func(w *watch.Watcher, now int64) []watch.Decision {
			rec := record(3, a, b, c)
			alive := []string{"a", "c"}
			if now > 50 {
				alive = alive[1:]
			}
			if now >= 75 {
				rec = record(4, b, c)
			}
			return append(w.Record(rec, now+1000), lives(w, now, alive...)...)
		}},
		{"the second waits for the first", "c", "0 rebind a; 141 hold a; 141 look; 151 promote", 160, func(w *watch.Watcher, now int64) []watch.Decision {
			alive := []string{"a", "b"}
			if now > 130 {
				alive = alive[1:]
			}
			return append(w.Record(record(3, a, b, c), now+1000), lives(w, now, alive...)...)
		}},
		{"the second does not wait for one that is dead too", "c", "0 rebind a; 141 hold a; 141 promote without b; 151 promote without b", 160, func(w *watch.Watcher, now int64) []watch.Decision {
			alive := []string{"a", "b"}
			if now > 130 {
				alive = nil
			}
			return append(w.Record(record(3, a, b, c), now+1000), lives(w, now, alive...)...)
		}},
		{"a partition that heals is a rollback", "c", "0 rebind a; 141 hold a; 141 look; 146 keep a", 300, func(w *watch.Watcher, now int64) []watch.Decision {
			alive := []string{"a", "b"}
			if now > 130 && now < 146 {
				alive = alive[1:]
			}
			return append(w.Record(record(3, a, b, c), now+1000), lives(w, now, alive...)...)
		}},
		{"one that is not synced never asks, it only looks", "c", "0 rebind a; 141 hold a; 141 look; 151 look", 160, func(w *watch.Watcher, now int64) []watch.Decision {
			alive := []string{"a", "b"}
			if now > 130 {
				alive = nil
			}
			return append(w.Record(record(3, a, b), now+1000), lives(w, now, alive...)...)
		}},
		{"one that was listed without being told finds out", "c", "0 rebind a; 141 hold a; 141 look; 143 promote without b; 153 promote without b", 160, func(w *watch.Watcher, now int64) []watch.Decision {
			alive, rec := []string{"a", "b"}, record(3, a, b)
			if now > 130 {
				alive = nil
			}
			if now >= 143 { // what it has read
				rec = record(4, a, b, c)
			}
			return append(w.Record(rec, now+1000), lives(w, now, alive...)...)
		}},
		{"beside clients it holds, keeps and rebinds", "", "0 rebind a; 141 hold a; 150 rebind b", 300, func(w *watch.Watcher, now int64) []watch.Decision {
			if now >= 150 {
				return append(w.Record(record(4, b), now+1000), lives(w, now, "b")...)
			}
			if now > 130 {
				return nil
			}
			return append(w.Record(record(3, a, b), now+1000), lives(w, now, "a")...)
		}},
		{"nothing is known before the store has spoken", "a", "", 300, func(*watch.Watcher, int64) []watch.Decision { return nil }},
		{"the first begins a group", "a", "0 found; 10 found", 15, func(w *watch.Watcher, now int64) []watch.Decision {
			return w.Record(state.Record{}, now+1000)
		}},
	} {
		t.Run(s.name, func(t *testing.T) {
			if got := story(s.self, s.end, s.happens); got != s.want {
				t.Errorf("got  %s\nwant %s", got, s.want)
			}
		})
	}
}

// A primary that is silent again and again, as over a bad line, changes ever more rarely.
func TestFlappingIsDamped(t *testing.T) {
	changes := 0
	epoch, primary := uint64(3), a
	story("b", 20000, func(w *watch.Watcher, now int64) (all []watch.Decision) {
		all = w.Record(state.Record{Epoch: epoch, Primary: primary, Synced: []state.Member{a, b}}, now+1000)
		for _, d := range w.Tick(now + 1000) {
			if d.Verdict == watch.Promote { // it is, and the other takes it back at once
				changes++
				epoch, primary = epoch+2, state.Member{Name: "a", Incarnation: epoch}
			}
		}
		return all
	})
	if changes < 20 || changes > 60 {
		t.Errorf("%d changes in 200 times the calm", changes)
	}
}
