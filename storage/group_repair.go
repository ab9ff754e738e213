package storage

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/wire"
)

// repairRun is how much is looked at before the standby is asked for what is wrong in it, in bytes.
const repairRun = 1 << 20

// fetch is a block that the standby is asked for.
type fetch struct {
	index  int
	where  disk.Range
	answer chan []byte // gets one; nil when it is not right there either
}

var errNotFetched = errors.New("the standby has not been asked yet")

// Repair puts those blocks of a volume's range right that do not match their checksums, with what the standby has, if that does
// match; so it need not be known whether they were written since. It returns how much that was, in bytes. An error wraps [ErrLink],
// or [disk.ErrCorrupt] if the standby has not the right content either. Clients' requests do the same by themselves.
func (g *Group) Repair(ctx context.Context, volume string, off, length int64) (repaired int64, err error) {
	err = fmt.Errorf("volume %s: %w", volume, ErrNotFound)
	for _, m := range g.members {
		if m.v.name == volume {
			repaired, err = m.repair(ctx, off, length, nil)
		}
	}
	if err != nil {
		return repaired, fmt.Errorf("repair group %s: %w", g.name, err)
	}
	return repaired, nil
}

// repair is [Group.Repair] of a member, which holds no range. push, if not nil, sends what is wanted: the sender cannot wait for
// itself.
func (m *member) repair(ctx context.Context, off, length int64, push func() error) (repaired int64, err error) {
	if off < 0 || length < 0 || off > m.v.size-length {
		return 0, fmt.Errorf("%d bytes at %d of a volume of %d", length, off, m.v.size)
	}
	for end := off + length; off < end; off += repairRun {
		n, err := m.repairRun(ctx, disk.Range{Off: off, Length: min(repairRun, end-off)}, push)
		if repaired += n; err != nil {
			return repaired, err
		}
	}
	return repaired, nil
}

// repairRun finds out what is wrong, fetches that while nothing is held, and has the disk take it.
func (m *member) repairRun(ctx context.Context, r disk.Range, push func() error) (repaired int64, err error) {
	var wrong []disk.Range
	err = m.v.withDisk(func() error {
		_, err := m.v.disk.Repair(ctx, r, func(_ context.Context, p []byte, off int64) error {
			wrong = append(wrong, disk.Range{Off: off, Length: int64(len(p))})
			return errNotFetched
		})
		return err
	})
	if len(wrong) == 0 {
		return 0, err
	}
	content, err := m.group.fetch(ctx, m.index, wrong, push)
	if err != nil {
		return 0, err
	}
	err = m.v.withDisk(func() error {
		repaired, err = m.v.disk.Repair(ctx, r, func(_ context.Context, p []byte, off int64) error {
			if copy(p, content[off]) < len(p) {
				return fmt.Errorf("the standby has it neither: %w", disk.ErrCorrupt)
			}
			return nil
		})
		return err
	})
	m.group.mu.Lock()
	m.group.repaired += repaired
	m.group.mu.Unlock()
	return repaired, err
}

