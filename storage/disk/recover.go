package disk

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"sync/atomic"

	"github.com/godwit-project/godwit/storage/disk/vfs"
)

// bootID tells one life of this machine's kernel from another.
func bootID() uint64 {
	h := fnv.New64a()
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	_, _ = h.Write(b)
	return h.Sum64()
}

// openSidecar opens the checksums, or makes some, and finds out which of them can be relied on.
func (d *Disk) openSidecar(info vfs.Info) error {
	path := d.opts.beside(d.path, sumsSuffix)
	var err error
	d.sums, err = loadSidecar(d.fs, path)
	made := false
	if errors.Is(err, os.ErrNotExist) || err == nil && int64(d.sums.header.size) != info.Size {
		if d.opts.ReadOnly {
			return fmt.Errorf("checksums %s are missing, or of a disk of another size: open it for writing first", path)
		}
		if d.sums != nil {
			if err := d.sums.file.Close(); err != nil {
				return err
			}
			d.sums = nil
		}
		made = true
		if err = makeSidecar(d.fs, path, info.Size, d.opts.Region, true); err == nil {
			d.sums, err = loadSidecar(d.fs, path)
		}
	}
	if err != nil {
		return err
	}
	h := d.sums.header
	samePower := h.boot == d.opts.Boot
	changed := h.clean == 1 && h.changed != uint64(info.Changed)
	if d.opts.ReadOnly {
		d.doubt(h.clean == 0 && !samePower, changed)
		return nil
	}
	switch {
	case made:
		d.report(EventUnverified, 0, info.Size, errors.New("the disk had no checksums; what it contains is taken as it is"))
	case changed:
		d.report(EventUnverified, 0, info.Size, errors.New("the disk was changed by others while it was closed"))
	}
	if err := d.settle(samePower, changed || made); err != nil {
		return err
	}
	h.clean = 0
	atomic.StoreUint64(&h.boot, d.opts.Boot)
	if err := d.sums.file.Sync(); err != nil {
		return d.fail(err)
	}
	return nil
}

// doubt leaves out of verification what a crash may have left wrong, for readers, who cannot put it right.
func (d *Disk) doubt(powerLost, all bool) {
	m := &d.sums.marks
	for r := range (blocksIn(d.Size()) + m.region - 1) / m.region {
		if all || powerLost && m.onDisk[r] != markClean {
			m.regions[r].Store(regionUnverified)
		}
	}
	for _, s := range d.slots() {
		for r := s.first / m.region; r <= (s.end-1)/m.region; r++ {
			m.regions[r].Store(regionUnverified)
		}
	}
}

// settle is what the disk's last user left to do. After a killed process it is the blocks that it was writing; after a power loss
// the regions that were marked; all of it if the disk was used without us. Only the first is done at once.
func (d *Disk) settle(samePower, changed bool) error {
	m := &d.sums.marks
	suspect := int64(0)
	for r := range (blocksIn(d.Size()) + m.region - 1) / m.region {
		if changed || !samePower && m.onDisk[r] != markClean {
			m.onDisk[r] = markUnverified
			m.regions[r].Store(regionUnverified)
			suspect++
		}
	}
	if suspect > 0 && !changed {
		d.report(EventUnverified, 0, min(suspect*m.region*BlockSize, d.Size()), errors.New("written to at the time of a power loss"))
	}
	if samePower {
		for _, s := range d.slots() {
			if err := d.touch(s.first, s.end); err != nil {
				return err
			}
			if err := d.resum(s.first, s.end); err != nil {
				return err
			}
		}
	}
	for i := range d.sums.slots {
		d.sums.slots[i] = slot{}
	}
	return nil
}

// slots are the ranges that were being written when a process died.
func (d *Disk) slots() (left []span) {
	for _, s := range d.sums.slots {
		first, end := int64(s.first), min(int64(s.end), blocksIn(d.Size()))
		if first >= 0 && first < end {
			left = append(left, span{first, end})
		}
	}
	return left
}

// resum sets the checksums of blocks, which the caller holds, to what the disk has. Blocks that cannot be read have none then.
func (d *Disk) resum(first, end int64) error {
	const most = 256
	buf := borrow(most * BlockSize)
	defer scratch.Put(buf)
	for first < end {
		off := first * BlockSize
		start, _, ok, err := d.NextData(off)
		if err == nil && (!ok || start/BlockSize > first) {
			stop := end
			if ok {
				stop = min(end, start/BlockSize)
			}
			if err := d.sums.clear(first, stop); err != nil {
				return err
			}
			first = stop
			continue
		}
		n := min(end-first, most)
		p := (*buf)[:min((first+n)*BlockSize, d.Size())-off]
		if _, failed := d.read(p, off); failed != nil {
			err = d.sums.fill(first, first+n, unknown)
		} else {
			err = d.sums.store(p, off, nil, d.Size())
		}
		if err != nil {
			return err
		}
		first += n
	}
	return nil
}

// closeSums notes that all is durable and nothing is being written.
func (d *Disk) closeSums() error {
	if err := d.sums.file.Sync(); err != nil {
		return d.fail(err)
	}
	info, err := d.file.Info()
	if err != nil {
		return err
	}
	for r := range d.sums.marks.onDisk {
		if d.sums.marks.regions[r].Load()&regionState != regionUnverified {
			d.sums.marks.onDisk[r] = markClean
		}
	}
	d.sums.header.changed = uint64(info.Changed)
	atomic.StoreUint64(&d.sums.header.clean, 1)
	if err := d.sums.file.Sync(); err != nil {
		return fmt.Errorf("close disk %s: %w", d.path, err)
	}
	return nil
}

// growSums makes room for the checksums of a disk of that size, before it has it, and marks what the change touches.
func (d *Disk) growSums(size int64) error {
	m := &d.sums.marks
	old, now := blocksIn(d.Size()), blocksIn(size)
	if now > m.region*maxRegions {
		return fmt.Errorf("its checksums have room for %d bytes: close it, remove %s, open it again", m.region*maxRegions*BlockSize, d.sums.file.Name())
	}
	if now > old {
		if err := d.sums.file.Reserve(sumsAt + now*sumSize); err != nil {
			return err
		}
		if err := d.sums.mapSums(now); err != nil {
			return err
		}
	}
	first := max(min(old, now)-1, 0)
	return d.touch(first, max(old, now, first+1))
}

// fitSums is called when the disk, of size old before, has its new size: the last block that both had may have another length
// now, and whatever comes after it is zeroes. Until the header says so, a crash means that all is summed anew.
func (d *Disk) fitSums(old int64) error {
	both := min(blocksIn(old), blocksIn(d.Size()))
	err := d.resum(max(both-1, 0), both)
	if err == nil {
		err = d.sums.clear(both, max(blocksIn(old), blocksIn(d.Size())))
	}
	if err == nil {
		atomic.StoreUint64(&d.sums.header.size, uint64(d.Size()))
		err = d.sums.file.Sync()
	}
	return err
}
