package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"syscall"

	"github.com/godwit-project/godwit/storage/changes"
)

const (
	block = changes.BlockSize
	// copyRun is how much is copied at a time, in bytes.
	copyRun = 1 << 20
)

// overlay is what was saved of one volume: the content at its own place in a sparse file, and one bit for each block. Behind those
// bits there is another one for each block, which says that it had no right content when it was to be saved; journals of older
// releases end before.
type overlay struct {
	data, bits File
	size       int64
}

// errUnreadable is what reading a cut fails with where the volume had no right content.
var errUnreadable = fmt.Errorf("the volume had rotted there, or was lost, when the cut was to keep it: %w", syscall.EIO)

// rottenAt is where, in the file of bits, those begin that say so: on a page of their own.
func (o *overlay) rottenAt() int64 { return (o.size/block/8 + block) / block * block }

func overlayName(id, vol int) string { return fmt.Sprintf("cut-%d-%d", id, vol) }

func openOverlay(dir FS, id, vol int, size int64, create bool) (overlay, error) {
	name := overlayName(id, vol)
	data, err := dir.Open(name, create)
	if err != nil {
		return overlay{}, err
	}
	m, err := dir.Open(name+".map", create)
	if err != nil {
		return overlay{}, errors.Join(err, data.Close())
	}
	return overlay{data: data, bits: m, size: size}, nil
}

func (o *overlay) close() error {
	if o.data == nil {
		return nil
	}
	return errors.Join(o.data.Close(), o.bits.Close())
}

// mapOf reads the bits of whole bytes around the range; bit says whether a block of it is saved.
func (o *overlay) mapOf(off, length int64) (m []byte, first int64, err error) {
	first = off / block / 8
	last := (off + length - 1) / block / 8
	m = make([]byte, last-first+1)
	return m, first, readFull(o.bits, m, first)
}

// rottenOf is mapOf for the bits that say what cannot be read.
func (o *overlay) rottenOf(off, length int64) (m []byte, first int64, err error) {
	first = off / block / 8
	last := (off + length - 1) / block / 8
	m = make([]byte, last-first+1)
	return m, first, readFull(o.bits, m, o.rottenAt()+first)
}

func bit(m []byte, first, b int64) bool { return m[b/8-first]>>uint(b%8)&1 == 1 }

// unsealed is what was saved of one volume and is not durable yet; rotten of it is what could not be read.
type unsealed struct{ saved, rotten *changes.Set }

func newUnsealed(size int64) unsealed { return unsealed{changes.NewSet(size), changes.NewSet(size)} }

// save copies those blocks of a range that are not saved yet from the disk, and marks them in fresh.
func (o *overlay) save(from Disk, fresh unsealed, off, length int64) error {
	end := min((off+length+block-1)/block*block, o.size)
	buf := make([]byte, block)
	for at := off / block * block; at < end; at += copyRun {
		n := min(copyRun, end-at)
		m, first, err := o.mapOf(at, n)
		if err != nil {
			return err
		}
		for b := at; b < at+n; b += block {
			if bit(m, first, b/block) || fresh.saved.Any(b, 1) {
				continue
			}
			p := buf[:min(block, o.size-b)]
			right, err := readAnyway(from, p, b)
			if err == nil && right {
				err = o.put(p, b)
			}
			if err != nil {
				return err
			}
			fresh.saved.Mark(b, 1)
			if !right {
				fresh.rotten.Mark(b, 1)
			}
		}
	}
	return nil
}

// readAnyway reads what is about to be overwritten, and says whether that is right. A block that rotted must not stop the epochs that
// would put it right.
func readAnyway(from Disk, p []byte, off int64) (right bool, err error) {
	err = readFull(from, p, off)
	if rotten, ok := from.(Salvager); ok && err != nil {
		return false, rotten.Salvage(p, off)
	}
	return err == nil, err
}

