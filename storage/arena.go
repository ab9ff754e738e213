package storage

import "github.com/godwit-project/godwit/storage/changes"

const (
	// arenaMost is what a group keeps in memory of what writers put aside, in blocks (8 MiB); the rest goes into a file.
	arenaMost = 2048
	// arenaChunk is how much memory is taken at a time, in blocks.
	arenaChunk = 64
)

// arena keeps content that an epoch on its way still owes, and that writers are about to replace: a copy in memory costs them less
// than a file. It is under Group.mu, except the content of blocks that were reserved, which is the writer's until it is kept.
type arena struct {
	chunks [arenaMost / arenaChunk]*[arenaChunk * changes.BlockSize]byte
	used   int // blocks
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
	if blocks > arenaMost-a.used {
		return 0, false
	}
	first = a.used
	a.used += blocks
	a.saving++
	for i := first / arenaChunk; i*arenaChunk < a.used; i++ {
		if a.chunks[i] == nil {
			a.chunks[i] = new([arenaChunk * changes.BlockSize]byte)
		}
	}
	return first, true
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
		return &arena{}
	}
	clear(a.chunks[(a.used+arenaChunk-1)/arenaChunk:])
	a.used = 0
	clear(a.at)
	return a
}
