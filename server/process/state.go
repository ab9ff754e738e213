package process

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"
)

// digest returns the number for a state of which the pages' sum and the globals are known.
func digest(sum uint64, globals []byte) uint64 {
	return xxh3.HashSeed(globals, sum)
}

// checkPages refuses pages that do not fit into memory of that size.
func checkPages(pages []Page, size int) error {
	last := -1
	for _, p := range pages {
		if int(p.Number) >= size/PageSize {
			return fmt.Errorf("%w: page %d of a memory of %d bytes", ErrState, p.Number, size)
		}
		if len(p.Data) != 0 && len(p.Data) != PageSize {
			return fmt.Errorf("%w: page %d has %d bytes", ErrState, p.Number, len(p.Data))
		}
		if int(p.Number) <= last {
			return fmt.Errorf("%w: page %d after page %d", ErrState, p.Number, last)
		}
		last = int(p.Number)
	}
	return nil
}

// notePages puts pages into the table, which is as long as memory.
func (t *table) notePages(pages []Page) {
	for _, p := range pages {
		kept := (*page)(nil)
		if len(p.Data) != 0 && *(*page)(p.Data) != zeroes {
			kept = (*page)(p.Data)
		}
		t.put(int(p.Number), kept)
	}
}

// putPages makes memory at least that long and writes pages into it.
func (i *instance) putPages(pages []Page, size int) error {
	if err := i.grow(size); err != nil {
		return err
	}
	memory := i.memory()
	for _, p := range pages {
		to := memory[int(p.Number)*PageSize:][:PageSize]
		if len(p.Data) == 0 {
			clear(to)
		} else {
			copy(to, p.Data)
		}
	}
	return nil
}

// AppendPages appends pages as bytes: a number of them, then each with its own, whether it is all 0, and its bytes unless it is.
// All numbers are little-endian.
func AppendPages(b []byte, pages []Page) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(pages)))
	for _, p := range pages {
		b = binary.LittleEndian.AppendUint32(b, p.Number)
		if len(p.Data) == 0 {
			b = append(b, 0)
		} else {
			b = append(append(b, 1), p.Data...)
		}
	}
	return b
}

// ParsePages takes off what AppendPages appended; the pages share the bytes.
func ParsePages(b []byte) (pages []Page, rest []byte, err error) {
	cut := fmt.Errorf("%w: its pages are cut off or damaged", ErrState)
	if len(b) < 4 {
		return nil, nil, cut
	}
	n := int(binary.LittleEndian.Uint32(b))
	b = b[4:]
	if n > len(b)/5 {
		return nil, nil, cut
	}
	pages = make([]Page, 0, n)
	for range n {
		if len(b) < 5 || b[4] > 1 {
			return nil, nil, cut
		}
		p := Page{Number: binary.LittleEndian.Uint32(b)}
		whole := b[4] == 1
		b = b[5:]
		if whole {
			if len(b) < PageSize {
				return nil, nil, cut
			}
			p.Data, b = b[:PageSize:PageSize], b[PageSize:]
		}
		pages = append(pages, p)
	}
	return pages, b, nil
}

// Size returns about how many bytes Append appends.
func (s State) Size() int {
	return len(s.Module) + 8 + len(s.Globals) + len(s.Pages)*(5+PageSize)
}

// Append appends the state as bytes: the module, the globals with their length, the pages.
func (s State) Append(b []byte) []byte {
	b = append(b, s.Module[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.Globals)))
	b = append(b, s.Globals...)
	return AppendPages(b, s.Pages)
}

// ParseState is the reverse of Append. The state shares the bytes.
func ParseState(b []byte) (State, error) {
	var s State
	if len(b) < len(s.Module)+4 {
		return s, fmt.Errorf("%w: it is cut off", ErrState)
	}
	b = b[copy(s.Module[:], b):]
	n := int(binary.LittleEndian.Uint32(b))
	b = b[4:]
	if n > len(b) {
		return s, fmt.Errorf("%w: it is cut off", ErrState)
	}
	var err error
	s.Globals = b[:n:n]
	s.Pages, b, err = ParsePages(b[n:])
	if err == nil && len(b) != 0 {
		err = fmt.Errorf("%w: %d bytes too many", ErrState, len(b))
	}
	return s, err
}
