package process

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/tetratelabs/wazero/experimental"
)

// linear is the linear memory of one instance: address space for all that it may ever have, so that growing it moves nothing; the kernel
// gives pages when they are written.
type linear struct {
	space   []byte
	size    int
	tracker *tracker // nil: memory is compared as a whole
	regions []pageRegion
}

var (
	_ experimental.MemoryAllocator = (*linear)(nil)
	_ experimental.LinearMemory    = (*linear)(nil)
)

// newLinear reserves address space for up to limit bytes. The tracker may be nil.
func newLinear(limit int64, t *tracker) (*linear, error) {
	space, err := unix.Mmap(-1, 0, int(limit), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes for a process: %w", limit, err)
	}
	if t != nil && t.watch(space) != nil {
		t = nil
	}
	return &linear{space: space, tracker: t, regions: make([]pageRegion, regionsAtOnce)}, nil
}

// Allocate is called once, by the engine.
func (l *linear) Allocate(_, _ uint64) experimental.LinearMemory { return l }

// Reallocate is called when the program's memory is made or grows. nil refuses: the program sees that it has got no more.
func (l *linear) Reallocate(size uint64) []byte {
	if l.space == nil || size > uint64(len(l.space)) {
		return nil
	}
	l.size = int(size)
	return l.space[:l.size:l.size]
}

// Free is called when the instance is closed.
func (l *linear) Free() {
	if l.space != nil {
		_ = unix.Munmap(l.space)
		l.space, l.size = nil, 0
	}
}

// bytes returns the memory. They may not be used after Free.
func (l *linear) bytes() []byte { return l.space[:l.size] }

// written returns the pages that may have changed since the last call.
func (l *linear) written() []span {
	if l.tracker != nil && l.size > 0 {
		all, err := l.tracker.written(l.bytes(), l.regions)
		if err == nil {
			return all
		}
		l.tracker = nil
	}
	return []span{{0, l.size / PageSize}}
}

// clear gives all pages back to the kernel: they are 0.
func (l *linear) clear() error {
	if err := unix.Madvise(l.space, unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("clear a process's memory: %w", err)
	}
	return nil
}
