// Package watch decides what to make of a primary that is silent, in the manner of RADAR: hold its callers, promote a backup, or go on as before.
// Pure: events carry the time, decisions are returned.
//
// Silence alone changes nothing: Promote is only the advice to ask the store, whose compare-and-swap decides, and callers are sent elsewhere
// (Rebind) only by what the store's record says. Against flapping: silence must last, candidates wait in order, and after each change of primary
// the next must wait, twice as long if the last ones came quickly.
//
// The record that a replica knows may be an old one: the primary tells of a new one, and may die before it does. So whoever finds the primary silent
// reads the store (Look), whether it is listed or not: it may have been listed without being told.
package watch

import (
	"slices"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// Verdict is what to do.
type Verdict uint8

// The verdicts.
//
//	           silence                         record names another
//	Trusted ───(Hold)──▶ Suspected ──(Promote)──▶ asked ──(Rebind)──▶ Trusted
//	   ▲──────(Keep)─────────┘◀──────────────────────┘
const (
	Hold    Verdict = 1 // the primary is silent: its callers wait
	Keep    Verdict = 2 // it is there again: they go on with it
	Rebind  Verdict = 3 // the record names another primary, or a newer epoch of it: they go there
	Promote Verdict = 4 // this replica is the first that could take over: ask the store
	Found   Verdict = 5 // there is no group yet, and this replica is the first that could begin it
	Look    Verdict = 6 // the primary is silent, and it is not this replica's turn: read the record, the one that is known may be old
)

// String returns the word for people.
func (v Verdict) String() string {
	return [...]string{"none", "hold", "keep", "rebind", "promote", "found", "look"}[min(v, Look)]
}

// Decision is a verdict and whom it is about.
type Decision struct {
	Verdict Verdict
	Primary state.Member // Hold, Keep, Rebind
	Epoch   uint64       // Rebind
	Without []string     // Promote: who is silent too
}

// Options of a watcher. Times are nanoseconds.
type Options struct {
	Self  string   // the own replica; "" for a watcher beside clients, which never promotes
	Peers []string // the other replicas
	// Grace is how long silence lasts before it counts. Each candidate waits as long again for those before it.
	Grace int64
	// Calm is the pause after a change of primary before another may be asked for. It doubles with every change that comes within four of it,
	// up to 4 times: one that has really died after some changes must not be waited for much longer.
	Calm int64
}

// Watcher watches one group. It is not safe for concurrent use.
type Watcher struct {
	o       Options
	now     int64
	begun   bool
	start   int64 // when it began
	known   bool  // a record was seen, or the store said that there is none
	record  state.Record
	heard   map[string]int64
	held    bool
	asked   int64 // when something was last advised
	looked  int64 // when the store was last to be read
	changed int64 // when the primary last changed
	quick   int64 // how many changes came quickly
}

// New returns a watcher that has heard nothing.
func New(o Options) *Watcher { return &Watcher{o: o, heard: map[string]int64{}} }

// Heard notes a sign of life of a replica.
func (w *Watcher) Heard(name string, now int64) []Decision {
	w.heard[name] = now
	if w.held && name == w.record.Primary.Name {
		w.held = false
		return []Decision{{Verdict: Keep, Primary: w.record.Primary}}
	}
	return nil
}

// Record notes what the store holds, or that it holds nothing (the zero record).
func (w *Watcher) Record(c state.Record, now int64) []Decision {
	first := !w.known
	w.known = true
	if c.Epoch <= w.record.Epoch {
		return nil
	}
	old := w.record
	w.record = c
	if c.Primary == old.Primary {
		return nil // others came or went
	}
	if !first && old.Epoch != 0 {
		if now-w.changed < 4*w.calm() {
			w.quick = min(w.quick+1, 2)
		} else {
			w.quick = 0
		}
		w.changed = now
	}
	w.held = false
	w.heard[c.Primary.Name] = now
	return []Decision{{Verdict: Rebind, Primary: c.Primary, Epoch: c.Epoch}}
}

func (w *Watcher) calm() int64 { return w.o.Calm << w.quick }

// Tick tells the time.
func (w *Watcher) Tick(now int64) (all []Decision) {
	w.now = now
	if !w.begun {
		w.begun, w.start = true, now
		for _, p := range w.o.Peers {
			w.heard[p] = now // nobody is suspected before there was time to hear of them
		}
		w.changed, w.asked = now-w.o.Calm, now-w.o.Grace
	}
	if !w.known || now-w.asked < w.o.Grace {
		return nil
	}
	if w.record.Epoch == 0 {
		if w.o.Self != "" && now-w.start >= w.o.Grace*int64(w.before(append([]string{w.o.Self}, w.o.Peers...))) {
			w.asked = now
			all = append(all, Decision{Verdict: Found})
		}
		return all
	}
	primary := w.record.Primary
	if primary.Name == w.o.Self || !w.silent(primary.Name) {
		return nil
	}
	if !w.held {
		w.held = true
		all = append(all, Decision{Verdict: Hold, Primary: primary})
	}
	switch d, due := w.promote(); {
	case due:
		w.asked = now
		all = append(all, d)
	case w.o.Self != "" && now-w.looked >= w.o.Grace:
		w.looked = now
		all = append(all, Decision{Verdict: Look})
	}
	return all
}

func (w *Watcher) silent(name string) bool { return w.now-w.heard[name] > w.o.Grace }

// before counts who comes before this replica in the order of names.
func (w *Watcher) before(names []string) int {
	n := 0
	for _, name := range names {
		if name < w.o.Self {
			n++
		}
	}
	return n
}

// promote tells whether it is this replica's turn to take over.
func (w *Watcher) promote() (Decision, bool) {
	d := Decision{Verdict: Promote}
	var candidates []string
	for _, m := range w.record.Synced {
		switch {
		case m == w.record.Primary:
		case m.Name != w.o.Self && w.silent(m.Name):
			d.Without = append(d.Without, m.Name)
		default:
			candidates = append(candidates, m.Name)
		}
	}
	if w.o.Self == "" || !slices.Contains(candidates, w.o.Self) || w.now-w.changed < w.calm() {
		return d, false
	}
	turn := w.o.Grace * int64(1+w.before(candidates))
	return d, w.now-w.heard[w.record.Primary.Name] > turn
}