// put writes content, except zeroes: nothing was ever written there before.
func (o *overlay) put(p []byte, off int64) error {
	if p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) {
		return nil
	}
	_, err := o.data.WriteAt(p, off)
	return err
}

// seal makes what was saved durable: first the content, then which of it cannot be read, then that it is saved.
func (o *overlay) seal(fresh unsealed) error {
	if fresh.saved.Count() == 0 {
		return nil
	}
	if err := o.data.Sync(); err != nil {
		return err
	}
	changed, err := o.mark(fresh.saved, 0, o.rottenAt(), func(b int64) bool { return fresh.rotten.Any(b*block, 1) })
	if err == nil && changed {
		err = o.bits.Sync()
	}
	if err != nil {
		return err
	}
	if _, err := o.mark(fresh.saved, 0, 0, func(int64) bool { return true }); err != nil {
		return err
	}
	return o.bits.Sync()
}

// mark makes those bits which begin there what they are to be, for the blocks of a set; changed says that one was not so.
func (o *overlay) mark(set *changes.Set, from, begin int64, is func(b int64) bool) (changed bool, err error) {
	for {
		off, n := set.Next(from, copyRun)
		if n == 0 || off < from {
			return changed, nil
		}
		first := off / block / 8
		was := make([]byte, (off+n-1)/block/8-first+1)
		if err := readFull(o.bits, was, begin+first); err != nil {
			return changed, err
		}
		now := bytes.Clone(was)
		for b := off / block; b < (off+n)/block; b++ {
			if now[b/8-first] &^= 1 << uint(b%8); is(b) {
				now[b/8-first] |= 1 << uint(b%8)
			}
		}
		if !bytes.Equal(was, now) {
			changed = true
			if _, err := o.bits.WriteAt(now, begin+first); err != nil {
				return changed, err
			}
		}
		from = off + n
	}
}

// fill reads those blocks of p that are saved here and not filled yet; it returns how many it filled. off is a whole block.
func (o *overlay) fill(p []byte, off int64, filled []bool) (int, error) {
	m, first, err := o.mapOf(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	rotten, _, err := o.rottenOf(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	count := 0
	for i := range filled {
		if filled[i] || !bit(m, first, off/block+int64(i)) {
			continue
		}
		if bit(rotten, first, off/block+int64(i)) {
			return count, fmt.Errorf("%d bytes at %d: %w", block, off+int64(i)*block, errUnreadable)
		}
		part := p[i*block : min((i+1)*block, len(p))]
		if err := readFull(o.data, part, off+int64(i)*block); err != nil {
			return count, err
		}
		filled[i] = true
		count++
	}
	return count, nil
}

// each calls f with the runs of saved blocks.
func (o *overlay) each(f func(off, length int64) error) error {
	const window = 128 << 20
	for at := int64(0); at < o.size; at += window {
		n := min(window, o.size-at)
		m, first, err := o.mapOf(at, n)
		if err != nil {
			return err
		}
		for b := at; b < at+n; {
			if m[b/block/8-first] == 0 {
				b = (b/block/8 + 1) * 8 * block
				continue
			}
			run := int64(0)
			for b+run < at+n && run < copyRun && bit(m, first, (b+run)/block) {
				run += block
			}
			if run > 0 {
				if err := f(b, min(run, o.size-b)); err != nil {
					return err
				}
			}
			b += max(run, block)
		}
	}
	return nil
}

// count is the number of bytes saved.
func (o *overlay) count() (int64, error) {
	n := int64(0)
	buf := make([]byte, 64<<10)
	all := (o.size + 8*block - 1) / (8 * block)
	for at := int64(0); at < all; at += int64(len(buf)) {
		part := buf[:min(int64(len(buf)), all-at)]
		if err := readFull(o.bits, part, at); err != nil {
			return 0, err
		}
		for _, b := range part {
			n += int64(bits.OnesCount8(b))
		}
	}
	return n * block, nil
}
