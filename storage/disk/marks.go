package disk

import (
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/godwit-project/godwit/storage/disk/vfs"
)

// Marks on the disk.
const (
	markClean      = 0
	markDirty      = 1 // written to: after a power loss, block and checksum may not fit
	markUnverified = 2 // to be summed anew
)

// States of a region in memory. A region that is written to is dirty or unverified; the others have no mark, or one on its way.
const (
	regionClean = iota
	regionMarking
	regionDirty
	regionCleaning
	regionUnverified

	regionState   = 7
	regionTouched = 8 // written to since Upkeep looked
)

// spreadAfter is after how many marks between two rounds of upkeep twice as many regions are marked at once. Each mark costs
// the writer a sync, so that a writer who goes everywhere shall not pay for each region.
const spreadAfter = 4

// marks are the regions that are being written to, durably known before the first write reaches them.
type marks struct {
	region  int64 // blocks
	onDisk  []byte
	flush   groupSync
	regions [maxRegions]atomic.Uint32

	mu     sync.Mutex // of onDisk, and of changes of state
	recent int        // marks since the last upkeep
}

func (m *marks) init(onDisk []byte, region int64, file vfs.File) {
	m.onDisk, m.region = onDisk, region
	m.flush.do = file.Sync
	for i, mark := range onDisk {
		switch mark {
		case markClean:
		case markDirty:
			m.regions[i].Store(regionDirty | regionTouched)
		default:
			m.regions[i].Store(regionUnverified)
		}
	}
}

func (m *marks) unverified(block int64) bool {
	return m.regions[block/m.region].Load()&regionState == regionUnverified
}

// touched notes that the blocks, which the caller holds, are going to be written, if their regions are marked already.
func (s *sidecar) touched(first, end int64) bool { return s.marks.touch(first, end) }

func (m *marks) touch(first, end int64) bool {
	for r := first / m.region; r <= (end-1)/m.region; r++ {
		state := m.regions[r].Load()
		if s := state & regionState; s != regionDirty && s != regionUnverified {
			return false
		}
		if state&regionTouched == 0 {
			m.regions[r].Or(regionTouched)
		}
	}
	return true
}

// touch marks the regions of blocks that the caller holds and is going to write.
func (d *Disk) touch(first, end int64) error {
	m := &d.sums.marks
	if m.touch(first, end) {
		return nil
	}
	low, high := first/m.region, (end-1)/m.region
	marked, err := m.begin(low, high, (blocksIn(d.Size())-1)/m.region)
	if err == nil && len(marked) > 0 {
		err = m.flush.sync()
	}
	if err != nil {
		return d.fail(err)
	}
	m.finish(marked, low, high)
	return nil
}

// begin sets marks, and returns those that are yet to be made durable.
func (m *marks) begin(low, high, last int64) (marked []int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer survive(debug.SetPanicOnFault(true), &err)
	for r := low; r <= high; r++ {
		switch m.regions[r].Load() & regionState {
		case regionClean:
			m.recent++
			span := int64(1) << min(m.recent/spreadAfter, 16)
			for near := r &^ (span - 1); near < r&^(span-1)+span && near <= last; near++ {
				if m.regions[near].Load()&regionState == regionClean {
					m.onDisk[near] = markDirty
					m.regions[near].Store(regionMarking)
					marked = append(marked, near)
				}
			}
		case regionMarking:
			marked = append(marked, r)
		case regionCleaning: // the mark is still on the disk, and stays
			m.regions[r].Store(regionDirty)
		}
	}
	return marked, nil
}

// finish is called when the marks are durable. Of those that others are making, too: a sync serves all that were set before.
func (m *marks) finish(marked []int64, low, high int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range marked {
		if m.regions[r].Load()&regionState == regionMarking {
			m.regions[r].Store(regionDirty)
		}
	}
	for r := low; r <= high; r++ {
		m.regions[r].Or(regionTouched)
	}
}

// idle returns the dirty regions that nobody has written to since the last call.
func (m *marks) idle() (idle []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.recent = 0
	for r := range m.regions {
		state := m.regions[r].Load()
		if state&regionState != regionDirty {
			continue
		}
		if state&regionTouched == 0 {
			idle = append(idle, int64(r))
		}
		m.regions[r].And(^uint32(regionTouched))
	}
	return idle
}

// set changes a region whose blocks the caller holds, if it is in state from.
func (m *marks) set(r int64, from, to uint32, mark byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.regions[r].Load()&regionState == from {
		m.regions[r].Store(to)
		m.onDisk[r] = mark
	}
}

// pending returns the regions that are to be summed anew.
func (m *marks) pending() (pending []int64) {
	for r := range m.regions {
		if m.regions[r].Load()&regionState == regionUnverified {
			pending = append(pending, int64(r))
		}
	}
	return pending
}
