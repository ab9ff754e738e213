package storage

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/godwit-project/godwit/storage/wire"
)

// groupRun is how much one data frame of a group carries at most, in bytes.
const groupRun = 256 << 10

// Short runs are taken together, under one lock of the group and of the range that they lie in: what is gathered for one frame each.
const (
	// shortRun is how long such a run is at most, in bytes; beyond that it is worth looking for zeroes before it is read.
	shortRun = 64 << 10
	// togetherRuns and togetherSpan bound what writers may have to wait for: so many runs, within so many bytes of the volume.
	togetherRuns = 32
	togetherSpan = 512 << 10
)

// handOver puts on the stream what the epoch owes of a volume.
func (g *Group) handOver(l *groupLink, index int) error {
	m := g.members[index]
	cursor := int64(0)
	var runs [togetherRuns]owedRun
	for {
		g.mu.Lock()
		broken, wants := l.broken, len(l.wants) > 0
		off, n := g.tracker.Next(index, cursor, wire.MaxZero, false)
		var short []owedRun
		if n <= shortRun {
			short = g.shortLocked(m, runs[:0], off, n)
		}
		g.mu.Unlock()
		if broken {
			return ErrLink
		}
		if wants {
			if err := g.demand(l); err != nil {
				return err
			}
		}
		if n == 0 {
			return nil
		}
		done, err := g.handShort(l, m, short)
		if err == nil && done == 0 {
			n = min(n, m.v.size-off)
			done, err = g.handRun(l, m, off, n)
			done += off
		}
		if err != nil {
			return err
		}
		cursor = done
	}
}

// owedRun is a range that an epoch owes.
type owedRun struct{ off, n int64 }

// shortLocked finds short runs near the first.
func (g *Group) shortLocked(m *member, runs []owedRun, off, n int64) []owedRun {
	first, content := off, int64(0)
	for n > 0 && n <= shortRun && off >= first && off+n-first <= togetherSpan && content+n <= groupRun && len(runs) < cap(runs) {
		n = min(n, m.v.size-off)
		runs = append(runs, owedRun{off, n})
		content += n
		cursor := off + wholeBlocks(n)
		if cursor >= m.v.size {
			break
		}
		if off, n = g.tracker.Next(m.index, cursor, wire.MaxZero, false); off < cursor {
			break
		}
	}
	return runs
}

// handShort puts short runs on the stream, in order, and returns where it came to; 0 if the first of them needs more care.
func (g *Group) handShort(l *groupLink, m *member, runs []owedRun) (end int64, err error) {
	if len(runs) == 0 {
		return 0, nil
	}
	first, last := runs[0].off, runs[len(runs)-1]
	held := m.v.ranges.lock(first, wholeBlocks(last.off+last.n-first))
	done := 0
	for _, r := range runs {
		at, err := g.readFrame(l, m, r.off, r.n)
		if err != nil { // whatever it is, it will be met again
			break
		}
		g.finish(l, m, r.off, at)
		done++
	}
	g.mu.Lock()
	broken := l.broken
	if !broken {
		for _, r := range runs[:done] {
			g.handedLocked(m, r.off, r.n)
			end = r.off + r.n
		}
	}
	g.mu.Unlock()
	m.v.ranges.unlock(held)
	if broken {
		return 0, ErrLink
	}
	return end, g.flushFull(l)
}

// handedLocked says that a range is on the stream.
func (g *Group) handedLocked(m *member, off, n int64) {
	g.tracker.Handed(m.index, off, n)
	if len(g.lost) > 0 {
		g.foundLocked(m.index, off, n)
	}
}

// handRun puts the beginning of a run on the stream and returns how much of it that was; 0 means try again.
func (g *Group) handRun(l *groupLink, m *member, off, n int64) (int64, error) {
	hole, err := g.holeOwed(m, off, n)
	if err != nil {
		return 0, err
	}
	n = min(n, groupRun)
	if hole > n {
		n = hole
	} else {
		hole = 0
	}
	ok, err := g.takeMended(l, m, off, n, hole)
	if rotten(err) && n > wire.HashBlock { // one of them is
		n = wire.HashBlock
		ok, err = g.takeMended(l, m, off, n, 0)
	}
	if rotten(err) {
		return n, g.lose(l, m, off, n, err)
	}
	if err != nil || !ok {
		return 0, err
	}
	return n, g.flushFull(l)
}

// takeMended is takeRun, which has what is rotten put right. If the error is still that it is rotten, the standby does not have it.
func (g *Group) takeMended(l *groupLink, m *member, off, n, hole int64) (ok bool, err error) {
	ok, err = g.takeRun(l, m, off, n, hole)
	if !rotten(err) {
		return ok, err
	}
	if err = g.mend(l, m, off, n); err != nil {
		return false, err
	}
	if ok, err = g.takeRun(l, m, off, n, hole); rotten(err) {
		return false, nil // once more, and of that nobody was asked
	}
	return ok, err
}

