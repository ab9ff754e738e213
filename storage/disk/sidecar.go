package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"github.com/zeebo/xxh3"

	"github.com/godwit-project/godwit/storage/disk/vfs"
)

// The sidecar's layout, all numbers little-endian:
//
//	    0  header: magic, version, size of the disk, blocks per region, boot, clean, time of change; 8 bytes each
//	 4096  64 slots of 16 bytes: ranges of blocks that are being written
//	 8192  65536 marks of a byte, one for each region: 0 clean, 1 being written, 2 to be summed anew
//	73728  a checksum of 8 bytes for each block
//
// A checksum is 0 for a block of zeroes, so that an empty disk has an empty sidecar; else the block's xxh3 plus its number times
// a constant, so that a block in the wrong place is found too.
const (
	sumsSuffix  = ".sums"
	sumsMagic   = "GODWITCS"
	sumsVersion = 1

	slotsAt = 4096
	marksAt = 8192
	sumsAt  = marksAt + maxRegions
	sumSize = 8

	maxRegions  = 65536
	goodRegions = 4096 // in a new sidecar at most, so that the disk may grow
	leastRegion = 1 << 20

	// unknown is the checksum of a block about which nothing is known.
	unknown = ^uint64(0)
	// condemned is the checksum of a block that has no right content: none fits.
	condemned = unknown - 1
	placeStep = 0x9e3779b97f4a7c15
)

// header is the changing part of the first page, in the mapping.
type header struct {
	magic, version, size, region, boot, clean, changed uint64
}

// sidecar is an open sidecar.
type sidecar struct {
	file   vfs.File
	header *header
	slots  []slot
	sums   atomic.Pointer[[]uint64]
	marks  marks
}

// sumOf is the checksum of a block.
func sumOf(p []byte, block int64) uint64 {
	if p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) {
		return 0
	}
	h := xxh3.Hash(p) + uint64(block)*placeStep
	if h == 0 || h >= condemned {
		return 1
	}
	return h
}

func blocksIn(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// makeSidecar makes one of a disk that is empty, or, if taken as it is, of any.
func makeSidecar(fsys vfs.FS, path string, size, region int64, asIs bool) error {
	if region == 0 {
		for region = leastRegion; size/region >= goodRegions; region *= 2 {
		}
	}
	if region < BlockSize || region%BlockSize != 0 || size/region >= maxRegions {
		return fmt.Errorf("region of %d bytes for a disk of %d: want a multiple of %d, and at most %d regions", region, size, BlockSize, maxRegions)
	}
	head := make([]byte, sumsAt)
	copy(head, sumsMagic)
	for i, field := range []int64{sumsVersion, size, region / BlockSize} {
		binary.LittleEndian.PutUint64(head[8+8*i:], uint64(field))
	}
	if asIs {
		for i := range (size + region - 1) / region {
			head[marksAt+i] = markUnverified
		}
	}
	return vfs.ReplaceWith(fsys, path, func(f vfs.File) error {
		if err := f.Reserve(sumsAt + blocksIn(size)*sumSize); err != nil {
			return err
		}
		_, err := f.WriteAt(head, 0)
		return err
	})
}

// loadSidecar opens the sidecar at path.
func loadSidecar(fsys vfs.FS, path string) (s *sidecar, err error) {
	f, err := fsys.Open(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	s = &sidecar{file: f}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("read checksums %s: %w; without that file, the disk is taken as it is", path, err), f.Close())
		}
	}()
	info, err := f.Info()
	if err != nil {
		return nil, err
	}
	if info.Size < sumsAt {
		return nil, errors.New("the file is cut off")
	}
	head, err := f.Map(sumsAt)
	if err != nil {
		return nil, err
	}
	s.header = (*header)(unsafe.Pointer(&head[0]))
	s.slots = unsafe.Slice((*slot)(unsafe.Pointer(&head[slotsAt])), maxHolds)
	if string(head[:8]) != sumsMagic || s.header.version != sumsVersion {
		return nil, errors.New("it is none, or of another version")
	}
	if s.header.size > 1<<60 || s.header.region > 1<<48 {
		return nil, errors.New("its sizes make no sense")
	}
	blocks := blocksIn(int64(s.header.size))
	if info.Size < sumsAt+blocks*sumSize || s.header.region == 0 || uint64(blocks)/s.header.region >= maxRegions {
		return nil, errors.New("it does not fit the size in it")
	}
	s.marks.init(head[marksAt:sumsAt], int64(s.header.region), f)
	return s, s.mapSums(blocks)
}

