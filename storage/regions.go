package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/storage/changes"
)

const (
	regionsName = "regions.map"
	// regionSize is what one bit of the map stands for, in bytes: 2 MiB of map per TiB.
	regionSize   = 64 << 10
	regionsMagic = 0x4757524d
	// The file begins with a page: magic 4, version 4, size of the volume 8, boot id 8 (0: closed in order), lineage 8. The
	// bits follow.
	regionsHead    = 4096
	regionsVersion = 1
)

// regions remembers which parts of a volume its replica may lack, in a file that is mapped into memory: setting a bit is a
// store, and a killed process loses none. After a power loss it is worth nothing, which the boot id tells.
type regions struct {
	mu      sync.Mutex
	mem     []byte
	bits    []byte
	file    *os.File
	trusted bool // it is known to hold every change since the lineage was taken up
	closed  bool
}

var _ changes.Marks = (*regions)(nil)

// openRegions opens the map of a volume, nil if it has none; with create it makes one in which everything is set.
func openRegions(dir string, size int64, boot uint64, create bool) (*regions, error) {
	path := filepath.Join(dir, regionsName)
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	count := (size + regionSize - 1) / regionSize
	length := regionsHead + (count+7)/8
	st, err := f.Stat()
	made := err == nil && st.Size() < length
	if made { // allocated in full, as a mapped hole on a full disk would kill the process
		err = unix.Fallocate(int(f.Fd()), 0, 0, length)
	}
	var mem []byte
	if err == nil {
		mem, err = unix.Mmap(int(f.Fd()), 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map %s: %w", path, err), f.Close())
	}
	r := &regions{mem: mem, bits: mem[regionsHead:], file: f}
	was := binary.BigEndian.Uint64(mem[16:])
	valid := binary.BigEndian.Uint32(mem) == regionsMagic && binary.BigEndian.Uint32(mem[4:]) == regionsVersion &&
		binary.BigEndian.Uint64(mem[8:]) == uint64(size)
	r.trusted = valid && (was == boot || was == 0)
	if !valid {
		clear(mem[:regionsHead])
		binary.BigEndian.PutUint32(mem, regionsMagic)
		binary.BigEndian.PutUint32(mem[4:], regionsVersion)
		binary.BigEndian.PutUint64(mem[8:], uint64(size))
	}
	if !r.trusted {
		r.Mark(0, size)
	}
	binary.BigEndian.PutUint64(mem[16:], boot)
	if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
		return nil, errors.Join(fmt.Errorf("map %s: %w", path, err), unix.Munmap(mem), f.Close())
	}
	return r, nil
}

// Grain implements changes.Marks.
func (r *regions) Grain() int64 { return regionSize }

// Mark implements changes.Marks.
func (r *regions) Mark(off, length int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	for i := off / regionSize; i <= (off+length-1)/regionSize; i++ {
		r.bits[i/8] |= 1 << uint(i%8)
	}
}

// Clear implements changes.Marks.
func (r *regions) Clear(off, length int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	for i := off / regionSize; i <= (off+length-1)/regionSize; i++ {
		r.bits[i/8] &^= 1 << uint(i%8)
	}
}

// each calls f with every part that is marked.
func (r *regions) each(size int64, f func(off, length int64)) {
	r.mu.Lock()
	bits := append([]byte(nil), r.bits...)
	r.mu.Unlock()
	for i, b := range bits {
		for k := 0; b != 0; k, b = k+1, b>>1 {
			if off := int64(i*8+k) * regionSize; b&1 == 1 && off < size {
				f(off, min(regionSize, size-off))
			}
		}
	}
}

// marked is what is marked, in bytes, at most.
func (r *regions) marked() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	if !r.closed {
		for _, b := range r.bits {
			n += bits.OnesCount8(b)
		}
	}
	return int64(n) * regionSize
}

// lineage is that of the replica which the marks are about; 0 for none, also when the marks cannot be trusted.
func (r *regions) lineage() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.trusted || r.closed {
		return 0
	}
	return binary.BigEndian.Uint64(r.mem[24:])
}

// take begins to speak of another replica; everything that it may lack is marked before.
func (r *regions) take(lineage uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	r.trusted = true
	binary.BigEndian.PutUint64(r.mem[24:], lineage)
	return unix.Msync(r.mem, unix.MS_SYNC)
}

// close makes the marks durable, so that they are worth something after a reboot in order.
func (r *regions) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	err := unix.Msync(r.mem, unix.MS_SYNC)
	if err == nil && r.trusted {
		binary.BigEndian.PutUint64(r.mem[16:], 0)
		err = unix.Msync(r.mem, unix.MS_SYNC)
	}
	return errors.Join(err, unix.Munmap(r.mem), r.file.Close())
}
