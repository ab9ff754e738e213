package storage

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/godwit-project/godwit/storage/changes"
)

// member is a volume's place in its group. A volume that was in a group goes on to mark what is written, so that the group can be
// taken up again after a restart.
type member struct {
	v     *Volume
	marks *regions
	group *Group // nil: only marks
	index int
	aside *os.File // content that the epoch on its way still owes, at its place
	spilt int64    // what was written to it since it was emptied, in bytes; under Group.mu
}

// newMember makes a member with an aside file that nobody else sees.
func newMember(g *Group, v *Volume, index int, marks *regions) (*member, error) {
	f, err := os.CreateTemp(v.dir, "aside-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	return &member{v: v, marks: marks, group: g, index: index, aside: f}, nil
}

// asideKept is what an aside file may hold of epochs that are over, in bytes: emptying it waits for the disk.
const asideKept = 64 << 20

// empty gives back what is aside, if it is much. No epoch may owe anything.
func (m *member) empty() error {
	m.group.mu.Lock()
	much := m.spilt > asideKept
	if much {
		m.spilt = 0
	}
	m.group.mu.Unlock()
	if much {
		return m.aside.Truncate(0)
	}
	return nil
}

// copyBuffer is for copies of content that is about to be overwritten.
var copyBuffer = sync.Pool{New: func() any { return new([frameRun]byte) }}

// begin comes before every change of the volume, which holds the range in whole blocks. It returns the epoch that the change
// belongs to.
func (m *member) begin(off, length int64) uint64 {
	g := m.group
	if g == nil {
		m.marks.Mark(off, length)
		return 0
	}
	var few [8]changes.Span
	g.mu.Lock()
	number := g.markLocked(m.index, off, length)
	spans := g.tracker.Owed(m.index, off, length, few[:0])
	breaks, inMemory := g.breaks, g.arena
	first, room := 0, false
	if len(spans) > 0 {
		first, room = inMemory.reserve(spans)
	}
	g.mu.Unlock()
	if room && m.remember(inMemory, first, spans, breaks, m.readNow) {
		return number
	}
	for _, s := range spans {
		_, err := m.save(s, m.readNow)
		m.saved(s, number, breaks, err)
	}
	return number
}

// readNow reads, however long that takes.
func (m *member) readNow(p []byte, off int64) (bool, error) {
	_, err := m.v.disk.ReadAt(p, off)
	return err == nil, err
}

// saved counts a range that was put aside in the file for the epoch before number; if that failed, the epoch is given up.
func (m *member) saved(s changes.Span, number, breaks uint64, err error) {
	g := m.group
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case breaks != g.breaks: // the epoch that owed it is given up
	case err != nil:
		g.breakLocked(g.link, fmt.Errorf("put aside what epoch %d of group %s owes: %w", number-1, g.name, err))
	default:
		g.tracker.Aside(m.index, s.Off, s.Length)
		m.spilt += s.Length
	}
}

// remember copies spans into memory that was reserved for them, and says whether it could read them all.
func (m *member) remember(into *arena, first int, spans []changes.Span, breaks uint64, read func(p []byte, off int64) (bool, error)) bool {
	done, i := true, first
	for _, s := range spans {
		for off := s.Off; done && off < s.Off+s.Length; off += changes.BlockSize {
			var err error
			done, err = read(into.block(i)[:min(changes.BlockSize, s.Off+s.Length-off)], off)
			done = done && err == nil
			i++
		}
	}
	g := m.group
	g.mu.Lock()
	defer g.mu.Unlock()
	into.saving--
	if !done || breaks != g.breaks { // the epoch that owed it is given up
		return done
	}
	into.keep(m.index, first, spans)
	for _, s := range spans {
		g.tracker.Aside(m.index, s.Off, s.Length)
	}
	return true
}

// save copies a range into the file of what is aside, as far as read reads.
func (m *member) save(s changes.Span, read func(p []byte, off int64) (bool, error)) (done bool, err error) {
	buf := copyBuffer.Get().(*[frameRun]byte)
	defer copyBuffer.Put(buf)
	for at := int64(0); at < s.Length; {
		p := buf[:min(s.Length-at, int64(len(buf)))]
		if done, err := read(p, s.Off+at); !done || err != nil {
			return false, err
		}
		if _, err := m.aside.WriteAt(p, s.Off+at); err != nil {
			return false, err
		}
		at += int64(len(p))
	}
	return true, nil
}

// admit slows a change down while the group's bounds are exceeded. It comes before the gate, so that nothing waits inside.
func (m *member) admit(ctx context.Context) {
	if m.group != nil {
		m.group.throttle(ctx.Done())
	}
}

// mirrors says that every change is to be on stable storage at both ends, and asks the other end for it, so that both work at the
// same time.
func (m *member) mirrors() bool {
	return m.group != nil && m.group.mirrors()
}

// settled waits as the mode wants it: in sync mode for every change, in flush mode for one with FUA.
func (m *member) settled(number uint64, fua bool) {
	if m.group != nil {
		m.group.settle(number, fua)
	}
}
