package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/disk/vfs"
	"github.com/godwit-project/godwit/storage/nbd"
)

const (
	// RoleWaiting is an external disk that somebody else uses, and that is to be used here.
	RoleWaiting = "waiting"
	// ModeExternal is the mode of every external disk: it is not replicated.
	ModeExternal = "external"

	externalSuffix = ".json"
	externalFormat = 1
)

// ErrElsewhere means that an external disk is used by somebody else, or was found not to be the disk that somebody else uses.
var ErrElsewhere = errors.New("external disk")

// ErrTaken means that another host uses an external disk: it holds its lock.
var ErrTaken = fmt.Errorf("%w is in use by another host", ErrElsewhere)

// ExternalSpec names a disk that hosts of all sites reach.
type ExternalSpec struct {
	// Name is unique among the external disks: as for volumes.
	Name string
	// Path of the file, or block device: the same everywhere.
	Path string
}

// Externals are the external disks that services of this host use: files or block devices that hosts of several sites reach, on NFS,
// Ceph or an array. They are never copied, only fenced: of one disk
//
//	Use ──▶ primary ──Fence──▶ fenced ──Forget──▶ (gone; the content stays)
//	         ▲   ▲               │
//	      Promote└───Unfence─────┘
//	Await ─▶ waiting ──Forget──▶ (gone)
//
// one host is the primary. A disk is opened by its primary alone, which holds a lock on it; the fence is durable, and the disk synced
// and closed, before Fence returns, and only then may another host Promote. What is known of a disk lies in the folder, one file
// each, and never beside the disk: a host that cannot reach the disk is fenced all the same.
type Externals struct {
	dir  string
	opts Options
	wg   sync.WaitGroup // of those who try to open a disk again

	mu     sync.Mutex
	disks  map[string]*External
	closed bool
}

// External is one external disk. Its verbs are idempotent, and refused with [ErrStale] for an epoch that is over.
type External struct {
	name         string
	size         int64
	path, record string
	state        string // path of what the disk keeps, without its ending
	log          *slog.Logger
	gate         gate
	role         atomic.Pointer[string]
	disk         atomic.Pointer[disk.Disk] // nil unless it is used here
	faults       faultLog
	counts       requestCounts
	stop         chan struct{}

	mu      sync.Mutex
	meta    externalMeta
	export  *nbd.Server
	trouble string
	closed  bool
}

// externalMeta is what is durable about an external disk.
type externalMeta struct {
	Format int    `json:"format"`
	Name   string `json:"name"`
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Role   string `json:"role"`
	// As of a volume: the epoch that it is bound to, that of the primary which a fenced one was, the highest attempt, and the highest
	// that was aborted.
	Epoch   uint64 `json:"epoch"`
	Owner   uint64 `json:"owner,omitempty"`
	Attempt uint64 `json:"attempt,omitempty"`
	Aborted uint64 `json:"aborted,omitempty"`
	// Sealed says of a fenced one that all that was written is on stable storage.
	Sealed bool   `json:"sealed,omitempty"`
	Socket string `json:"socket,omitempty"`
}

// OpenExternals opens the folder, making it if need be. Disks that are used here are opened and served again; one that cannot be
// opened now is tried again each second, and its clients wait.
func OpenExternals(dir string, opts Options) (*Externals, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open external disks: %w", err)
	}
	s := &Externals{dir: dir, opts: opts, disks: make(map[string]*External)}
	files, err := filepath.Glob(filepath.Join(dir, "*"+externalSuffix))
	if err != nil {
		return nil, fmt.Errorf("open external disks: %w", err)
	}
	for _, file := range files {
		meta, err := loadExternal(file)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		x := s.make(meta)
		s.disks[meta.Name] = x
		if meta.Role == RoleFenced {
			continue
		}
		if err := x.bringBack(); err != nil {
			s.opts.Logger.Error("an external disk cannot be used yet", "disk", meta.Name, "path", meta.Path, "err", err)
			s.wg.Go(x.keepTrying)
		}
		if meta.Socket != "" {
			if err := x.Serve(meta.Socket); err != nil {
				return nil, errors.Join(err, s.Close())
			}
		}
	}
	return s, nil
}

func loadExternal(file string) (m externalMeta, err error) {
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	switch {
	case err != nil:
		return m, fmt.Errorf("read external disk %s: %w", file, err)
	case m.Format != externalFormat:
		return m, fmt.Errorf("read external disk %s: format %d, this program knows %d only", file, m.Format, externalFormat)
	case m.Name+externalSuffix != filepath.Base(file) || !slices.Contains([]string{RolePrimary, RoleWaiting, RoleFenced}, m.Role):
		return m, fmt.Errorf("read external disk %s: it is %q, %s", file, m.Name, m.Role)
	}
	return m, nil
}

