package dvs

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/dvs/wire"
)

// The layout of shared memory. The node makes and seals it, so that no peer can shrink it under us.
const (
	// PageSize is a session's page: at 0 the flag "asleep", from 64 four words that say which words follow, from 128 a bit for each
	// channel in which there is something to do.
	PageSize = 4096
	// RingsSize is the memory of an introduction: two rings, each a header and its bytes.
	RingsSize  = 2 * (ringHeader + ringSize)
	ringHeader = 4096 // at 0 bytes written, at 64 bytes read, at 128 the flag "writer waits for room"
	ringSize   = 64 << 10

	atSummary, atReady = 64, 128
	readyWords         = wire.MaxChannels / 64
)

// memory is a mapping that is shared with another process.
type memory []byte

func mapShared(fd, size int) (memory, error) {
	m, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map shared memory: %w", err)
	}
	return m, nil
}

func (m memory) unmap() { _ = unix.Munmap(m) }

func (m memory) u64(at int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&m[at])) }
func (m memory) u32(at int) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&m[at])) }

// mark notes that there is something to do in a channel. It must follow the change in the ring.
func (m memory) mark(channel uint32) {
	word, bit := int(channel/64), uint64(1)<<(channel%64)
	if w := m.u64(atReady + 8*word); w.Load()&bit == 0 {
		w.Or(bit)
	}
	sum, sumBit := word/64, uint64(1)<<(word%64)
	if w := m.u64(atSummary + 8*sum); w.Load()&sumBit == 0 {
		w.Or(sumBit)
	}
}

// asleep is 1 while the session wants its bell rung.
func (m memory) asleep() *atomic.Uint32 { return m.u32(0) }

// pending tells whether any channel is marked.
func (m memory) pending() bool {
	for i := range readyWords / 64 {
		if m.u64(atSummary+8*i).Load() != 0 {
			return true
		}
	}
	return false
}

// sweep unmarks and visits every marked channel.
func (m memory) sweep(visit func(channel uint32)) {
	for i := range readyWords / 64 {
		if m.u64(atSummary+8*i).Load() == 0 {
			continue
		}
		for sum := m.u64(atSummary + 8*i).Swap(0); sum != 0; sum &= sum - 1 {
			word := i*64 + bits.TrailingZeros64(sum)
			for set := m.u64(atReady + 8*word).Swap(0); set != 0; set &= set - 1 {
				visit(uint32(word*64 + bits.TrailingZeros64(set)))
			}
		}
	}
}

// ring is a byte stream from one process to another. Each side has one position of its own and reads the other's.
type ring struct {
	mem  memory // header and bytes
	mine uint64 // own position, so that the peer cannot change it
}

func (r *ring) written() *atomic.Uint64 { return r.mem.u64(0) }
func (r *ring) read() *atomic.Uint64    { return r.mem.u64(64) }
func (r *ring) starved() *atomic.Uint32 { return r.mem.u32(128) }

// put writes as much as there is room for.
func (r *ring) put(b []byte) (n int, err error) {
	used := r.mine - r.read().Load()
	if used > ringSize {
		return 0, fmt.Errorf("%w: the peer damaged a ring", wire.ErrFrame)
	}
	b = b[:min(uint64(len(b)), ringSize-used)]
	at := r.mine % ringSize
	data := r.mem[ringHeader:]
	if k := copy(data[at:ringSize], b); k < len(b) {
		copy(data, b[k:])
	}
	r.mine += uint64(len(b))
	r.written().Store(r.mine)
	return len(b), nil
}

// available returns how many bytes can be read.
func (r *ring) available() (uint64, error) {
	n := r.written().Load() - r.mine
	if n > ringSize {
		return 0, fmt.Errorf("%w: the peer damaged a ring", wire.ErrFrame)
	}
	return n, nil
}

// get reads len(b) bytes, which must be available.
func (r *ring) get(b []byte) {
	at := r.mine % ringSize
	data := r.mem[ringHeader:]
	if k := copy(b, data[at:ringSize]); k < len(b) {
		copy(b[k:], data)
	}
	r.mine += uint64(len(b))
	r.read().Store(r.mine)
}