// mapSums makes so many checksums reachable; the file has them.
func (s *sidecar) mapSums(blocks int64) error {
	var sums []uint64
	if blocks > 0 {
		b, err := s.file.Map(sumsAt + blocks*sumSize)
		if err != nil {
			return err
		}
		sums = unsafe.Slice((*uint64)(unsafe.Pointer(&b[sumsAt])), blocks)
	}
	s.sums.Store(&sums)
	return nil
}

// survive turns the fault of a mapping that cannot be read or written into an error.
func survive(before bool, err *error) {
	debug.SetPanicOnFault(before)
	if r := recover(); r != nil {
		if _, fault := r.(interface{ Addr() uintptr }); !fault {
			panic(r)
		}
		*err = ErrSidecar
	}
}

// compare finds the first block of p, which begins with a block, that is not what its checksum says; -1 if there is none.
func (s *sidecar) compare(p []byte, off int64) (bad int64, err error) {
	defer survive(debug.SetPanicOnFault(true), &err)
	sums := *s.sums.Load()
	for block := off / BlockSize; len(p) > 0; block++ {
		n := min(len(p), BlockSize)
		if !s.marks.unverified(block) {
			if want := atomic.LoadUint64(&sums[block]); want != unknown && want != sumOf(p[:n], block) {
				return block, nil
			}
		}
		p = p[n:]
	}
	return -1, nil
}

// store sets the checksums of what was written: of whole blocks from p, of parts from the edges.
func (s *sidecar) store(p []byte, off int64, edges *edges, size int64) (err error) {
	defer survive(debug.SetPanicOnFault(true), &err)
	sums := *s.sums.Load()
	end := off + int64(len(p))
	for block := off / BlockSize; block*BlockSize < end; block++ {
		start, stop := block*BlockSize, min(block*BlockSize+BlockSize, size)
		if start >= off && stop <= end {
			atomic.StoreUint64(&sums[block], sumOf(p[start-off:stop-off], block))
			continue
		}
		merged := edges.of(block)
		from, to := max(start, off), min(stop, end)
		copy(merged[from-start:to-start], p[from-off:to-off])
		atomic.StoreUint64(&sums[block], sumOf(merged, block))
	}
	return nil
}

// clear sets the checksums of blocks of zeroes.
func (s *sidecar) clear(first, end int64) error { return s.fill(first, end, 0) }

func (s *sidecar) fill(first, end int64, sum uint64) (err error) {
	defer survive(debug.SetPanicOnFault(true), &err)
	sums := *s.sums.Load()
	for block := first; block < end; block++ {
		atomic.StoreUint64(&sums[block], sum)
	}
	return nil
}

// zeroes returns how many blocks from first on are known to be zeroes, and whether anything is known of the first.
func (s *sidecar) zeroes(first, end int64) (n int64, known bool, err error) {
	defer survive(debug.SetPanicOnFault(true), &err)
	sums := *s.sums.Load()
	for block := first; block < end; block++ {
		sum := atomic.LoadUint64(&sums[block])
		if s.marks.unverified(block) || sum == unknown {
			break
		}
		if known = true; sum != 0 {
			break
		}
		n++
	}
	return n, known, nil
}

// at returns the checksum of a block.
func (s *sidecar) at(block int64) (sum uint64, err error) {
	defer survive(debug.SetPanicOnFault(true), &err)
	return atomic.LoadUint64(&(*s.sums.Load())[block]), nil
}
