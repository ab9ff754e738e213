package storage

import (
	"time"

	"github.com/godwit-project/godwit/storage/changes"
	"github.com/godwit-project/godwit/storage/nbd"
)

var _ nbd.Prompt = client{}

// TryReadAt is ReadAt if the gate is open and the page cache has the range.
func (c client) TryReadAt(p []byte, off int64) (done bool, err error) {
	if !c.v.gate.tryEnter() {
		return false, nil
	}
	defer c.v.gate.leave()
	done, err = c.v.disk.TryReadAt(p, off)
	return done, answer(err)
}

// TryWriteAt is WriteAt if nobody is in the way, here or elsewhere: the gate is open, the range is free, and no other end has to
// have the write before it is answered.
func (c client) TryWriteAt(p []byte, off int64) (done bool, err error) {
	return c.tryWriteAt(time.Now(), p, off)
}

// tryWriteAt is TryWriteAt for who has looked at the clock already.
func (c client) tryWriteAt(now time.Time, p []byte, off int64) (done bool, err error) {
	v, n := c.v, int64(len(p))
	if n == 0 || !v.wholeAt(off, n) || !v.gate.tryEnter() { // a part of a block may have to be read first
		return false, nil
	}
	defer v.gate.leave()
	if *v.role.Load() == RoleReplica {
		return false, nil
	}
	first := off / changes.BlockSize * changes.BlockSize
	held, ok := v.ranges.tryLock(first, wholeBlocks(off+n-first))
	if !ok {
		return false, nil
	}
	defer v.ranges.unlock(held)
	src, m := v.source.Load(), v.member.Load()
	if src != nil && src.mirrors() || m != nil && !m.tryBegin(now, off, n) {
		return false, nil
	}
	done, err = v.disk.TryWriteAt(p, off)
	if src != nil && done {
		src.mark(off, n)
	}
	return done, answer(err)
}

// mirrors says that writes go on the stream themselves. One that holds its range, and is told no, is in time to mark it.
func (s *source) mirrors() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mirroring
}

// wholeAt says that a range on the volume consists of whole blocks.
func (v *Volume) wholeAt(off, n int64) bool {
	return off%changes.BlockSize == 0 && (n%changes.BlockSize == 0 || off+n == v.size)
}

// tryBegin is begin for a write that will wait for nobody; false if it has to. What must be put aside before is, if it is in the page
// cache: in memory if there is room, else in the file, which takes it into the page cache as well.
func (m *member) tryBegin(now time.Time, off, length int64) bool {
	g := m.group
	if g == nil {
		m.marks.Mark(off, length)
		return true
	}
	g.mu.Lock()
	if g.waiting && g.mode == ModeSync || g.exceededLocked(now) {
		g.mu.Unlock()
		return false
	}
	var few [8]changes.Span
	spans := g.tracker.Owed(m.index, off, length, few[:0])
	if len(spans) == 0 {
		g.markLocked(m.index, off, length)
		g.mu.Unlock()
		return true
	}
	into, breaks := g.arena, g.breaks
	first, ok := into.reserve(spans)
	number := g.markLocked(m.index, off, length)
	g.mu.Unlock()
	if ok {
		return m.remember(into, first, spans, breaks, m.v.disk.TryReadAt)
	}
	for _, s := range spans {
		if done, err := m.save(s, m.v.disk.TryReadAt); !done || err != nil {
			return false
		}
		m.saved(s, number, breaks, nil)
	}
	return true
}
