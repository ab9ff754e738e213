package crashfs

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"

	"github.com/godwit-project/godwit/storage/disk/vfs"
)

// file is an open file.
type file struct {
	fs        *FS
	node      *node
	name      string
	writable  bool
	exclusive bool
	shared    bool
}

var _ vfs.File = (*file)(nil)

func (f *file) Name() string { return f.name }

// call runs one call under the file system's lock.
func (f *file) call(name string, off, length int64, do func() error) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	after, err := f.fs.begin(Op{Name: name, Path: f.name, Off: off, Length: length})
	if err == nil {
		defer after()
		err = do()
	}
	return err
}

func (f *file) fault(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.call("read", off, int64(len(p)), func() error {
		if off < int64(len(f.node.live)) {
			n = copy(p, f.node.live[off:])
		}
		if n < len(p) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if !f.writable {
		return 0, f.fault("write", syscall.EBADF)
	}
	after, err := f.fs.begin(Op{Name: "write", Path: f.name, Off: off, Length: int64(len(p))})
	failed := err
	if failed != nil { // some whole sectors of it may have been written
		part := f.fs.rng.IntN(len(p) + 1)
		part -= min(part, int(off+int64(part))%sector)
		p, after = p[:part], func() {}
	}
	defer after()
	if off+int64(len(p)) > limit {
		return 0, f.fault("write", syscall.EFBIG)
	}
	for n < len(p) { // by sector: a full disk is met in the middle
		part := min(len(p)-n, sector-int(off+int64(n))%sector)
		if err := f.node.give(f.fs, off+int64(n), int64(part)); err != nil {
			return n, f.fault("write", err)
		}
		f.node.put(p[n:n+part], off+int64(n))
		n += part
	}
	if f.fs.rng.IntN(8) == 0 {
		f.node.writeBack(f.fs.rng, f.fs.rng.Float64())
	}
	return n, failed
}

func (f *file) Info() (vfs.Info, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	info := vfs.Info{Size: int64(len(f.node.live)), Changed: f.node.clock}
	for _, hole := range f.node.holes {
		if !hole {
			info.Allocated += sector
		}
	}
	return info, nil
}

func (f *file) Lock(shared bool) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n := f.node
	if n.exclusive || !shared && n.sharers > 0 {
		return f.fault("lock", vfs.ErrLocked)
	}
	f.exclusive, f.shared = !shared, shared
	n.exclusive = !shared
	if shared {
		n.sharers++
	}
	return nil
}

func (f *file) Truncate(size int64) error {
	return f.call("truncate", 0, size, func() error {
		if size > limit {
			return f.fault("truncate", syscall.EFBIG)
		}
		f.node.resize(int(size))
		return nil
	})
}

func (f *file) Reserve(size int64) error {
	return f.call("reserve", 0, size, func() error {
		if size > limit {
			return f.fault("reserve", syscall.EFBIG)
		}
		if err := f.fs.take(max(0, size-f.node.reserved)); err != nil {
			return f.fault("reserve", err)
		}
		f.node.reserved = max(size, f.node.reserved)
		if size > int64(len(f.node.live)) {
			f.node.resize(int(size))
		}
		return nil
	})
}

func (f *file) Zero(off, length int64, keep bool) error {
	return f.call("zero", off, length, func() error {
		if off+length > int64(len(f.node.live)) {
			length = max(0, int64(len(f.node.live))-off)
		}
		f.node.put(make([]byte, length), off)
		for at := (off + sector - 1) / sector; !keep && (at+1)*sector <= off+length; at++ {
			f.node.holes[at] = true
		}
		return nil
	})
}

func (f *file) NextData(off int64) (start, end int64, ok bool, err error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n, size := f.node, int64(len(f.node.live))
	at := int(off / sector)
	for at < len(n.holes) && n.holes[at] {
		at++
	}
	if at >= len(n.holes) || off >= size {
		return size, size, false, nil
	}
	start = max(off, int64(at)*sector)
	for at < len(n.holes) && !n.holes[at] {
		at++
	}
	return start, min(int64(at)*sector, size), true, nil
}

func (f *file) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	after, err := f.fs.begin(Op{Name: "sync", Path: f.name})
	if err != nil {
		f.node.forget(f.fs.rng)
		return err
	}
	defer after()
	f.node.disk = resized(f.node.disk, len(f.node.live))
	f.node.writeBack(nil, 1)
	return nil
}

// Map returns the page cache itself.
func (f *file) Map(length int64) ([]byte, error) {
	if length > int64(len(f.node.live)) {
		return nil, f.fault("map", syscall.EINVAL)
	}
	return f.node.live[:length], nil
}

func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.exclusive {
		f.node.exclusive = false
	}
	if f.shared {
		f.node.sharers--
	}
	f.exclusive, f.shared = false, false
	return nil
}

// give finds room for those sectors of the range that have none.
func (n *node) give(f *FS, off, length int64) error {
	if off+length <= n.reserved {
		return nil
	}
	for at := off / sector; at*sector < off+length; at++ {
		if int(at) < len(n.holes) && !n.holes[at] {
			continue
		}
		if err := f.take(sector); err != nil {
			return err
		}
	}
	return nil
}

// put changes the page cache.
func (n *node) put(p []byte, off int64) {
	if end := int(off) + len(p); end > len(n.live) {
		n.resize(end)
	}
	copy(n.live[off:], p)
	for at := int(off) / sector; at*sector < int(off)+len(p); at++ {
		n.holes[at] = false
		delete(n.lost, at)
	}
	n.clock++
}

func (n *node) resize(size int) {
	n.live = resized(n.live, size)
	sectors := (size + sector - 1) / sector
	for len(n.holes) < sectors {
		n.holes = append(n.holes, true)
	}
	n.holes = n.holes[:sectors]
	n.clock++
}

// resized has the bytes beyond the old size, or beyond the new one, zeroed.
func resized(b []byte, size int) []byte {
	if size > cap(b) {
		return append(b, make([]byte, size-len(b))...)
	}
	before := len(b)
	b = b[:max(before, size)]
	clear(b[min(before, size):])
	return b[:size]
}

// writeBack makes a share of the dirty sectors durable.
func (n *node) writeBack(rng *rand.Rand, share float64) {
	for at := 0; at*sector < len(n.disk); at++ {
		low, high := at*sector, min(at*sector+sector, len(n.disk), len(n.live))
		if low >= high || bytes.Equal(n.live[low:high], n.disk[low:high]) {
			continue
		}
		if _, lost := n.lost[at]; !lost && (share >= 1 || rng.Float64() < share) {
			copy(n.disk[low:high], n.live[low:high])
		}
	}
}

// forget is what a Sync that fails does: some of the dirty sectors are written, and all are taken for it.
func (n *node) forget(rng *rand.Rand) {
	n.writeBack(rng, rng.Float64())
	if n.lost == nil {
		n.lost = map[int]struct{}{}
	}
	for at := 0; at*sector < len(n.live); at++ {
		low, high := at*sector, min(at*sector+sector, len(n.live))
		if high > len(n.disk) || !bytes.Equal(n.live[low:high], n.disk[low:high]) {
			n.lost[at] = struct{}{}
		}
	}
}

// findHoles takes sectors of zeroes for holes.
func (n *node) findHoles() {
	n.holes = make([]bool, (len(n.live)+sector-1)/sector)
	for at := range n.holes {
		part := n.live[at*sector : min(at*sector+sector, len(n.live))]
		n.holes[at] = len(bytes.Trim(part, "\x00")) == 0
	}
}

func sortedNames(names map[string]*node) []string { return slices.Sorted(maps.Keys(names)) }
