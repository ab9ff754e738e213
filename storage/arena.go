package storage

import (
	"sync/atomic"

	"github.com/godwit-project/godwit/storage/changes"
)

const (
	// arenaChunk is how much memory is taken at a time, in blocks.
	arenaChunk = 64
	// arenaMost is what all groups of a store keep in memory of what writers put aside, in chunks (32 MiB); the rest goes into files.
	arenaMost = 128
)

// arena keeps content that an epoch on its way still owes, and that writers are about to replace: a copy in memory costs them less
// than a file. It is under Group.mu, except the content of blocks that were reserved, which is the writer's until it is kept.
type arena struct {
	taken  *atomic.Int64                                    // chunks, by all arenas of the store; nil: no memory is taken any more
	chunks [arenaMost]*[arenaChunk * changes.BlockSize]byte // an array, as writers look at their blocks while others reserve more
	grown  int                                              // chunks that are there
	used   int                                              // blocks
	at     map[asideBlock]int
	saving int // writers that have reserved blocks and not kept them yet
}

// asideBlock is a block of a member.
type asideBlock struct {
	index int
	off   int64
}

// reserve takes blocks for all of the spans; ok is false if there is not enough room. settle must follow.
func (a *arena) reserve(spans []changes.Span) (first int, ok bool) {
	blocks := 0
	for _, s := range spans {
		blocks += int(wholeBlocks(s.Length) / changes.BlockSize)
	}
	if !a.grow(chunksOf(a.used + blocks)) {
		return 0, false
	}
	first = a.used
	a.used += blocks
	a.saving++
	return first, true
}

// chunksOf is how many chunks so many blocks take.
func chunksOf(blocks int) int { return (blocks + arenaChunk - 1) / arenaChunk }

// grow has so many chunks there, or takes none if the store has not enough left.
func (a *arena) grow(chunks int) bool {
	more := int64(chunks - a.grown)
	switch {
	case more <= 0:
		return true
	case a.taken == nil:
		return false
	case a.taken.Add(more) > arenaMost:
		a.taken.Add(-more)
		return false
	}
	for ; a.grown < chunks; a.grown++ {
		a.chunks[a.grown] = new([arenaChunk * changes.BlockSize]byte)
	}
	return true
}

// block is the memory of a block, which may be read or written without the lock.
func (a *arena) block(i int) []byte {
	off := i % arenaChunk * changes.BlockSize
	return a.chunks[i/arenaChunk][off : off+changes.BlockSize]
}

// keep makes what a writer has copied findable.
func (a *arena) keep(index, first int, spans []changes.Span) {
	if a.at == nil {
		a.at = map[asideBlock]int{}
	}
	for _, s := range spans {
		for off := s.Off; off < s.Off+s.Length; off += changes.BlockSize {
			a.at[asideBlock{index, off}] = first
			first++
		}
	}
}

// find returns the content of a block, nil if it is not here.
func (a *arena) find(index int, off int64) []byte {
	if i, ok := a.at[asideBlock{index, off}]; ok {
		return a.block(i)
	}
	return nil
}

// emptied is an arena without content: the same one, with as much memory as the last epoch needed, unless a writer is still at it.
func (a *arena) emptied() *arena {
	if a.saving > 0 {
		next := &arena{taken: a.taken}
		a.release()
		return next
	}
	needed := chunksOf(a.used)
	a.taken.Add(int64(needed - a.grown))
	clear(a.chunks[needed:])
	a.grown, a.used = needed, 0
	clear(a.at)
	return a
}

// release has the memory counted as given back, and takes no more; what writers are at stays until they are done.
func (a *arena) release() {
	if a.taken != nil {
		a.taken.Add(-int64(a.grown))
		a.taken = nil
	}
}
