package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/storage/disk/vfs"
)

// Range is a run of bytes on a disk.
type Range struct{ Off, Length int64 }

// Report is what a scrub has found. All ranges are whole blocks, in order.
type Report struct {
	// Checked is how many bytes were compared, holes included.
	Checked int64
	// Bad does not match its checksums, or cannot be read.
	Bad []Range
	// Unverified has no checksums: [Disk.Upkeep] has not been there since a power loss.
	Unverified []Range
}

// scrubChunk is how much a scrub reads at once, in blocks.
const scrubChunk = 64

// verify compares what was read, whole blocks, with the checksums. What differs may just have been written by another, so that it
// is read again while nobody can. p then has what was found right.
func (d *Disk) verify(p []byte, off int64) error {
	for start := off; len(p) > 0; {
		bad, err := d.sums.compare(p, start)
		if err != nil || bad < 0 {
			return err
		}
		at := bad*BlockSize - start
		n := min(int64(len(p))-at, BlockSize)
		if err := d.again(d.file, p[at:at+n], bad); err != nil {
			return err
		}
		p, start = p[at+n:], start+at+n
	}
	return nil
}

// again reads a block that seemed wrong, while nobody writes it.
func (d *Disk) again(from vfs.File, p []byte, block int64) error {
	hold := d.held.take(block, block+1, nil)
	defer d.held.drop(hold, nil)
	if _, err := from.ReadAt(p, block*BlockSize); err != nil {
		d.report(EventReadError, block*BlockSize, int64(len(p)), err)
		return err
	}
	return d.verifyHeld(p, block)
}

// verifyHeld verifies a block that nobody else can be writing.
func (d *Disk) verifyHeld(p []byte, block int64) error {
	bad, err := d.sums.compare(p, block*BlockSize)
	if err == nil && bad >= 0 {
		err = fmt.Errorf("block at %d of %s: %w", block*BlockSize, d.path, ErrCorrupt)
		d.report(EventCorrupt, block*BlockSize, int64(len(p)), err)
	}
	return err
}

// Verify reads a range of the disk, from the medium where possible, and compares it with the checksums, while the disk is in use.
// pace, if not nil, is called with the bytes of each step before it; it may wait, or end the scrub with an error.
func (d *Disk) Verify(ctx context.Context, off, length int64, pace func(bytes int64) error) (Report, error) {
	var report Report
	if d.sums == nil {
		return report, fmt.Errorf("verify disk %s: it has no checksums", d.path)
	}
	if err := d.inside(off, length); err != nil {
		return report, fmt.Errorf("verify disk %s: %w", d.path, err)
	}
	medium, done := d.medium()
	defer done()
	buf := aligned(scrubChunk * BlockSize)
	first, end := d.blocks(off, length)
	for first < end {
		n := min(end-first, scrubChunk)
		err := ctx.Err()
		if err == nil && pace != nil {
			err = pace(n * BlockSize)
		}
		if err == nil {
			err = d.scrub(medium, buf, first, first+n, &report)
		}
		if err != nil {
			return report, fmt.Errorf("verify disk %s: %w", d.path, err)
		}
		first += n
	}
	return report, nil
}

// medium opens the disk once more, past the page cache if that can be done, since what has rotted may still be right in there.
func (d *Disk) medium() (f vfs.File, done func()) {
	if _, ok := d.fs.(vfs.OS); ok && !d.device && d.Size()%BlockSize == 0 {
		if direct, err := d.fs.Open(d.path, os.O_RDONLY|unix.O_DIRECT); err == nil {
			return direct, func() { _ = direct.Close() }
		}
	}
	return d.file, func() {}
}

// aligned returns memory as O_DIRECT wants it.
func aligned(n int) []byte {
	b := make([]byte, n+BlockSize)
	skip := -uintptr(unsafe.Pointer(&b[0])) % BlockSize
	return b[skip : skip+uintptr(n)]
}

// scrub looks at a few blocks.
func (d *Disk) scrub(medium vfs.File, buf []byte, first, end int64, report *Report) error {
	p := buf[:d.blockEnd(end-1)-first*BlockSize]
	_, failed := medium.ReadAt(p, first*BlockSize)
	for block := first; block < end; block++ {
		n := min(int64(len(p)), BlockSize)
		r := Range{block * BlockSize, n}
		if d.sums.marks.unverified(block) {
			report.Unverified = appendRange(report.Unverified, r)
			p = p[n:]
			continue
		}
		bad, err := int64(-1), failed
		if err == nil {
			bad, err = d.sums.compare(p[:n], block*BlockSize)
		}
		if err != nil || bad >= 0 {
			err = d.again(medium, p[:n:n], block)
		}
		if errors.Is(err, ErrSidecar) {
			return err
		}
		if err != nil {
			report.Bad = appendRange(report.Bad, r)
		}
		report.Checked += n
		p = p[n:]
	}
	return nil
}

// appendRange joins neighbours.
func appendRange(ranges []Range, r Range) []Range {
	if n := len(ranges); n > 0 && ranges[n-1].Off+ranges[n-1].Length == r.Off {
		ranges[n-1].Length += r.Length
		return ranges
	}
	return append(ranges, r)
}

