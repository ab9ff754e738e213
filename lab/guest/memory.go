//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pageSize = 4096
	// loadTick is how often the loads catch up with their rate; longestDebt is how much of a pause they make up for, so that
	// a guest that was stopped does not come back with a burst that no real program would show.
	loadTick    = 10 * time.Millisecond
	longestDebt = 100 * time.Millisecond
)

// memoryLoad rewrites random pages with random content: content that neither compression nor comparison with the last
// copy can make cheap.
type memoryLoad struct {
	rate    atomic.Int64 // bytes a second
	dirtied atomic.Int64 // bytes in all
	space   int64
}

func newMemoryLoad(o options) *memoryLoad {
	m := &memoryLoad{space: o.dirtySpace / pageSize * pageSize}
	m.rate.Store(o.dirty)
	return m
}

func (m *memoryLoad) run(ctx context.Context) error {
	if m.space == 0 {
		return nil
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		if free := int64(info.Freeram) * int64(info.Unit); m.space > free-memoryLimit {
			return fmt.Errorf("godwit.dirtyspace is %d bytes, but only %d are free: give the machine more memory", m.space, free)
		}
	}
	// Outside the Go heap: the collector neither counts nor visits it.
	region, err := unix.Mmap(-1, 0, int(m.space), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map %d bytes to dirty: %w", m.space, err)
	}
	defer func() { _ = unix.Munmap(region) }()

	ticker := time.NewTicker(loadTick)
	defer ticker.Stop()
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	owed, last := 0.0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			owed += float64(m.rate.Load()) * min(now.Sub(last), longestDebt).Seconds()
			last = now
		}
		for ; owed >= pageSize; owed -= pageSize {
			page := random.Int64N(m.space/pageSize) * pageSize
			fill(region[page:page+pageSize], random.Uint64())
			m.dirtied.Add(pageSize)
		}
	}
}

// fill writes pseudo-random bytes that follow from the seed alone (xorshift64*: cheap also on an emulated processor).
// len(b) must be a multiple of eight.
func fill(b []byte, seed uint64) {
	x := seed | 1
	for i := 0; i < len(b); i += 8 {
		x ^= x >> 12
		x ^= x << 25
		x ^= x >> 27
		binary.LittleEndian.PutUint64(b[i:], x*0x2545F4914F6CDD1D)
	}
}
