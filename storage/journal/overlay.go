package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"

	"github.com/godwit-project/godwit/storage/changes"
)

const (
	block = changes.BlockSize
	// copyRun is how much is copied at a time, in bytes.
	copyRun = 1 << 20
)

// overlay is what was saved of one volume: the content at its own place in a sparse file, and one bit for each block.
type overlay struct {
	data, bits File
	size       int64
}

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

func bit(m []byte, first, b int64) bool { return m[b/8-first]>>uint(b%8)&1 == 1 }

// save copies those blocks of a range that are not saved yet from the disk, and marks them in fresh.
func (o *overlay) save(from Disk, fresh *changes.Set, off, length int64) error {
	end := min((off+length+block-1)/block*block, o.size)
	buf := make([]byte, block)
	for at := off / block * block; at < end; at += copyRun {
		n := min(copyRun, end-at)
		m, first, err := o.mapOf(at, n)
		if err != nil {
			return err
		}
		for b := at; b < at+n; b += block {
			if bit(m, first, b/block) || fresh.Any(b, 1) {
				continue
			}
			p := buf[:min(block, o.size-b)]
			if err := readFull(from, p, b); err != nil {
				return err
			}
			if err := o.put(p, b); err != nil {
				return err
			}
			fresh.Mark(b, 1)
		}
	}
	return nil
}

// put writes content, except zeroes: nothing was ever written there before.
func (o *overlay) put(p []byte, off int64) error {
	if p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) {
		return nil
	}
	_, err := o.data.WriteAt(p, off)
	return err
}

// seal makes what was saved durable: first the content, then the bits.
func (o *overlay) seal(fresh *changes.Set) error {
	if fresh.Count() == 0 {
		return nil
	}
	if err := o.data.Sync(); err != nil {
		return err
	}
	for at := int64(0); ; {
		off, n := fresh.Next(at, copyRun)
		if n == 0 || off < at {
			break
		}
		m, first, err := o.mapOf(off, n)
		if err != nil {
			return err
		}
		for b := off / block; b < (off+n)/block; b++ {
			m[b/8-first] |= 1 << uint(b%8)
		}
		if _, err := o.bits.WriteAt(m, first); err != nil {
			return err
		}
		at = off + n
	}
	return o.bits.Sync()
}

// fill reads those blocks of p that are saved here and not filled yet; it returns how many it filled. off is a whole block.
func (o *overlay) fill(p []byte, off int64, filled []bool) (int, error) {
	m, first, err := o.mapOf(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	count := 0
	for i := range filled {
		if filled[i] || !bit(m, first, off/block+int64(i)) {
			continue
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
	for at := int64(0); at*8*block < o.size; at += int64(len(buf)) {
		if err := readFull(o.bits, buf, at); err != nil {
			return 0, err
		}
		for _, b := range buf {
			n += int64(bits.OnesCount8(b))
		}
	}
	return n * block, nil
}
