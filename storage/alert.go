package storage

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/godwit-project/godwit/storage/disk"
)

// The kinds of faults that disks report.
const (
	FaultRead     = string(disk.EventReadError)  // a read failed
	FaultWrite    = string(disk.EventWriteError) // a write failed
	FaultNoSpace  = string(disk.EventNoSpace)    // a write found no room
	FaultCorrupt  = string(disk.EventCorrupt)    // a block was not what had been written
	FaultRepaired = string(disk.EventRepaired)   // such a block was put right from elsewhere
	FaultFailed   = string(disk.EventFailed)     // stable storage failed: the disk takes no writes any more
)

// Alert is a kind of fault that a disk has reported, and when it did so last.
type Alert struct {
	Kind string
	Time time.Time
	// Count is how often, since the store was opened.
	Count int
	// Text is the last report.
	Text string
}

// faultLog remembers the last report of each kind.
type faultLog struct {
	mu  sync.Mutex
	all map[string]Alert
}

// note takes a report. What was unverified is no fault.
func (f *faultLog) note(e disk.Event) {
	if e.Kind == disk.EventUnverified {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = make(map[string]Alert)
	}
	kind := string(e.Kind)
	f.all[kind] = Alert{Kind: kind, Time: time.Now(), Count: f.all[kind].Count + 1, Text: e.String()}
}

// list returns them, the last first; that the disk takes no writes any more is among them for as long as it is so.
func (f *faultLog) list(failed error) []Alert {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Alert
	for _, a := range f.all {
		if a.Kind != FaultFailed {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b Alert) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.Kind, b.Kind)) })
	if failed != nil {
		a := f.all[FaultFailed]
		a.Kind, a.Text = FaultFailed, failed.Error()
		out = append([]Alert{a}, out...)
	}
	return out
}

// Alerts are the faults of the volume's disk, since the store was opened.
func (v *Volume) Alerts() []Alert {
	var failed error
	_ = v.withDisk(func() error { // of a closed disk nothing is known
		failed = v.disk.Failed()
		return nil
	})
	return v.faults.list(failed)
}

// Alerts are the faults of the disk while it was used here.
func (x *External) Alerts() []Alert {
	var failed error
	if x.gate.tryEnter() {
		if d := x.disk.Load(); d != nil {
			failed = d.Failed()
		}
		x.gate.leave()
	}
	return x.faults.list(failed)
}
