package storage

import "math/bits"

// blockSize is the granularity, in bytes, at which it is known what the replica lacks. At 4 KiB a volume of 1 TiB costs
// 32 MiB of memory, and a small write costs no more on the link than its page.
const blockSize = 4096

// bitmap holds one bit per block of a volume. It is not safe for concurrent use.
type bitmap struct {
	words  []uint64
	blocks int64
	count  int64 // bits set
}

func newBitmap(size int64) *bitmap {
	blocks := (size + blockSize - 1) / blockSize
	return &bitmap{words: make([]uint64, (blocks+63)/64), blocks: blocks}
}

// set marks every block that the range touches.
func (b *bitmap) set(off, length int64) { b.change(off, length, true) }

// clear unmarks every block that the range touches.
func (b *bitmap) clear(off, length int64) { b.change(off, length, false) }

func (b *bitmap) change(off, length int64, on bool) {
	if length <= 0 {
		return
	}
	first, last := off/blockSize, min((off+length-1)/blockSize, b.blocks-1)
	for w := first / 64; w <= last/64; w++ {
		mask := ^uint64(0)
		if w == first/64 {
			mask <<= uint(first % 64)
		}
		if w == last/64 {
			mask &= ^uint64(0) >> uint(63-last%64)
		}
		before := bits.OnesCount64(b.words[w])
		if on {
			b.words[w] |= mask
		} else {
			b.words[w] &^= mask
		}
		b.count += int64(bits.OnesCount64(b.words[w]) - before)
	}
}

// next finds the first run of marked blocks at or after the byte offset from, beginning again at 0 where there is none, and
// returns its offset and length in bytes, at most most (a multiple of blockSize). The length is 0 when nothing is marked.
func (b *bitmap) next(from, most int64) (off, length int64) {
	if b.count == 0 {
		return 0, 0
	}
	start := b.find(from/blockSize, true)
	if start == b.blocks {
		start = b.find(0, true)
	}
	end := min(b.find(start, false), start+most/blockSize)
	return start * blockSize, (end - start) * blockSize
}

// find returns the first block at or after from whose bit is on (or off), or the number of blocks.
func (b *bitmap) find(from int64, on bool) int64 {
	for i := from; i < b.blocks; {
		w := b.words[i/64]
		if !on {
			w = ^w
		}
		if w >>= uint(i % 64); w != 0 {
			return min(i+int64(bits.TrailingZeros64(w)), b.blocks)
		}
		i += 64 - i%64
	}
	return b.blocks
}