// make makes the value. Its gate is shut until the disk can be asked.
func (s *Externals) make(meta externalMeta) *External {
	x := &External{
		name: meta.Name, size: meta.Size, path: meta.Path, record: filepath.Join(s.dir, meta.Name+externalSuffix), state: filepath.Join(s.dir, meta.Name),
		log: s.opts.Logger.With("disk", meta.Name), meta: meta, stop: make(chan struct{}),
	}
	x.role.Store(&meta.Role)
	x.gate.shut()
	return x
}

// Close ends all use of the disks here. Requests that are parked are not answered; what was written is durable.
func (s *Externals) Close() error {
	s.mu.Lock()
	s.closed = true
	disks := s.disks
	s.disks = make(map[string]*External)
	s.mu.Unlock()
	var errs []error
	for _, x := range disks {
		errs = append(errs, x.close())
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

// Disk returns the disk of that name, or [ErrNotFound].
func (s *Externals) Disk(name string) (*External, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.disks[name]; x != nil {
		return x, nil
	}
	return nil, fmt.Errorf("external disk %s: %w", name, ErrNotFound)
}

// List reports on all of them, sorted by name.
func (s *Externals) List() []Status {
	s.mu.Lock()
	out := make([]Status, 0, len(s.disks))
	for _, x := range s.disks {
		out = append(out, x.Status())
	}
	s.mu.Unlock()
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Forget ends the use of a disk here; what is on it is not touched. One that is not known is a success.
func (s *Externals) Forget(name string, epoch uint64) error {
	s.mu.Lock()
	x := s.disks[name]
	s.mu.Unlock()
	if x == nil {
		return nil
	}
	err := x.forgettable(epoch)
	if err == nil {
		err = x.close()
	}
	if err == nil {
		err = os.Remove(x.record)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = vfs.OS{}.SyncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("forget external disk %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disks[name] == x {
		delete(s.disks, name)
	}
	return nil
}

func (x *External) forgettable(epoch uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := &x.meta
	switch {
	case epoch < m.Epoch:
		return fmt.Errorf("%w: asked at epoch %d, it is bound to %d", ErrStale, epoch, m.Epoch)
	case m.Role == RolePrimary && epoch > m.Epoch && epoch <= max(m.Attempt, m.Aborted):
		return fmt.Errorf("%w: it is primary at epoch %d and was never fenced for attempt %d", ErrStale, m.Epoch, epoch)
	}
	return nil
}

// close ends the export, and the use of the disk, which is durable then.
func (x *External) close() error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil
	}
	x.closed = true
	close(x.stop)
	export := x.export
	x.mu.Unlock()
	var err error
	if export != nil {
		err = export.Close()
	}
	x.gate.close()
	x.mu.Lock()
	defer x.mu.Unlock()
	return errors.Join(err, x.closeDiskLocked())
}

// updateLocked makes a change durable, and only then true.
func (x *External) updateLocked(change func(*externalMeta)) error {
	if x.closed {
		return ErrClosed
	}
	next := x.meta
	change(&next)
	if next.Format = externalFormat; next == x.meta {
		return nil
	}
	b, err := json.MarshalIndent(next, "", "  ")
	if err == nil {
		err = vfs.Replace(vfs.OS{}, x.record, append(b, '\n'))
	}
	if err != nil {
		return err
	}
	x.meta = next
	x.role.Store(&next.Role)
	return nil
}

// look finds the size of a disk, and says why there is none.
func look(path string) (int64, error) {
	f, err := vfs.OS{}.Open(path, os.O_RDONLY)
	if err != nil {
		return 0, fmt.Errorf("%w cannot be reached: %w", ErrElsewhere, err)
	}
	info, err := f.Info()
	err = errors.Join(err, f.Close())
	switch {
	case err != nil:
		return 0, err
	case info.Size == 0 || info.Size%512 != 0:
		return 0, fmt.Errorf("%w %s has %d bytes: want whole sectors of 512, at least one", ErrElsewhere, path, info.Size)
	}
	return info.Size, nil
}

// othersUse finds a disk to be in use elsewhere, by the lock that its user holds. If nobody does, it is another disk of the same path,
// or one whose locks do not reach here: then nothing would keep two from using it. Block devices have no such locks.
func othersUse(path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := vfs.OS{}.Open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	err = f.Lock(true)
	switch err = errors.Join(err, f.Close()); {
	case errors.Is(err, vfs.ErrLocked):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%w %s is not in use: here it is not the disk that the service uses, or its file system has no locks that reach all hosts", ErrElsewhere, path)
}

// freshen forgets what this machine has in memory of a disk that somebody else may have written.
func freshen(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.Mode().IsRegular():
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	default:
		err = unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	}
	return err
}