// takeRun adds a range that is owed to what is to be sent and counts it as handed over. Nobody waits for the network here: the range
// is held.
func (g *Group) takeRun(l *groupLink, m *member, off, n, hole int64) (ok bool, err error) {
	held := m.v.ranges.lock(off, wholeBlocks(n))
	defer m.v.ranges.unlock(held)
	at := len(l.out)
	if hole > 0 {
		again, err := g.holeOwed(m, off, n)
		if err != nil || again != hole {
			return false, err // someone wrote there meanwhile
		}
	} else if at, err = g.readFrame(l, m, off, n); err != nil {
		return false, err
	}
	g.mu.Lock()
	broken := l.broken
	if !broken {
		g.handedLocked(m, off, n)
	}
	g.mu.Unlock()
	if broken {
		return false, ErrLink
	}
	if hole > 0 {
		g.add(l, wire.Header{Type: wire.TypeZero, Volume: uint16(m.index), Offset: uint64(off), Length: uint32(n)}, nil)
	} else {
		g.finish(l, m, off, at)
	}
	return true, nil
}

// readFrame reads what is owed of a range that is held to where its frame is to be, behind room for a header, and returns where that
// begins.
func (g *Group) readFrame(l *groupLink, m *member, off, n int64) (at int, err error) {
	at = len(l.out)
	l.out = slices.Grow(l.out, wire.HeaderSize+int(n))[:at+wire.HeaderSize+int(n)]
	if err := g.readOwed(l, m, l.out[at+wire.HeaderSize:], off); err != nil {
		l.out = l.out[:at]
		return 0, err
	}
	return at, nil
}

// finish makes a frame of what readFrame has read.
func (g *Group) finish(l *groupLink, m *member, off int64, at int) {
	content := l.out[at+wire.HeaderSize:]
	h := wire.Header{Type: wire.TypeData, Volume: uint16(m.index), Offset: uint64(off)}
	if isZero(content) {
		h.Type, h.Length = wire.TypeZero, uint32(len(content))
		l.out = l.out[:at]
		g.add(l, h, nil)
		return
	}
	g.number(l, &h, len(content))
	l.out = g.enc.Finish(l.out, at, h)
}

// holeOwed returns how much from off on is owed as zeroes, in whole blocks and at most n.
func (g *Group) holeOwed(m *member, off, n int64) (int64, error) {
	hole, known, err := m.v.disk.Zeroes(off, n)
	if err == nil && !known {
		var start int64
		start, _, _, err = m.v.disk.NextData(off)
		hole = max(0, min(n, start-off))
	}
	if err != nil {
		return 0, err
	}
	if hole < n {
		hole = hole / wire.HashBlock * wire.HashBlock
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if hole > 0 && g.tracker.AnyAside(m.index, off, hole) {
		return 0, nil
	}
	return hole, nil
}

// readOwed reads what the epoch on its way owes of a range that is held: some of it may be aside.
func (g *Group) readOwed(l *groupLink, m *member, p []byte, off int64) error {
	g.mu.Lock()
	broken, aside := l.broken, g.tracker.AnyAside(m.index, off, int64(len(p)))
	g.mu.Unlock()
	if broken {
		return ErrLink
	}
	if !aside { // and nobody puts anything of it aside now
		return readWhole(m.v.disk, p, off)
	}
	return g.readAside(l, m, p, off)
}

// readAside is readOwed where some of it is aside.
func (g *Group) readAside(l *groupLink, m *member, p []byte, off int64) error {
	for done := int64(0); done < int64(len(p)); {
		g.mu.Lock()
		if l.broken {
			g.mu.Unlock()
			return ErrLink
		}
		aside := g.tracker.IsAside(m.index, off+done)
		var kept []byte
		end := done
		for end < int64(len(p)) && kept == nil && g.tracker.IsAside(m.index, off+end) == aside {
			if aside {
				if kept = g.arena.find(m.index, off+end); kept != nil && end > done {
					kept = nil
					break
				}
			}
			end += wire.HashBlock
		}
		g.mu.Unlock()
		end = min(end, int64(len(p)))
		if kept != nil {
			copy(p[done:end], kept)
			done = end
			continue
		}
		var from io.ReaderAt = m.v.disk
		if aside {
			from = m.aside
		}
		if err := readWhole(from, p[done:end], off+done); err != nil {
			return err
		}
		done = end
	}
	return nil
}

func readWhole(from io.ReaderAt, p []byte, off int64) error {
	if _, err := from.ReadAt(p, off); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read what is to be replicated: %w", err)
	}
	return nil
}

// wholeBlocks rounds a length up.
func wholeBlocks(n int64) int64 { return (n + wire.HashBlock - 1) / wire.HashBlock * wire.HashBlock }
