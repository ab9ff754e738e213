// Package ring is the memory that two processes on one machine share: a page that says where there is something to do, and two rings of
// bytes, one each way, that carry frames. Whatever the peer writes there is checked; memory is made by a node and sealed, so
// that nobody can shrink it under another.
//
// Whoever waits sets the page's flag "asleep", looks once more, and then waits for its bell, an eventfd. Whoever writes marks its
// channel in the peer's page and rings the bell only if the peer is asleep.
package ring

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/dvs/wire"
)

// The layout of shared memory.
const (
	// PageSize is a session's page: at 0 the flag "asleep" (0 no, 1 yes, 2 the bell has been rung), from 64 four words that say which words follow, from 128 a bit for each
	// channel in which there is something to do.
	PageSize = 4096
	// Size is the memory of an introduction: for each side a header, the ring that it writes, and the area of its copies. What is never
	// used takes no memory.
	Size     = 2 * (ringHeader + ringSize + AreaSize)
	AreaSize = 1 << 20
	// Long is the size of a frame, in bytes, above which a socket carries it better than a ring, which it would fill again and again.
	Long       = 32 << 10
	ringHeader = 4096 // at 0 bytes written, at 64 bytes read, at 128 the flag "writer waits for room"
	ringSize   = 64 << 10

	atSummary, atReady = 64, 128
	readyWords         = wire.MaxChannels / 64
	summaryWords       = readyWords / 64
)

// States of a page's flag.
const (
	awake  = 0
	asleep = 1
	rung   = 2
)

// Memory is a mapping that is shared with another process.
type Memory []byte

// Map maps size bytes of a descriptor, which stays the caller's.
func Map(fd, size int) (Memory, error) {
	m, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map shared memory: %w", err)
	}
	return m, nil
}

// Unmap gives the mapping back.
func (m Memory) Unmap() {
	if m != nil {
		_ = unix.Munmap(m)
	}
}

// Make returns the descriptor of fresh memory whose size nobody can change.
func Make(name string, size int64) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("make shared memory: %w", err)
	}
	if err = unix.Ftruncate(fd, size); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("make shared memory: %w", err)
	}
	return fd, nil
}

// Bell makes an eventfd.
func Bell() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, fmt.Errorf("make an eventfd: %w", err)
	}
	return fd, nil
}

// Dup copies descriptors.
func Dup(fds ...int) ([]int, error) {
	var all []int
	for _, fd := range fds {
		d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			Close(all...)
			return nil, fmt.Errorf("copy a descriptor: %w", err)
		}
		all = append(all, d)
	}
	return all, nil
}

// Close closes descriptors; -1 is none.
func Close(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (m Memory) u64(at int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&m[at])) }
func (m Memory) u32(at int) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&m[at])) }

// Mark notes that there is something to do in a channel. It must follow the change in the ring.
func (m Memory) Mark(channel uint32) {
	word, bit := int(channel/64), uint64(1)<<(channel%64)
	if w := m.u64(atReady + 8*word); w.Load()&bit == 0 {
		w.Or(bit)
	}
	sum, sumBit := word/64, uint64(1)<<(word%64)
	if w := m.u64(atSummary + 8*sum); w.Load()&sumBit == 0 {
		w.Or(sumBit)
	}
}

func (m Memory) flag() *atomic.Uint32 { return m.u32(0) }

// Sleep asks for the bell. What came before has to be looked for afterwards.
func (m Memory) Sleep() { m.flag().Store(asleep) }

// Wake says that the bell is not needed: somebody looks.
func (m Memory) Wake() {
	if m.flag().Load() != awake {
		m.flag().Store(awake)
	}
}

// Rung tells whether the bell has been rung since Sleep or Wake.
func (m Memory) Rung() bool { return m.flag().Load() == rung }

// Ring wakes the page's owner if it sleeps.
func (m Memory) Ring(bell int) {
	if a := m.flag(); a.Load() == asleep && a.CompareAndSwap(asleep, rung) {
		// The runtime need not know of a call that never waits: whoever is woken by it would take the processor, and the runtime the context.
		_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(bell), uintptr(unsafe.Pointer(&one)), uintptr(len(one))) // fails only when it is ringing already
	}
}

var one = [8]byte{1}

// Kick rings a bell of one's own, to wake whoever waits there.
func Kick(bell *os.File) { _, _ = bell.Write(one[:]) }

// Wait blocks until done, which is asked again after every ring of the bell. It reads nothing from the bell: the kernel reports each ring
// once, also to somebody who has not read the one before. An error says that the bell is closed.
func Wait(bell *os.File, done func() bool) error {
	raw, err := bell.SyscallConn()
	if err != nil {
		return errors.Join(os.ErrClosed, err)
	}
	return raw.Read(func(uintptr) bool { return done() })
}

// Pending tells whether any channel is marked.
func (m Memory) Pending() bool {
	for i := range summaryWords {
		if m.u64(atSummary+8*i).Load() != 0 {
			return true
		}
	}
	return false
}

// Sweep unmarks and visits every marked channel.
func (m Memory) Sweep(visit func(channel uint32)) {
	for i := range summaryWords {
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

// stream is a byte stream from one process to another. Each side has one position of its own and reads the other's.
type stream struct {
	mem  Memory // header and bytes
	mine uint64 // own position, so that the peer cannot change it
}

func (r *stream) written() *atomic.Uint64 { return r.mem.u64(0) }
func (r *stream) read() *atomic.Uint64    { return r.mem.u64(64) }
func (r *stream) starved() *atomic.Uint32 { return r.mem.u32(128) }

// put writes as much as there is room for.
func (r *stream) put(b []byte) (n int, err error) {
	used := r.mine - r.read().Load()
	if used > ringSize {
		return 0, fmt.Errorf("%w: the peer damaged a ring", wire.ErrFrame)
	}
	b = b[:min(uint64(len(b)), ringSize-used)]
	at := r.mine % ringSize
	data := r.mem[ringHeader : ringHeader+ringSize]
	if k := copy(data[at:], b); k < len(b) {
		copy(data, b[k:])
	}
	r.mine += uint64(len(b))
	r.written().Store(r.mine)
	return len(b), nil
}

// available returns how many bytes can be read.
func (r *stream) available() (uint64, error) {
	n := r.written().Load() - r.mine
	if n > ringSize {
		return 0, fmt.Errorf("%w: the peer damaged a ring", wire.ErrFrame)
	}
	return n, nil
}

// get reads len(b) bytes, which must be available.
func (r *stream) get(b []byte) {
	at := r.mine % ringSize
	data := r.mem[ringHeader : ringHeader+ringSize]
	if k := copy(b, data[at:]); k < len(b) {
		copy(b[k:], data)
	}
	r.mine += uint64(len(b))
	r.read().Store(r.mine)
}
