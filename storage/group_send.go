package storage

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/godwit-project/godwit/storage/wire"
)

// askRun is how much is asked about at once, in bytes; a multiple of a block.
const askRun = 1 << 20

// send ships one epoch after the other until the link breaks.
func (g *Group) send(l *groupLink) error {
	buf := make([]byte, askRun)
	for {
		for _, m := range g.members {
			if err := m.empty(); err != nil {
				return err
			}
		}
		g.mu.Lock()
		g.arena = g.arena.emptied()
		g.mu.Unlock()
		number, cut, keeps, err := g.nextCut(l)
		if err != nil {
			return err
		}
		l.frames, l.content = 0, 0
		if err := g.put(l, wire.Header{Type: wire.TypeBegin, Offset: number}, nil); err != nil {
			return err
		}
		for i := range g.members {
			if err := g.compare(l, i, buf); err != nil {
				return err
			}
		}
		l.began, l.stalled = time.Now(), 0
		g.enc.SetEffort(l.effort(l.began))
		for i := range g.members {
			if err := g.handOver(l, i); err != nil {
				return err
			}
		}
		c := wire.Commit{Time: uint64(cut.UnixNano()), Frames: l.frames, Content: l.content}
		if err := g.put(l, wire.Header{Type: wire.TypeCommit, Offset: number}, c.Append(nil)); err != nil {
			return err
		}
		for _, k := range keeps {
			if err := g.put(l, wire.Header{Type: wire.TypeKeep}, wire.AppendKeep(nil, k.seconds, k.name)); err != nil {
				return err
			}
			g.mu.Lock()
			k.link, k.seq = l, l.seq
			g.mu.Unlock()
		}
		if err := g.flush(l); err != nil {
			return err
		}
		g.mu.Lock()
		took := time.Since(l.began)
		g.pause = g.restLocked(took-l.stalled, took, l.rewritten)
		g.mu.Unlock()
	}
}

// nextCut waits until an epoch is due and cuts it over all volumes.
func (g *Group) nextCut(l *groupLink) (number uint64, cut time.Time, keeps []*keep, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	idle := time.Now()
	for {
		if l.broken {
			return 0, cut, nil, ErrLink
		}
		if len(l.wants) > 0 {
			g.mu.Unlock()
			err := g.demand(l)
			g.mu.Lock()
			if err != nil {
				return 0, cut, nil, err
			}
			continue
		}
		due, after := g.dueLocked(time.Now())
		if due {
			break
		}
		if after > 0 {
			timer := time.AfterFunc(after, g.wake)
			g.work.Wait()
			timer.Stop()
		} else {
			g.work.Wait()
		}
	}
	bytes, _ := g.tracker.Written()
	internal := g.tracker.Cut()
	cut = time.Now()
	if l.rested = cut.Sub(idle); g.wanted >= internal {
		l.rested = 0
	}
	first := g.firstWrite
	if first.IsZero() {
		first = cut
	}
	l.rewritten = bytes > 0 && g.written-bytes >= bytes/2
	g.firstWrite, g.written = time.Time{}, 0
	g.cuts = append(g.cuts, cutEpoch{internal, first, cut, bytes})
	return g.base + internal, cut, g.unsentLocked(), nil
}

// question is a range whose hashes were asked for.
type question struct{ off, length int64 }

// compare asks for hashes of what the standby may have already, and takes out of the epoch what it has.
func (g *Group) compare(l *groupLink, index int, buf []byte) error {
	var asked []question
	size := g.members[index].v.size
	cursor := int64(0)
	for {
		for len(asked) < answers {
			g.mu.Lock()
			off, n := int64(0), int64(0)
			if !l.broken && cursor < size {
				off, n = g.tracker.Next(index, cursor, askRun, true)
			}
			g.mu.Unlock()
			if n == 0 {
				cursor = size
				break
			}
			n = min(n, size-off)
			if err := g.put(l, wire.Header{Type: wire.TypeAsk, Volume: uint16(index), Offset: uint64(off), Length: uint32(n)}, nil); err != nil {
				return err
			}
			asked = append(asked, question{off, n})
			cursor = off + n
		}
		if len(asked) == 0 {
			return nil
		}
		if err := g.flush(l); err != nil {
			return err
		}
		select {
		case hashes := <-l.answers:
			if err := g.judge(l, index, asked[0], hashes, buf); err != nil {
				return err
			}
			asked = asked[1:]
		case <-l.done:
			return ErrLink
		}
	}
}

// judge compares one range.
func (g *Group) judge(l *groupLink, index int, q question, hashes, buf []byte) error {
	m := g.members[index]
	err := g.judgeOnce(l, index, q, hashes, buf)
	if rotten(err) {
		if err = g.mend(l, m, q.off, q.length); err == nil {
			err = g.judgeOnce(l, index, q, hashes, buf)
		}
	}
	if !rotten(err) || int64(len(hashes)) != wholeBlocks(q.length)/wire.HashBlock*8 {
		return err
	}
	for at := int64(0); at < q.length; at += wire.HashBlock {
		part := question{q.off + at, min(wire.HashBlock, q.length-at)}
		err := g.judgeOnce(l, index, part, hashes[at/wire.HashBlock*8:][:8], buf)
		if rotten(err) { // it is still owed
			g.mu.Lock()
			g.tracker.Compared(index, part.off, part.length)
			g.mu.Unlock()
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) judgeOnce(l *groupLink, index int, q question, hashes, buf []byte) error {
	m := g.members[index]
	held := m.v.ranges.lock(q.off, wholeBlocks(q.length))
	defer m.v.ranges.unlock(held)
	p := buf[:q.length]
	hole, err := m.v.hole(p, q.off)
	g.mu.Lock()
	hole = hole && !g.tracker.AnyAside(index, q.off, q.length)
	g.mu.Unlock()
	if err == nil && !hole {
		err = g.readOwed(l, m, p, q.off)
	}
	if err != nil {
		return err
	}
	if int64(len(hashes)) != (q.length+wire.HashBlock-1)/wire.HashBlock*8 {
		return fmt.Errorf("%w: %d bytes of hashes for a range of %d", wire.ErrCorrupt, len(hashes), q.length)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.broken {
		return ErrLink
	}
	for at := int64(0); at < q.length; at += wire.HashBlock {
		block := p[at:min(at+wire.HashBlock, q.length)]
		if binary.BigEndian.Uint64(hashes[at/wire.HashBlock*8:]) == xxh3.HashSeed(block, g.session) {
			g.tracker.Handed(index, q.off+at, int64(len(block)))
		} else if g.verifying != nil && g.tracker.Checked(index, q.off+at) {
			g.verifying.differs(index, q.off+at, int64(len(block)))
		}
	}
	g.tracker.Compared(index, q.off, q.length)
	return nil
}
