package process

import "github.com/zeebo/xxh3"

// page is the content of one page, never changed once it is made: tables and states share them.
type page = [PageSize]byte

var zeroes page

// table is what memory was when it was last looked at, page by page.
type table struct {
	pages   []*page  // nil is all 0
	changed []uint64 // the generation in which it was last seen to have changed
	// generation counts looks.
	generation uint64

	// hashes of the pages, as they were in generation hashed; of all 0 it is 0
	hashes []uint64
	hashed uint64
	sum    uint64 // of hashes
}

// resize makes the table as long as memory is.
func (t *table) resize(size int) {
	n := size / PageSize
	for i := n; i < len(t.pages); i++ {
		t.sum -= t.hashes[i]
	}
	if n <= len(t.pages) {
		t.pages, t.changed, t.hashes = t.pages[:n], t.changed[:n], t.hashes[:n]
		return
	}
	more := n - len(t.pages)
	t.pages = append(t.pages, make([]*page, more)...)
	t.changed = append(t.changed, make([]uint64, more)...)
	t.hashes = append(t.hashes, make([]uint64, more)...)
}

// look finds what has changed, of the pages that may have.
func (t *table) look(memory []byte, maybe []span) {
	t.generation++
	t.resize(len(memory))
	for _, s := range maybe {
		for i := s.from; i < s.to; i++ {
			if now := (*page)(memory[i*PageSize:]); !same(now, t.pages[i]) {
				t.note(i, now)
			}
		}
	}
}

// same compares a page with what the table has of it.
func same(now, old *page) bool {
	if old == nil {
		old = &zeroes
	}
	return *now == *old
}

// note takes a copy of a page.
func (t *table) note(i int, now *page) {
	if *now == zeroes {
		t.put(i, nil)
		return
	}
	kept := *now
	t.put(i, &kept)
}

// put makes a page, which is never changed, that of the table.
func (t *table) put(i int, p *page) { t.pages[i], t.changed[i] = p, t.generation }

// since returns the pages that have been seen to change after a generation.
func (t *table) since(mark uint64) []Page {
	var all []Page
	for i, p := range t.pages {
		if t.changed[i] > mark {
			all = append(all, asPage(i, p))
		}
	}
	return all
}

// whole returns the pages that are not 0.
func (t *table) whole() []Page {
	var all []Page
	for i, p := range t.pages {
		if p != nil {
			all = append(all, asPage(i, p))
		}
	}
	return all
}

func asPage(i int, p *page) Page {
	if p == nil {
		return Page{Number: uint32(i)}
	}
	return Page{Number: uint32(i), Data: p[:]}
}

// digest returns the sum of the pages' hashes. It costs as much as has changed since the last time.
func (t *table) digest() uint64 {
	for i, p := range t.pages {
		if t.changed[i] <= t.hashed {
			continue
		}
		t.sum -= t.hashes[i]
		t.hashes[i] = 0
		if p != nil {
			t.hashes[i] = xxh3.HashSeed(p[:], uint64(i)+1)
		}
		t.sum += t.hashes[i]
	}
	t.hashed = t.generation
	return t.sum
}
