package journal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"
)

// View reads a cut. It keeps the cut from being deleted until it is closed.
type View struct {
	j *Journal
	c *cut
}

// OpenCut opens a cut for reading.
func (j *Journal) OpenCut(name string) (*View, error) {
	j.applying.Lock()
	c := j.named(name)
	if c != nil {
		j.mu.Lock()
		c.readers++
		j.mu.Unlock()
	}
	j.applying.Unlock()
	if c == nil {
		return nil, fmt.Errorf("open cut %s: %w", name, ErrNoCut)
	}
	v := &View{j, c}
	for j.appliedTo() < c.Epoch {
		if _, err := j.Apply(); err != nil {
			v.Close()
			return nil, fmt.Errorf("open cut %s: %w", name, err)
		}
	}
	return v, nil
}

func (j *Journal) appliedTo() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.applied
}

// Close lets the cut go.
func (v *View) Close() {
	v.j.mu.Lock()
	defer v.j.mu.Unlock()
	if v.c != nil {
		v.c.readers--
		v.c = nil
	}
}

// ReadAt fills p with what the volume held at the cut. Where that was not what had been written (it had rotted, or was lost) it fails,
// as reading the volume would have.
func (v *View) ReadAt(vol int, p []byte, off int64) error {
	v.j.base.RLock()
	defer v.j.base.RUnlock()
	at := slices.Index(v.j.cuts, v.c)
	if at < 0 {
		return ErrNoCut
	}
	start := off / block * block
	end := min((off+int64(len(p))+block-1)/block*block, v.j.disks[vol].Size())
	whole := p
	if start != off || end != off+int64(len(p)) {
		whole = make([]byte, end-start)
	}
	if err := v.j.readChain(v.j.cuts[at:], vol, whole, start); err != nil {
		return err
	}
	if start != off || len(whole) != len(p) {
		copy(p, whole[off-start:])
	}
	return nil
}

// readChain reads whole blocks as they were at the first of the cuts: saved by it, else by the next, else still on the disk.
func (j *Journal) readChain(chain []*cut, vol int, p []byte, off int64) error {
	filled := make([]bool, (len(p)+block-1)/block)
	left := len(filled)
	for _, c := range chain {
		n, err := c.vols[vol].fill(p, off, filled)
		if err != nil {
			return err
		}
		left -= n
	}
	for i := 0; left > 0 && i < len(filled); {
		k := i
		for k < len(filled) && !filled[k] {
			k++
		}
		if k > i {
			part := p[i*block : min(k*block, len(p))]
			if err := readFull(j.disks[vol], part, off+int64(i)*block); err != nil {
				return err
			}
			left -= k - i
		}
		i = k + 1
	}
	return nil
}

// Restore makes the content of a cut the last consistent point, as an epoch of its own with the next number. Later cuts are kept,
// so that it can be taken back. No epoch may be under way.
func (j *Journal) Restore(name string) error {
	v, err := j.OpenCut(name)
	if err != nil {
		return err
	}
	defer v.Close()
	if err := errors.Join(j.Sync(), j.Settle()); err != nil {
		return err
	}
	if err := j.Renew(); err != nil { // first: whoever takes up an older lineage would not know of what follows
		return err
	}
	number := j.Point().Epoch + 1
	if err := j.Begin(number); err != nil {
		return err
	}
	if err := j.putCut(v); err != nil {
		j.Discard()
		return fmt.Errorf("restore cut %s: %w", name, err)
	}
	return j.Commit(number, v.Time())
}

// Time is when the primary was at the cut.
func (v *View) Time() time.Time { return v.c.Time }

// putCut adds everything that differs, or may, between the cut and the disks to the epoch under way.
func (j *Journal) putCut(v *View) error {
	buf := make([]byte, copyRun)
	now := make([]byte, copyRun)
	j.base.RLock()
	chain := slices.Clone(j.cuts[slices.Index(j.cuts, v.c):])
	j.base.RUnlock()
	for vol := range j.disks {
		for _, c := range chain {
			if err := c.vols[vol].each(func(off, length int64) error {
				p, q := buf[:length], now[:length]
				if err := v.ReadAt(vol, p, off); errors.Is(err, errUnreadable) && length > block {
					return j.putBlocks(v, vol, off, length)
				} else if errors.Is(err, errUnreadable) {
					return j.Lose(vol, off, length)
				} else if err != nil {
					return err
				}
				if err := j.ReadAt(vol, q, off); err == nil && bytes.Equal(p, q) {
					return nil // what cannot be read differs
				}
				return j.Put(vol, off, length, p)
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// putBlocks is what putCut does with a run of which some blocks have no right content: those are lost then.
func (j *Journal) putBlocks(v *View, vol int, off, length int64) error {
	buf := make([]byte, block)
	for at := off; at < off+length; at += block {
		p := buf[:min(block, off+length-at)]
		err := v.ReadAt(vol, p, at)
		if errors.Is(err, errUnreadable) {
			err = j.Lose(vol, at, int64(len(p)))
		} else if err == nil {
			err = j.Put(vol, at, int64(len(p)), p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
