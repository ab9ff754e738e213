package disk

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
)

// zeroes is what is written where a range cannot be made zero otherwise.
var zeroes [1 << 20]byte

var errNotFast = fmt.Errorf("zeroing would be writing here: %w", syscall.EOPNOTSUPP)

// scratch holds blocks while they are looked at.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// borrow returns n bytes; give them back with scratch.Put.
func borrow(n int) *[]byte {
	b := scratch.Get().(*[]byte) //nolint:errcheck,forcetypeassert // nothing else is put there
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}

// ReadAt fills p from the disk.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if err := d.inside(off, int64(len(p))); err != nil || len(p) == 0 {
		return 0, err
	}
	if d.fenced.Load() {
		return 0, ErrFenced
	}
	if d.sums == nil {
		return d.read(p, off)
	}
	if d.whole(off, int64(len(p))) {
		n, err := d.read(p, off)
		if err == nil {
			err = d.verify(p, off)
		}
		return n, err
	}
	first, end := d.blocks(off, int64(len(p)))
	start := first * BlockSize
	wide := borrow(int(min(end*BlockSize, d.Size()) - start))
	defer scratch.Put(wide)
	_, err := d.read(*wide, start)
	if err == nil {
		err = d.verify(*wide, start)
	}
	if err != nil {
		return 0, err
	}
	return copy(p, (*wide)[off-start:]), nil
}

// TryReadAt reads if that needs no waiting; else done is false, and nothing is known of p.
func (d *Disk) TryReadAt(p []byte, off int64) (done bool, err error) {
	if d.quick == nil || d.fenced.Load() || d.inside(off, int64(len(p))) != nil || d.sums != nil && !d.whole(off, int64(len(p))) {
		return false, nil
	}
	done, err = d.quick.TryReadAt(p, off)
	if !done || err != nil || d.sums == nil {
		return done, err
	}
	bad, err := d.sums.compare(p, off)
	return bad < 0 && err == nil, nil
}

// WriteAt writes p. If it fails, the range holds the old content, the new, or a part of either.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.inside(off, int64(len(p))); err != nil || len(p) == 0 {
		return 0, err
	}
	if err := d.writable(); err != nil {
		return 0, err
	}
	if d.sums == nil {
		return d.write(p, off)
	}
	first, end := d.blocks(off, int64(len(p)))
	hold := d.held.take(first, end, d.sums.slots)
	defer d.held.drop(hold, d.sums.slots)
	return d.writeHeld(p, off, first, end)
}

// TryWriteAt writes if nobody is in the way and no mark has to be made durable first.
func (d *Disk) TryWriteAt(p []byte, off int64) (done bool, err error) {
	if d.inside(off, int64(len(p))) != nil || d.writable() != nil || len(p) == 0 || !d.whole(off, int64(len(p))) {
		return false, nil // an unaligned write may have to read first
	}
	if d.sums == nil {
		_, err = d.write(p, off)
		return true, err
	}
	first, end := d.blocks(off, int64(len(p)))
	hold, ok := d.held.try(first, end, d.sums.slots)
	if !ok {
		return false, nil
	}
	defer d.held.drop(hold, d.sums.slots)
	if !d.sums.touched(first, end) {
		return false, nil
	}
	_, err = d.writeHeld(p, off, first, end)
	return true, err
}

// writeHeld writes and sums, while the blocks are held.
func (d *Disk) writeHeld(p []byte, off, first, end int64) (int, error) {
	if err := d.touch(first, end); err != nil {
		return 0, err
	}
	var edges *edges
	if !d.whole(off, int64(len(p))) {
		var err error
		if edges, err = d.readEdges(off, int64(len(p)), first, end); err != nil {
			return 0, err
		}
		defer edges.free()
	}
	n, err := d.write(p, off)
	if err == nil {
		err = d.sums.store(p, off, edges, d.Size())
	} else {
		err = errors.Join(err, d.resum(first, end))
	}
	return n, err
}

// Zero makes the range read as zeroes; with keep its place on the disk is kept, else given back where possible.
func (d *Disk) Zero(off, length int64, keep bool) error { return d.zeroRange(off, length, keep, true) }

