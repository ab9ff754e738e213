// Package state holds what both kinds of replication replicate: requests, replies and the table of those already given, changes and images of
// a machine, the record of a group. Values without I/O, clock or goroutine, with an encoding that is the same everywhere.
package state

import (
	"cmp"
	"maps"
	"slices"
)

// Request is one call of a client. A caller has one request outstanding at a time; Seq grows with each.
type Request struct {
	Caller, Seq uint64 // Caller is an incarnation: never used by another one
	Payload     []byte
}

// Reply answers the request of Caller with that Seq.
type Reply struct {
	Caller, Seq uint64
	Failed      bool // the machine refused; Payload says why
	Payload     []byte
}

// Page is a piece of a machine's memory.
type Page struct {
	Number uint64
	Data   []byte
}

// Delta is what has changed in a machine.
type Delta struct {
	Size    uint64 // of the memory, in pages
	Pages   []Page
	Globals []byte
}

// Empty tells whether nothing has changed: so it is of an update that only forgets callers.
func (d *Delta) Empty() bool { return d.Size == 0 && len(d.Pages) == 0 && len(d.Globals) == 0 }

// Position is a place in the history of a group: the epoch in which an update was made, and its number. Numbers have no gaps. Two replicas
// with an update at the same position have the same history up to there.
type Position struct{ Epoch, Seq uint64 }

// Update is one step of the history: a change of the machine and of the table, together.
type Update struct {
	At      Position
	Replies []Reply  // at most one for each caller
	Forget  []uint64 // callers that have ended
	Delta   Delta
}

// Size returns about how many bytes it has.
func (u *Update) Size() int {
	n := 64 + len(u.Delta.Globals) + 8*len(u.Forget)
	for _, p := range u.Delta.Pages {
		n += 16 + len(p.Data)
	}
	for _, r := range u.Replies {
		n += 24 + len(r.Payload)
	}
	return n
}

// Image is everything at one position.
type Image struct {
	At      Position
	Table   Table
	Machine []byte
}

// Table remembers the latest reply to each caller: what makes a repeated request harmless.
type Table map[uint64]Reply

// Apply takes in an update's replies.
func (t Table) Apply(u *Update) {
	for _, r := range u.Replies {
		t[r.Caller] = r
	}
	for _, c := range u.Forget {
		delete(t, c)
	}
}

// Clone copies the table. Payloads are shared.
func (t Table) Clone() Table { return maps.Clone(t) }

// Sorted returns the replies by caller.
func (t Table) Sorted() []Reply {
	return slices.SortedFunc(maps.Values(t), func(a, b Reply) int { return cmp.Compare(a.Caller, b.Caller) })
}

// Member is one life of one replica: a process that begins again has another incarnation, for it has lost its state.
type Member struct {
	Name        string
	Incarnation uint64
}

// Record is what the store holds of a group, changed by compare-and-swap alone. Each change takes a new Epoch.
type Record struct {
	Epoch   uint64
	Primary Member
	Synced  []Member // have every update that was ever answered; the primary is one of them
}

// Has tells whether m is one of the synced.
func (r Record) Has(m Member) bool { return slices.Contains(r.Synced, m) }

// Equal compares.
func (r Record) Equal(o Record) bool {
	return r.Epoch == o.Epoch && r.Primary == o.Primary && slices.Equal(r.Synced, o.Synced)
}