// Source reads what a range should contain from elsewhere, whole blocks.
type Source func(ctx context.Context, p []byte, off int64) error

// Repair puts the blocks of a range right that do not match their checksums, with what from has, if that does match. Others it
// leaves alone. repaired is in bytes; if from has not the right content for some, the error wraps [ErrCorrupt].
func (d *Disk) Repair(ctx context.Context, r Range, from Source) (repaired int64, err error) {
	err = d.writable()
	if err == nil && d.sums == nil {
		err = errors.New("it has no checksums")
	}
	if err == nil {
		err = d.inside(r.Off, r.Length)
	}
	var errs []error
	first, end := d.blocks(r.Off, r.Length)
	for block := first; err == nil && block < end; block++ {
		if err = ctx.Err(); err == nil {
			n, failed := d.repair(ctx, block, from)
			errs = append(errs, failed)
			repaired += n
		}
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return repaired, fmt.Errorf("repair disk %s: %w", d.path, err)
	}
	return repaired, nil
}

func (d *Disk) repair(ctx context.Context, block int64, from Source) (repaired int64, err error) {
	off := block * BlockSize
	p := borrow(int(d.blockEnd(block) - off))
	defer scratch.Put(p)
	hold := d.held.take(block, block+1, d.sums.slots)
	defer d.held.drop(hold, d.sums.slots)
	if _, err := d.file.ReadAt(*p, off); err == nil {
		if bad, err := d.sums.compare(*p, off); bad < 0 || err != nil {
			return 0, err
		}
	}
	if sum, err := d.sums.at(block); err != nil || sum == unknown || d.sums.marks.unverified(block) {
		return 0, errors.Join(err, fmt.Errorf("block at %d cannot be read, and what it should be is not known", off))
	}
	if err := from(ctx, *p, off); err != nil {
		return 0, fmt.Errorf("fetch block at %d: %w", off, err)
	}
	bad, err := d.sums.compare(*p, off)
	if err == nil && bad >= 0 {
		err = fmt.Errorf("block at %d is not right elsewhere either: %w", off, ErrCorrupt)
	}
	if err == nil {
		err = d.touch(block, block+1)
	}
	if err == nil {
		_, err = d.write(*p, off)
	}
	if err != nil {
		return 0, err
	}
	d.report(EventRepaired, off, int64(len(*p)), nil)
	return int64(len(*p)), nil
}

// Salvage reads what is there, right or wrong: for those who keep it as it is.
func (d *Disk) Salvage(p []byte, off int64) error {
	err := d.inside(off, int64(len(p)))
	if err == nil {
		_, err = d.read(p, off)
	}
	return err
}

// Accept takes a range as it is: an operator's decision about blocks that cannot be repaired.
func (d *Disk) Accept(r Range) error {
	err := d.writable()
	if err == nil {
		err = d.inside(r.Off, r.Length)
	}
	if err != nil || d.sums == nil || r.Length == 0 {
		return err
	}
	first, end := d.blocks(r.Off, r.Length)
	hold := d.held.take(first, end, d.sums.slots)
	defer d.held.drop(hold, d.sums.slots)
	if err := d.touch(first, end); err != nil {
		return err
	}
	return d.resum(first, end)
}

// Condemn says that nobody knows what a range of whole blocks should hold: reading it fails with [ErrCorrupt] until it is written
// anew. A power loss before it was synced, or in the midst of later writes nearby, may make that be forgotten.
func (d *Disk) Condemn(r Range) error {
	err := d.writable()
	if err == nil {
		err = d.inside(r.Off, r.Length)
	}
	if err == nil && (d.sums == nil || !d.whole(r.Off, r.Length)) {
		err = errors.New("it has no checksums, or the range is not of whole blocks")
	}
	if err != nil || r.Length == 0 {
		return err
	}
	first, end := d.blocks(r.Off, r.Length)
	hold := d.held.take(first, end, nil)
	defer d.held.drop(hold, nil)
	if err := d.touch(first, end); err != nil {
		return err
	}
	if err := d.sums.fill(first, end, condemned); err != nil {
		return err
	}
	// What was there is not to be taken for it by whoever looks at the file, nor is a hole for zeroes.
	filler := borrow(int(min(r.Length, scrubChunk*BlockSize)))
	defer scratch.Put(filler)
	for i := range *filler {
		(*filler)[i] = 0xdb
	}
	for off := r.Off; off < r.Off+r.Length; off += int64(len(*filler)) {
		if _, err := d.write((*filler)[:min(int64(len(*filler)), r.Off+r.Length-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// Sums copies the checksums of blocks from first on into sums, for comparing disks without reading them: equal blocks have equal
// checksums, 0 those of zeroes. ok is false if not all are known.
func (d *Disk) Sums(first int64, sums []uint64) (ok bool, err error) {
	if d.sums == nil || first < 0 || first+int64(len(sums)) > blocksIn(d.Size()) {
		return false, nil
	}
	ok = true
	for i := range sums {
		if sums[i], err = d.sums.at(first + int64(i)); err != nil {
			return false, err
		}
		ok = ok && sums[i] < condemned && !d.sums.marks.unverified(first+int64(i))
	}
	return ok, nil
}
