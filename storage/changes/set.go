package changes

import "math/bits"

// BlockSize is the granularity, in bytes, at which it is known what the other end lacks. A small write costs no more on the link
// than its page.
const BlockSize = 4096

const (
	pageWords  = 64
	pageBlocks = pageWords * 64
	// spares is how many pages a set keeps for its next marks.
	spares = 64
)

// Set holds one bit per block of a volume. Memory is there only where something is marked: 512 bytes for each 16 MiB of the
// volume, and 0.5 MiB of index per TiB. Offsets and lengths are bytes; a block that a range touches counts as a whole. It is
// not safe for concurrent use.
type Set struct {
	pages  []*page
	used   []uint64 // one bit for each page that is there
	blocks int64
	count  int64 // blocks marked
	spare  []*page
}

type page struct {
	words [pageWords]uint64
	count int
}

// NewSet makes an empty set for a volume of that size.
func NewSet(size int64) *Set {
	blocks := (size + BlockSize - 1) / BlockSize
	pages := (blocks + pageBlocks - 1) / pageBlocks
	return &Set{pages: make([]*page, pages), used: make([]uint64, (pages+63)/64), blocks: blocks}
}

// Count is the number of blocks that are marked.
func (s *Set) Count() int64 { return s.count }

// Mark marks every block that the range touches.
func (s *Set) Mark(off, length int64) {
	for w, last := s.words(off, length); w <= last; w++ {
		p := s.pages[w/pageWords]
		if p == nil {
			p = s.addPage(w / pageWords)
		}
		if mask := s.mask(w, off, length); p.words[w%pageWords]&mask != mask {
			s.put(p, w%pageWords, p.words[w%pageWords]|mask)
		}
	}
}

// Clear unmarks every block that the range touches.
func (s *Set) Clear(off, length int64) {
	for w, last := s.words(off, length); w <= last; w++ {
		p := s.pages[w/pageWords]
		if p == nil {
			w |= pageWords - 1
			continue
		}
		s.put(p, w%pageWords, p.words[w%pageWords]&^s.mask(w, off, length))
		if p.count == 0 {
			s.dropPage(w / pageWords)
		}
	}
}

// Any says whether a block that the range touches is marked.
func (s *Set) Any(off, length int64) bool {
	if s.count == 0 {
		return false
	}
	for w, last := s.words(off, length); w <= last; w++ {
		p := s.pages[w/pageWords]
		if p == nil {
			w |= pageWords - 1
			continue
		}
		if p.words[w%pageWords]&s.mask(w, off, length) != 0 {
			return true
		}
	}
	return false
}

// All says whether every block that the range touches is marked; there must be one.
func (s *Set) All(off, length int64) bool {
	for w, last := s.words(off, length); w <= last; w++ {
		p := s.pages[w/pageWords]
		if p == nil {
			return false
		}
		if mask := s.mask(w, off, length); p.words[w%pageWords]&mask != mask {
			return false
		}
	}
	return true
}

// Merge marks what is marked in the other set, which has the same size.
func (s *Set) Merge(other *Set) {
	for i := other.nextPage(0); i < int64(len(other.pages)); i = other.nextPage(i + 1) {
		p := s.pages[i]
		if p == nil {
			p = s.addPage(i)
		}
		for w, bits := range other.pages[i].words {
			s.put(p, int64(w), p.words[w]|bits)
		}
	}
}

// Drop unmarks what is marked in gone and in none of kept, which have the same size.
func (s *Set) Drop(gone *Set, kept ...*Set) {
	for i := gone.nextPage(0); i < int64(len(gone.pages)); i = gone.nextPage(i + 1) {
		p := s.pages[i]
		if p == nil {
			continue
		}
		for w, bits := range gone.pages[i].words {
			for _, k := range kept {
				if other := k.pages[i]; other != nil {
					bits &^= other.words[w]
				}
			}
			s.put(p, int64(w), p.words[w]&^bits)
		}
		if p.count == 0 {
			s.dropPage(i)
		}
	}
}

// Reset unmarks everything.
func (s *Set) Reset() {
	for i := s.nextPage(0); i < int64(len(s.pages)); i = s.nextPage(i + 1) {
		s.count -= int64(s.pages[i].count)
		s.dropPage(i)
	}
}

// Next finds the first run of marked blocks at or after the byte offset from, beginning again at 0 where there is none, and
// returns its offset and length in bytes, at most most (a multiple of BlockSize). The length is 0 when nothing is marked.
func (s *Set) Next(from, most int64) (off, length int64) {
	if s.count == 0 {
		return 0, 0
	}
	start := s.find(from/BlockSize, true)
	if start == s.blocks {
		start = s.find(0, true)
	}
	end := min(s.find(start, false), start+most/BlockSize)
	return start * BlockSize, (end - start) * BlockSize
}

// words are the first and the last word that the range touches; the last comes before the first where there is none.
func (s *Set) words(off, length int64) (first, last int64) {
	if length <= 0 {
		return 0, -1
	}
	return off / BlockSize / 64, min((off+length-1)/BlockSize, s.blocks-1) / 64
}

// mask has the blocks of a word that the range touches.
func (s *Set) mask(w, off, length int64) uint64 {
	first, last := off/BlockSize, min((off+length-1)/BlockSize, s.blocks-1)
	mask := ^uint64(0)
	if w == first/64 {
		mask <<= uint(first % 64)
	}
	if w == last/64 {
		mask &= ^uint64(0) >> uint(63-last%64)
	}
	return mask
}

func (s *Set) put(p *page, word int64, value uint64) {
	change := bits.OnesCount64(value) - bits.OnesCount64(p.words[word])
	p.words[word] = value
	p.count += change
	s.count += int64(change)
}

func (s *Set) addPage(index int64) *page {
	var p *page
	if last := len(s.spare) - 1; last >= 0 {
		p, s.spare = s.spare[last], s.spare[:last]
		*p = page{}
	} else {
		p = new(page)
	}
	s.pages[index] = p
	s.used[index/64] |= 1 << uint(index%64)
	return p
}

func (s *Set) dropPage(index int64) {
	if len(s.spare) < spares {
		s.spare = append(s.spare, s.pages[index])
	}
	s.pages[index] = nil
	s.used[index/64] &^= 1 << uint(index%64)
}

// nextPage returns the first page at or after index that is there, or the number of pages.
func (s *Set) nextPage(index int64) int64 {
	for index < int64(len(s.pages)) {
		if w := s.used[index/64] >> uint(index%64); w != 0 {
			return index + int64(bits.TrailingZeros64(w))
		}
		index += 64 - index%64
	}
	return int64(len(s.pages))
}

// find returns the first block at or after from that is marked (or not), or the number of blocks.
func (s *Set) find(from int64, on bool) int64 {
	for i := from; i < s.blocks; {
		p := s.pages[i/pageBlocks]
		if p == nil {
			if !on {
				return i
			}
			i = s.nextPage(i/pageBlocks) * pageBlocks
			continue
		}
		w := p.words[i%pageBlocks/64]
		if !on {
			w = ^w
		}
		if w >>= uint(i % 64); w != 0 {
			return min(i+int64(bits.TrailingZeros64(w)), s.blocks)
		}
		i += 64 - i%64
	}
	return s.blocks
}
