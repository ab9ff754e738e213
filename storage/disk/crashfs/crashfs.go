// Package crashfs is a file system in memory for tests of what must survive crashes. It knows what is in the page cache and
// what is on the disk, and can lose the difference: any subset of the sectors that were not synced, in any order, torn at 512
// bytes. It can be full, and fail calls with any error.
//
// A test does this, from one goroutine if the seed is to repeat it:
//
//	fsys := crashfs.New(seed)
//	fsys.StopAt(n)            // the n-th call from now panics with ErrStopped, done or not: recover it
//	…
//	fsys = fsys.AfterKill()   // the process died: what was written is there
//	fsys = fsys.AfterPowerLoss() // the machine died: what was synced is there, of the rest anything
//
// Names follow the order in which they were made: after a power loss some prefix of what was done to them since the last
// SyncDir is true. That is what journaling file systems do.
package crashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"sync"
	"syscall"

	"github.com/godwit-project/godwit/storage/disk/vfs"
)

// ErrStopped is what a call panics with at the point that [FS.StopAt] named, and ever after.
var ErrStopped = errors.New("the process is dead")

const (
	sector = 512
	// limit is the largest file, in bytes; memory for it is set aside when the file is made, so that mappings stay good.
	limit = 1 << 20
)

// Op is a call, for rules that let it fail.
type Op struct {
	// Name is open, rename, remove, syncdir, read, write, truncate, reserve, zero or sync.
	Name        string
	Path        string
	Off, Length int64
}

// FS is a file system.
type FS struct {
	mu    sync.Mutex
	rng   *rand.Rand
	calls int
	stop  int
	fault func(Op) error
	room  int64 // what may still be written to places that were not, in bytes
	names map[string]*node
	// disk is what the names are after a power loss, and pending what was done to them since.
	disk    map[string]*node
	pending []map[string]*node
	heir    *FS // what is left of a dead one
}

// node is a file's content, in the page cache and on the disk.
type node struct {
	live, disk []byte // len is the size, cap is limit
	reserved   int64
	holes      []bool           // per sector of live: never written
	lost       map[int]struct{} // sectors that the page cache takes for written since a Sync failed
	exclusive  bool
	sharers    int
	clock      int64
}

var _ vfs.FS = (*FS)(nil)

// New makes an empty one. Everything that is left to chance follows from the seed.
func New(seed uint64) *FS {
	return &FS{rng: rand.New(rand.NewPCG(seed, 1)), stop: -1, room: 1 << 60, names: map[string]*node{}, disk: map[string]*node{}}
}

// StopAt lets the n-th call from now, 0 being the next, panic with [ErrStopped]; by chance before or after its effect. A negative n
// lets none.
func (f *FS) StopAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.stop = 0, n
}

// Calls is how many calls there were since StopAt.
func (f *FS) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// Fail sets the rule by which calls fail; nil lets none. A write that fails may have written a part, and a Sync that fails has
// lost some of what it should have made durable.
func (f *FS) Fail(rule func(Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = rule
}

// SetRoom says how many bytes may still be given to files.
func (f *FS) SetRoom(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room = bytes
}

// AfterKill returns the file system as the next process finds it. The old one is dead: every call panics.
func (f *FS) AfterKill() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.die()
	return f.heir
}

// die keeps what there is at this moment: what deferred functions of the dead still store must not be seen.
func (f *FS) die() {
	f.calls, f.stop = 1, 0
	if f.heir != nil {
		return
	}
	copied := map[*node]*node{}
	heir := func(n *node) *node {
		if n != nil && copied[n] == nil {
			copied[n] = n.clone()
		}
		return copied[n]
	}
	f.heir = &FS{rng: f.rng, stop: -1, room: f.room, names: translate(f.names, heir), disk: translate(f.disk, heir)}
	for _, names := range f.pending {
		f.heir.pending = append(f.heir.pending, translate(names, heir))
	}
}

