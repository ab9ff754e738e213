package disk

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// maxHolds is how many ranges can be held at once; whoever comes then waits.
const maxHolds = 64

// slot is a range of blocks that is being written, in the sidecar, so that the heir of a killed process knows which blocks may
// not match their checksums. It counts if end is not 0.
type slot struct{ first, end uint64 }

// holds gives those who write overlapping blocks turns.
type holds struct {
	mu      sync.Mutex
	free    sync.Cond
	used    uint64
	spans   [maxHolds]span
	waiting int
}

// span is a range of blocks, end excluded.
type span struct{ first, end int64 }

func newHolds() *holds {
	h := &holds{}
	h.free.L = &h.mu
	return h
}

// take waits until nobody holds any of the blocks, and holds them. They are noted in slots, if there are any.
func (h *holds) take(first, end int64, slots []slot) int {
	h.mu.Lock()
	for h.used == ^uint64(0) || h.overlaps(first, end) {
		h.waiting++
		h.free.Wait()
		h.waiting--
	}
	return h.takeLocked(first, end, slots)
}

// try is take if that needs no waiting.
func (h *holds) try(first, end int64, slots []slot) (hold int, ok bool) {
	h.mu.Lock()
	if h.used == ^uint64(0) || h.overlaps(first, end) {
		h.mu.Unlock()
		return 0, false
	}
	return h.takeLocked(first, end, slots), true
}

// takeLocked gives the lock back.
func (h *holds) takeLocked(first, end int64, slots []slot) int {
	i := bits.TrailingZeros64(^h.used)
	h.used |= 1 << i
	h.spans[i] = span{first, end}
	h.mu.Unlock()
	if slots != nil {
		atomic.StoreUint64(&slots[i].first, uint64(first))
		atomic.StoreUint64(&slots[i].end, uint64(end))
	}
	return i
}

func (h *holds) drop(i int, slots []slot) {
	if slots != nil {
		atomic.StoreUint64(&slots[i].end, 0)
	}
	h.mu.Lock()
	h.used &^= 1 << i
	if h.waiting > 0 {
		h.free.Broadcast()
	}
	h.mu.Unlock()
}

func (h *holds) overlaps(first, end int64) bool {
	for used := h.used; used != 0; used &= used - 1 {
		s := h.spans[bits.TrailingZeros64(used)]
		if first < s.end && s.first < end {
			return true
		}
	}
	return false
}
