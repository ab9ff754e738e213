package disk

import (
	"context"
	"errors"
	"time"
)

// keep does the upkeep until the disk is closed.
func (d *Disk) keep(interval time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.wg.Go(func() {
		defer cancel()
		<-d.stop
	})
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		_ = d.Upkeep(ctx) // what fails is reported, and shows in Failed
		select {
		case <-d.stop:
			return
		case <-ticker.C:
		}
	}
}

// Upkeep asks whether the lease still holds, sums anew what a power loss left unverified, and takes the marks off regions that
// nobody has written to since the last time but one. Calls may not overlap.
func (d *Disk) Upkeep(ctx context.Context) error {
	if err := d.checkLease(); err != nil {
		return err
	}
	if d.sums == nil || d.writable() != nil {
		return nil
	}
	for _, r := range d.sums.marks.pending() {
		if err := d.sumRegion(ctx, r); err != nil {
			return err
		}
	}
	return d.tidy()
}

// sumRegion sums a region anew, a few blocks at a time so that nobody waits for long.
func (d *Disk) sumRegion(ctx context.Context, r int64) error {
	m := &d.sums.marks
	first, end := r*m.region, min((r+1)*m.region, blocksIn(d.Size()))
	for first < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(end-first, scrubChunk)
		hold := d.held.take(first, first+n, d.sums.slots)
		err := d.resum(first, first+n)
		d.held.drop(hold, d.sums.slots)
		if err != nil {
			return err
		}
		first += n
	}
	m.set(r, regionUnverified, regionDirty, markDirty)
	return nil
}

// tidy takes marks off. Nobody writes to a region while it changes its state; in between, everything is made durable, and a
// write takes the region back.
func (d *Disk) tidy() error {
	m := &d.sums.marks
	idle := m.idle()
	if len(idle) == 0 {
		return nil
	}
	change := func(r int64, from, to uint32, mark byte) {
		hold := d.held.take(r*m.region, (r+1)*m.region, nil)
		defer d.held.drop(hold, nil)
		m.set(r, from, to, mark)
	}
	for _, r := range idle {
		change(r, regionDirty, regionCleaning, markDirty)
	}
	if err := d.Sync(); err != nil {
		return err
	}
	if err := m.flush.sync(); err != nil {
		return d.fail(err)
	}
	for _, r := range idle {
		change(r, regionCleaning, regionClean, markClean)
	}
	if err := m.flush.sync(); err != nil { // or a power loss would find old marks, and doubt more than it must
		return d.fail(err)
	}
	return nil
}

// Marked is how much of the disk could not be verified if the power failed now, and how much already cannot, in bytes.
func (d *Disk) Marked() (dirty, unverified int64) {
	if d.sums == nil {
		return 0, 0
	}
	m := &d.sums.marks
	for r := range m.regions {
		switch m.regions[r].Load() & regionState {
		case regionClean:
		case regionUnverified:
			unverified += m.region * BlockSize
		default:
			dirty += m.region * BlockSize
		}
	}
	return min(dirty, d.Size()), min(unverified, d.Size())
}

// checkLease gives the disk up if somebody newer has it.
func (d *Disk) checkLease() error {
	if d.opts.Lease == nil {
		return nil
	}
	err := d.opts.Lease.check()
	if errors.Is(err, ErrFenced) && d.fenced.CompareAndSwap(false, true) {
		d.report(EventFenced, 0, 0, err)
	}
	return err
}