// AfterPowerLoss returns the file system as the machine finds it when it is on again. The old one is dead: every call panics.
func (f *FS) AfterPowerLoss() *FS {
	f = f.AfterKill()
	f.mu.Lock()
	defer f.mu.Unlock()
	next := &FS{rng: f.rng, stop: -1, room: f.room}
	names := f.disk
	if n := f.rng.IntN(len(f.pending) + 1); n > 0 {
		names = f.pending[n-1]
	}
	done := map[*node]*node{}
	keep := []float64{0, 0.1, 0.5, 0.9, 1}[f.rng.IntN(5)]
	next.names = translate(names, func(n *node) *node {
		if n != nil && done[n] == nil {
			if f.rng.Float64() < keep {
				n.disk = resized(n.disk, len(n.live))
			}
			n.writeBack(f.rng, keep)
			done[n] = &node{disk: n.disk, live: append(make([]byte, 0, limit), n.disk...), reserved: n.reserved, clock: n.clock}
			done[n].findHoles()
		}
		return done[n]
	})
	next.disk = maps.Clone(next.names)
	return next
}

// Corrupt flips one bit of a file, on the disk and in the page cache.
func (f *FS) Corrupt(name string, off int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.names[path.Clean(name)]
	n.live[off] ^= 1
	if off < int64(len(n.disk)) {
		n.disk[off] = n.live[off]
	}
}

func translate(names map[string]*node, to func(*node) *node) map[string]*node {
	out := make(map[string]*node, len(names))
	for _, name := range sortedNames(names) {
		out[name] = to(names[name])
	}
	return out
}

// begin is the start of every call: it counts, stops and fails. after is called when the effect is there.
func (f *FS) begin(op Op) (after func(), err error) {
	at := f.calls
	f.calls++
	late := f.rng.IntN(2) == 0
	if f.stop >= 0 && at > f.stop || at == f.stop && !late {
		f.die()
		panic(ErrStopped)
	}
	if f.fault != nil {
		if err := f.fault(op); err != nil {
			return nil, &fs.PathError{Op: op.Name, Path: op.Path, Err: err}
		}
	}
	return func() {
		if at == f.stop {
			f.die()
			panic(ErrStopped)
		}
	}, nil
}

// Open opens or makes a file.
func (f *FS) Open(name string, flag int) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	after, err := f.begin(Op{Name: "open", Path: name})
	if err != nil {
		return nil, err
	}
	defer after()
	name = path.Clean(name)
	n := f.names[name]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case n != nil && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case n == nil:
		n = &node{live: make([]byte, 0, limit)}
		f.names[name] = n
		f.changed()
	case flag&os.O_TRUNC != 0:
		n.resize(0)
	}
	return &file{fs: f, node: n, name: name, writable: flag&(os.O_RDWR|os.O_WRONLY) != 0}, nil
}

// Rename gives a file another name.
func (f *FS) Rename(from, to string) error {
	return f.rename(Op{Name: "rename", Path: from}, func() { f.names[path.Clean(to)] = f.names[path.Clean(from)] })
}

// Remove removes a name.
func (f *FS) Remove(name string) error {
	return f.rename(Op{Name: "remove", Path: name}, func() {})
}

func (f *FS) rename(op Op, change func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	after, err := f.begin(op)
	if err != nil {
		return err
	}
	defer after()
	if f.names[path.Clean(op.Path)] == nil {
		return &fs.PathError{Op: op.Name, Path: op.Path, Err: fs.ErrNotExist}
	}
	change()
	delete(f.names, path.Clean(op.Path))
	f.changed()
	return nil
}

// changed notes what the names are now.
func (f *FS) changed() { f.pending = append(f.pending, maps.Clone(f.names)) }

// SyncDir makes all names durable, those of other folders too.
func (f *FS) SyncDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	after, err := f.begin(Op{Name: "syncdir", Path: dir})
	if err != nil {
		return err
	}
	defer after()
	f.disk, f.pending = maps.Clone(f.names), nil
	return nil
}

// Names lists the files that there are.
func (f *FS) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sortedNames(f.names)
}

// take gives room for n bytes, or none.
func (f *FS) take(n int64) error {
	if n > f.room {
		return syscall.ENOSPC
	}
	f.room -= n
	return nil
}

func (n *node) clone() *node {
	c := &node{reserved: n.reserved, clock: n.clock, disk: bytes.Clone(n.disk), lost: maps.Clone(n.lost)}
	c.live = append(make([]byte, 0, limit), n.live...)
	c.holes = append([]bool(nil), n.holes...)
	return c
}

func (f *FS) String() string { return fmt.Sprintf("crashfs with %v", f.Names()) }
