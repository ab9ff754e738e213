package disk

// edges are the blocks at both ends of a write that covers a part of them only, as they were before.
type edges struct {
	blocks [2]int64
	data   [2]*[]byte // nil where the write covers the block
}

// readEdges reads, and verifies, the blocks that the write will cover in part. The caller holds them.
func (d *Disk) readEdges(off, length, first, end int64) (*edges, error) {
	e := &edges{blocks: [2]int64{first, end - 1}}
	stop := off + length
	partial := [2]bool{
		off != first*BlockSize || end-first == 1 && stop != d.blockEnd(first),
		end-first > 1 && stop != d.blockEnd(end-1),
	}
	for i, block := range e.blocks {
		if !partial[i] {
			continue
		}
		start := block * BlockSize
		e.data[i] = borrow(int(d.blockEnd(block) - start))
		_, err := d.read(*e.data[i], start)
		if err == nil {
			err = d.verifyHeld(*e.data[i], block)
		}
		if err != nil {
			e.free()
			return nil, err
		}
	}
	return e, nil
}

// blockEnd is where the block ends: the last one may be short.
func (d *Disk) blockEnd(block int64) int64 { return min(block*BlockSize+BlockSize, d.Size()) }

// of returns what the block was.
func (e *edges) of(block int64) []byte {
	if block == e.blocks[0] && e.data[0] != nil {
		return *e.data[0]
	}
	return *e.data[1]
}

func (e *edges) free() {
	for _, b := range e.data {
		if b != nil {
			scratch.Put(b)
		}
	}
}
