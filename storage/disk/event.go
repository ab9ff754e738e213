package disk

import (
	"errors"
	"fmt"
	"syscall"
)

// EventKind says what has happened.
type EventKind string

// What an operator should know.
const (
	EventReadError  EventKind = "read-error"  // a read failed; the disk goes on
	EventWriteError EventKind = "write-error" // a write failed; the disk goes on
	EventNoSpace    EventKind = "no-space"    // a write found no room; the disk goes on
	EventCorrupt    EventKind = "corrupt"     // a block is not what was written
	EventRepaired   EventKind = "repaired"    // a block was put right from elsewhere
	EventFailed     EventKind = "failed"      // stable storage failed: no more writes
	EventUnverified EventKind = "unverified"  // after a power loss or a foreign change, this much cannot be verified
	EventFenced     EventKind = "fenced"      // somebody with a newer epoch has the disk
)

// Event is something that an operator should know.
type Event struct {
	Kind EventKind
	// Path of the disk.
	Path string
	// Off and Length are the range concerned, in bytes; the whole disk if Length is 0.
	Off, Length int64
	Err         error
}

func (e Event) String() string {
	text := fmt.Sprintf("disk %s: %s", e.Path, e.Kind)
	if e.Length > 0 {
		text += fmt.Sprintf(": %d bytes at %d", e.Length, e.Off)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (d *Disk) report(kind EventKind, off, length int64, err error) {
	d.opts.Notify(Event{Kind: kind, Path: d.path, Off: off, Length: length, Err: err})
}

func (d *Disk) reportWrite(off, length int64, err error) {
	kind := EventWriteError
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		kind = EventNoSpace
	}
	d.report(kind, off, length, err)
}
