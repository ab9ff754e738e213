package storage

import (
	"context"
	"fmt"
)

// verifyRun is how much of a volume one epoch compares, in bytes, so that consistent points stay close together.
const verifyRun = 64 << 20

// Difference is a range in which the two ends were not equal although nothing was written there.
type Difference struct {
	Volume      string
	Off, Length int64
}

// verification is what Verify has found so far; under Group.mu.
type verification struct {
	group *Group
	found []Difference
}

// differs notes a block.
func (f *verification) differs(index int, off, length int64) {
	name := f.group.members[index].v.name
	if k := len(f.found) - 1; k >= 0 && f.found[k].Volume == name && f.found[k].Off+f.found[k].Length == off {
		f.found[k].Length += length
		return
	}
	f.found = append(f.found, Difference{name, off, length})
}

// Verify compares both ends by hashes while they are in use, and names the ranges that differ. What a guest writes meanwhile is
// left out. Ranges that differ are repaired from this end at once. progress, which may be nil, is told the bytes compared and
// to compare. One verification runs at a time.
func (g *Group) Verify(ctx context.Context, progress func(done, total int64)) ([]Difference, error) {
	f := &verification{group: g}
	g.mu.Lock()
	busy := g.verifying != nil
	if !busy {
		g.verifying = f
	}
	g.mu.Unlock()
	if busy {
		return nil, fmt.Errorf("verify group %s: %w: it is being verified", g.name, ErrBusy)
	}
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.verifying = nil
	}()
	done, total := int64(0), int64(0)
	for _, m := range g.members {
		total += m.v.size
	}
	for i, m := range g.members {
		for off := int64(0); off < m.v.size; off += verifyRun {
			n := min(verifyRun, m.v.size-off)
			if err := g.verifyRange(ctx, i, off, n); err != nil {
				return f.found, fmt.Errorf("verify group %s: %w", g.name, err)
			}
			if done += n; progress != nil {
				progress(done, total)
			}
		}
	}
	return f.found, nil
}

// verifyRange has the next epoch compare a range, and another one if the link is lost meanwhile.
func (g *Group) verifyRange(ctx context.Context, index int, off, n int64) error {
	for {
		g.mu.Lock()
		breaks := g.breaks
		g.tracker.Check(index, off, n)
		g.mu.Unlock()
		if err := g.Drain(ctx); err != nil {
			return err
		}
		g.mu.Lock()
		over := breaks == g.breaks
		g.mu.Unlock()
		if over {
			return nil
		}
	}
}
