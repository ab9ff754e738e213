package journal

import (
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// memFS is a file system that loses, in a power cut, what was not synced: of each write since then any part of whole sectors,
// of the names the last changes.
type memFS struct {
	mu      sync.Mutex
	rng     *rand.Rand
	names   map[string]*memFile
	durable map[string]*memFile
	changes []func(map[string]*memFile) // to durable, not synced, in order
	full    bool                        // writes fail with ENOSPC
	ops     int                         // left until everything fails, -1 for never: a kill in the middle of something
}

var errKilled = syscall.EIO

func newMemFS(rng *rand.Rand) *memFS {
	return &memFS{rng: rng, names: map[string]*memFile{}, durable: map[string]*memFile{}, ops: -1}
}

// memFile is a file, or a disk of fixed size.
type memFile struct {
	fs      *memFS
	content []byte
	durable []byte
	writes  []memWrite
}

type memWrite struct {
	off  int64
	data []byte
}

// step counts an operation that changes something; it fails when the process has been killed.
func (m *memFS) step() error {
	switch {
	case m.ops == 0:
		return errKilled
	case m.ops > 0:
		m.ops--
	}
	return nil
}

func (m *memFS) Open(name string, create bool) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.names[name]
	if f != nil {
		return f, nil
	}
	if !create {
		return nil, fs.ErrNotExist
	}
	if err := m.step(); err != nil {
		return nil, err
	}
	f = &memFile{fs: m}
	m.change(func(names map[string]*memFile) { names[name] = f })
	return f, nil
}

func (m *memFS) change(f func(map[string]*memFile)) {
	f(m.names)
	m.changes = append(m.changes, f)
}

func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step(); err != nil {
		return err
	}
	f := m.names[from]
	if f == nil {
		return fs.ErrNotExist
	}
	m.change(func(names map[string]*memFile) {
		delete(names, from)
		names[to] = f
	})
	return nil
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step(); err != nil {
		return err
	}
	m.change(func(names map[string]*memFile) { delete(names, name) })
	return nil
}

func (m *memFS) List() ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.names)), nil
}

func (m *memFS) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step(); err != nil {
		return err
	}
	m.durable = maps.Clone(m.names)
	m.changes = nil
	return nil
}

// powerCut keeps of what was not synced what chance keeps.
func (m *memFS) powerCut(disks []*memFile) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, change := range m.changes[:m.rng.IntN(len(m.changes)+1)] {
		change(m.durable)
	}
	m.changes = nil
	m.names = maps.Clone(m.durable)
	files := slices.Clone(disks)
	for _, name := range slices.Sorted(maps.Keys(m.names)) {
		files = append(files, m.names[name])
	}
	for _, f := range files {
		f.content = f.durable
		for _, w := range f.writes {
			for at := 0; at < len(w.data); at += 512 {
				if m.rng.IntN(2) == 0 {
					f.content = place(f.content, w.off+int64(at), w.data[at:min(at+512, len(w.data))])
				}
			}
		}
		f.writes, f.durable = nil, slices.Clone(f.content)
	}
}

func place(content []byte, off int64, p []byte) []byte {
	if grow := off + int64(len(p)) - int64(len(content)); grow > 0 {
		content = append(content, make([]byte, grow)...)
	}
	copy(content[off:], p)
	return content
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if off >= int64(len(f.content)) {
		return 0, io.EOF
	}
	n := copy(p, f.content[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.step(); err != nil {
		return 0, err
	}
	if f.fs.full {
		return 0, syscall.ENOSPC
	}
	p = slices.Clone(p)
	f.content = place(f.content, off, p)
	f.writes = append(f.writes, memWrite{off, p})
	return len(p), nil
}

func (f *memFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.step(); err != nil {
		return err
	}
	f.content = append(f.content[:min(size, int64(len(f.content)))], make([]byte, max(0, size-int64(len(f.content))))...)
	f.writes, f.durable = nil, slices.Clone(f.content) // durable at once: only the state is truncated, under another name
	return nil
}

func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.step(); err != nil {
		return err
	}
	f.writes, f.durable = nil, slices.Clone(f.content)
	return nil
}

func (f *memFile) Size() int64  { return int64(len(f.content)) }
func (f *memFile) Close() error { return nil }
func (f *memFile) Zero(off, length int64) error {
	_, err := f.WriteAt(make([]byte, length), off)
	return err
}