// ZeroFast is Zero if that takes less than writing zeroes; else it does nothing and fails with an EOPNOTSUPP.
func (d *Disk) ZeroFast(off, length int64, keep bool) error {
	return d.zeroRange(off, length, keep, false)
}

func (d *Disk) zeroRange(off, length int64, keep, patient bool) error {
	if err := d.inside(off, length); err != nil || length == 0 {
		return err
	}
	if err := d.writable(); err != nil {
		return err
	}
	if d.sums == nil {
		return d.zero(off, length, keep, patient)
	}
	first, end := d.blocks(off, length)
	hold := d.held.take(first, end, d.sums.slots)
	defer d.held.drop(hold, d.sums.slots)
	// The parts of blocks at both ends are written, so that what they were is verified; the whole ones between are zeroed.
	start, stop := roundUp(off), (off+length)/BlockSize*BlockSize
	if off+length == d.Size() {
		stop = off + length
	}
	if start >= stop {
		_, err := d.writeHeld(zeroes[:length], off, first, end)
		return err
	}
	if err := d.zeroHeld(start, stop-start, keep, patient); err != nil {
		return err
	}
	if off < start {
		if _, err := d.writeHeld(zeroes[:start-off], off, first, first+1); err != nil {
			return err
		}
	}
	if stop < off+length {
		if _, err := d.writeHeld(zeroes[:off+length-stop], stop, end-1, end); err != nil {
			return err
		}
	}
	return nil
}

// zeroHeld zeroes whole blocks that are held.
func (d *Disk) zeroHeld(off, length int64, keep, patient bool) error {
	first, end := d.blocks(off, length)
	if err := d.touch(first, end); err != nil {
		return err
	}
	err := d.zero(off, length, keep, patient)
	if errors.Is(err, errNotFast) {
		return err
	}
	if err != nil {
		return errors.Join(err, d.resum(first, end))
	}
	return d.sums.clear(first, end)
}

// Trim gives the range back; it reads as zeroes from then on.
func (d *Disk) Trim(off, length int64) error { return d.Zero(off, length, false) }

// inside says whether the range is on the disk.
func (d *Disk) inside(off, length int64) error {
	if off < 0 || length < 0 || off > d.Size()-length {
		return fmt.Errorf("%d bytes at %d of a disk of %d: %w", length, off, d.Size(), io.ErrUnexpectedEOF)
	}
	return nil
}

// blocks are those that the range touches, the second excluded.
func (d *Disk) blocks(off, length int64) (first, end int64) {
	return off / BlockSize, (off + length + BlockSize - 1) / BlockSize
}

// whole says whether the range begins and ends with blocks.
func (d *Disk) whole(off, length int64) bool {
	return off%BlockSize == 0 && ((off+length)%BlockSize == 0 || off+length == d.Size())
}

func roundUp(n int64) int64 { return (n + BlockSize - 1) / BlockSize * BlockSize }

// read, write and zero are the only ways to the file; what fails there is reported.
func (d *Disk) read(p []byte, off int64) (int, error) {
	n, err := d.file.ReadAt(p, off)
	if err != nil {
		d.report(EventReadError, off, int64(len(p)), err)
	}
	return n, err
}

func (d *Disk) write(p []byte, off int64) (int, error) {
	n, err := d.file.WriteAt(p, off)
	if err != nil {
		d.reportWrite(off, int64(len(p)), err)
	}
	return n, err
}

func (d *Disk) zero(off, length int64, keep, patient bool) error {
	err := d.file.Zero(off, length, keep)
	if errors.Is(err, errors.ErrUnsupported) && !patient {
		return errNotFast
	}
	for errors.Is(err, errors.ErrUnsupported) {
		n := min(length, int64(len(zeroes)))
		if n == 0 {
			return nil
		}
		if _, failed := d.file.WriteAt(zeroes[:n], off); failed != nil {
			err = failed
			break
		}
		off, length = off+n, length-n
	}
	if err != nil {
		d.reportWrite(off, length, err)
	}
	return err
}