// fetch returns what the standby has at its last consistent point of the ranges, by offset.
func (g *Group) fetch(ctx context.Context, index int, ranges []disk.Range, push func() error) (map[int64][]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, g.store.opts.LinkTimeout, fmt.Errorf("%w: a block was not fetched in time", ErrLink))
	defer cancel()
	var asked []*fetch
	for _, r := range ranges {
		asked = append(asked, &fetch{index, r, make(chan []byte, 1)})
	}
	g.mu.Lock()
	l := g.link
	if l != nil {
		l.wants = append(l.wants, asked...)
		g.work.Signal()
	}
	g.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("%w: there is no standby to ask", ErrLink)
	}
	if push != nil {
		if err := push(); err != nil {
			return nil, err
		}
	}
	out := map[int64][]byte{}
	for _, f := range asked {
		select {
		case out[f.where.Off] = <-f.answer:
		case <-l.done:
			return nil, fmt.Errorf("%w: it broke while a block was fetched", ErrLink)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return out, nil
}

// demand sends what is to be fetched; the sender alone calls it.
func (g *Group) demand(l *groupLink) error {
	for {
		g.mu.Lock()
		if len(l.wants) == 0 {
			g.mu.Unlock()
			return g.flush(l)
		}
		f := l.wants[0]
		l.wants = l.wants[1:]
		l.asked = append(l.asked, f)
		g.mu.Unlock()
		h := wire.Header{Type: wire.TypeFetch, Volume: uint16(f.index), Offset: uint64(f.where.Off), Length: uint32(f.where.Length)}
		if err := g.put(l, h, nil); err != nil {
			return err
		}
	}
}

// fetched takes the answer to the oldest demand.
func (g *Group) fetched(l *groupLink, h *wire.Header, content []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(l.asked) == 0 {
		return fmt.Errorf("%w: a block that nobody asked for", wire.ErrCorrupt)
	}
	f := l.asked[0]
	l.asked = l.asked[1:]
	if int(h.Volume) != f.index || int64(h.Offset) != f.where.Off || h.Type == wire.TypeData && int64(len(content)) != f.where.Length {
		return fmt.Errorf("%w: %d bytes at %d of volume %d, not what was asked for", wire.ErrCorrupt, len(content), h.Offset, h.Volume)
	}
	f.answer <- append([]byte(nil), content...)
	return nil
}

// mend puts right what the sender has found rotten. An error that is itself [rotten] says that the standby does not have it.
func (g *Group) mend(l *groupLink, m *member, off, n int64) error {
	_, err := m.repair(g.ctx, off, n, func() error { return g.demand(l) })
	return err
}

// maxLost bounds what a group may call lost, in blocks: if it is more, checksums may be wrong rather than content, and what the
// standby has is worth more than being equal.
const maxLost = 64

// lose tells the standby that a block which it has not, and which cannot be read here, has no right content any more: so the epoch
// that owes it, and all others, go on, and the block cannot be read at either end until it is written anew.
func (g *Group) lose(l *groupLink, m *member, off, n int64, why error) error {
	held := m.v.ranges.lock(off, wholeBlocks(n))
	g.mu.Lock()
	_, known := g.lost[asideBlock{m.index, off}]
	switch {
	case l.broken: // also by a writer who has replaced it meanwhile
		why = ErrLink
	case !known && len(g.lost) >= maxLost:
		why = fmt.Errorf("volume %s: %d blocks and more can neither be read nor fetched from the standby, which has them as they were: "+
			"replication waits: repair the volume, or write it anew: %w", m.v.name, maxLost, why)
		known = true
	default:
		if g.lost == nil {
			g.lost = map[asideBlock]struct{}{}
		}
		g.lost[asideBlock{m.index, off}] = struct{}{}
		g.tracker.Handed(m.index, off, n)
		why = nil
	}
	g.mu.Unlock()
	m.v.ranges.unlock(held)
	if why != nil {
		return why
	}
	if !known {
		g.store.opts.Logger.Error("a block has rotted before the standby had it: it can be read at neither end until it is written anew",
			"group", g.name, "volume", m.v.name, "offset", off, "length", n)
	}
	return g.put(l, wire.Header{Type: wire.TypeLost, Volume: uint16(m.index), Offset: uint64(off), Length: uint32(n)}, nil)
}

// foundLocked forgets what was lost in a range that is shipped.
func (g *Group) foundLocked(index int, off, n int64) {
	for at := off; at < off+n && len(g.lost) > 0; at += wire.HashBlock {
		delete(g.lost, asideBlock{index, at})
	}
}

// lostLocked names what is lost, nil if nothing is.
func (g *Group) lostLocked() error {
	if len(g.lost) == 0 {
		return nil
	}
	var first asideBlock
	for b := range g.lost {
		first = b
		break
	}
	for b := range g.lost {
		if b.index < first.index || b.index == first.index && b.off < first.off {
			first = b
		}
	}
	return fmt.Errorf("%d blocks have rotted before the standby had them, the first at %d of volume %s: write them anew, from a backup",
		len(g.lost), first.off, g.members[first.index].v.name)
}

// rotten says that a request failed for what its blocks hold, or cannot be read, and not because the disk takes no more.
func rotten(err error) bool {
	return errors.Is(err, syscall.EIO) && !errors.Is(err, disk.ErrFailed) && !errors.Is(err, disk.ErrSidecar)
}

// mend puts right, from the standby, what a client's request has met, and says whether the request is worth making again. The
// caller holds no range.
func (v *Volume) mend(ctx context.Context, off, length int64, why error) bool {
	if !rotten(why) {
		return false
	}
	m := v.member.Load()
	if m == nil || m.group == nil {
		return false
	}
	_, err := m.repair(ctx, off, length, nil)
	if err != nil {
		v.log.Error("blocks cannot be put right from the standby", "offset", off, "length", length, "err", err)
	}
	return err == nil
}
