package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/disk/vfs"
)

// deletedPrefix marks a folder whose volume is gone and whose space is being given back.
const deletedPrefix = ".deleted-"

// Options of a store. The zero value is good.
type Options struct {
	// Logger receives what no caller can be told; nil discards it.
	Logger *slog.Logger
	// SyncTimeout is how long a write in sync mode waits for the other end before the volume falls back to async; 2 s
	// when zero.
	SyncTimeout time.Duration
	// LinkTimeout is how long the other end may be silent, in a handshake and in async mode, and how long Fence waits for a
	// broken link, before they give up; 10 s when zero.
	LinkTimeout time.Duration
	// Backoff is the pause before the first new attempt to connect; it doubles up to a hundredfold. 50 ms when zero.
	Backoff time.Duration
}

// Store is a folder of volumes, used by one process at a time.
type Store struct {
	dir    string
	opts   Options
	lock   *os.File
	bootID uint64

	mu      sync.Mutex
	volumes map[string]*Volume
	damaged map[string]error // volumes that cannot be opened; nothing touches them
	groups  map[string]*Group
	standby map[string]*Standby
	closed  bool

	aside    atomic.Int64 // memory of the groups' arenas, in chunks
	grouping sync.Mutex   // one change of the groups and standbys at a time; before mu
}

// Open opens the store in dir, making the folder if need be. Every volume comes back in the role that is durable on disk, and
// the exports that it had are served again, stale sockets replaced.
func Open(dir string, opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	opts.SyncTimeout = cmp.Or(opts.SyncTimeout, 2*time.Second)
	opts.LinkTimeout = cmp.Or(opts.LinkTimeout, 10*time.Second)
	opts.Backoff = cmp.Or(opts.Backoff, 50*time.Millisecond)
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{dir: dir, opts: opts, volumes: map[string]*Volume{}, damaged: map[string]error{}, bootID: bootID()}
	s.groups, s.standby = map[string]*Group{}, map[string]*Standby{}
	if s.lock, err = os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = s.lock.Close()
		return nil, fmt.Errorf("open store %s: %w: stop the other agent first", dir, ErrLocked)
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", dir, err), s.Close())
	}
	return s, nil
}

// bootID tells one life of this machine's kernel from another, 62 bits.
func bootID() uint64 {
	h := fnv.New64a()
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	_, _ = h.Write(b)
	return h.Sum64() >> 2
}

func (s *Store) load() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		switch {
		case !e.IsDir():
			continue // the lock, and notes on block devices
		case strings.HasPrefix(e.Name(), deletedPrefix):
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			continue
		}
		if strings.HasPrefix(e.Name(), standbyPrefix) {
			continue
		}
		if err := s.loadVolume(e.Name(), path); err != nil {
			s.opts.Logger.Error("cannot open a volume", "volume", e.Name(), "err", err)
			s.damaged[e.Name()] = err
		}
	}
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), standbyPrefix); ok {
			if err := s.loadStandby(name, filepath.Join(s.dir, e.Name())); err != nil {
				s.opts.Logger.Error("cannot open a standby", "standby", name, "err", err)
				s.damaged[e.Name()] = err
			}
		}
	}
	return nil
}

// loadVolume brings one volume back. A failure is this volume's alone: the others must be served.
func (s *Store) loadVolume(name, path string) error {
	meta, err := loadMetadata(path)
	if errors.Is(err, fs.ErrNotExist) {
		s.opts.Logger.Info("removing a volume whose creation was interrupted", "volume", name)
		return os.RemoveAll(path)
	}
	if err == nil && meta.Name != name {
		err = fmt.Errorf("the folder is %s, the metadata are those of %s", name, meta.Name)
	}
	if err != nil {
		return err
	}
	if err := meta.finishGrowth(path); err != nil {
		return err
	}
	v, err := openVolume(s, path, meta)
	if err != nil {
		return err
	}
	s.volumes[name] = v
	if meta.Socket != "" {
		if err := v.Serve(meta.Socket); err != nil {
			v.note(err)
			s.opts.Logger.Error("cannot serve a volume again", "volume", name, "err", err)
		}
	}
	return nil
}

// Close ends all exports and sessions and returns when nothing of the store runs any more. Requests that are parked are not
// answered.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	volumes := s.volumes
	s.volumes = map[string]*Volume{}
	groups, standbys := s.groups, s.standby
	s.groups, s.standby = map[string]*Group{}, map[string]*Standby{}
	s.mu.Unlock()
	var errs []error
	for _, g := range groups {
		errs = append(errs, g.close())
	}
	for _, b := range standbys {
		errs = append(errs, b.close())
	}
	for _, v := range volumes {
		errs = append(errs, v.close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// Create makes an empty primary bound to epoch; on a block device, it holds what is there. If it exists with the same epoch and size,
// it is returned as it is.
func (s *Store) Create(ctx context.Context, spec Spec, epoch uint64) (*Volume, error) {
	return s.create(ctx, spec, metadata{Name: spec.Name, Size: spec.Size, Role: RolePrimary, Epoch: epoch, Owner: epoch})
}

// CreateReplica makes an empty replica at epoch. If it exists with the same epoch and size, it is returned as it is, content
// included; any other volume of that name is an [ErrExists]. The whole size must be free on disk, and what other replicas
// were promised with it; else [ErrNoSpace]. A block device has to hold nothing, or what a replica of that name has left there.
func (s *Store) CreateReplica(ctx context.Context, spec Spec, epoch uint64) (*Volume, error) {
	return s.create(ctx, spec, metadata{Name: spec.Name, Size: spec.Size, Role: RoleReplica, Epoch: epoch})
}

func (s *Store) create(ctx context.Context, spec Spec, meta metadata) (*Volume, error) {
	if err := errors.Join(spec.check(), ctx.Err()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("create volume %s: %w", spec.Name, ErrClosed)
	}
	if err := s.damaged[spec.Name]; err != nil {
		return nil, fmt.Errorf("create volume %s: %w, but it is damaged: %w", spec.Name, ErrExists, err)
	}
	if v := s.volumes[spec.Name]; v != nil {
		have := v.metadata()
		if have.Role == meta.Role && have.Epoch == meta.Epoch && have.Size == meta.Size && have.Group == meta.Group && have.Device == spec.Device {
			return v, nil
		}
		return nil, fmt.Errorf("create volume %s as %s of %d bytes at epoch %d: %w as %s of %d bytes at epoch %d: delete that first",
			spec.Name, meta.Role, meta.Size, meta.Epoch, ErrExists, have.Role, have.Size, have.Epoch)
	}
	var err error
	switch {
	case spec.Device != "":
		meta.Device = spec.Device
		meta.DeviceID, err = s.deviceForLocked(spec, meta.Role)
	case meta.Role == RoleReplica:
		err = s.roomForLocked(spec)
	}
	if err != nil {
		return nil, err
	}
	v, err := s.makeLocked(meta)
	if err != nil {
		return nil, fmt.Errorf("create volume %s: %w", spec.Name, err)
	}
	s.volumes[spec.Name] = v
	return v, nil
}

func (s *Store) roomForLocked(spec Spec) error {
	free, err := s.Free()
	if err != nil {
		return err
	}
	promised := int64(0)
	for _, v := range s.volumes {
		if v.metadata().Role == RoleReplica {
			promised += max(0, v.size-v.allocated())
		}
	}
	if free-promised < spec.Size {
		return fmt.Errorf("replica of %s: %w: needs %d bytes, %s has %d free, of which %d are promised to other replicas",
			spec.Name, ErrNoSpace, spec.Size, s.dir, free, promised)
	}
	return nil
}

// makeLocked writes the metadata last: without it, the folder is no volume.
func (s *Store) makeLocked(meta metadata) (*Volume, error) {
	path := filepath.Join(s.dir, meta.Name)
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	var err error
	if meta.Device == "" {
		err = disk.Create(filepath.Join(path, baseName), meta.Size, disk.Options{Checksums: true})
	}
	if err == nil {
		err = meta.save(path)
	}
	if err == nil {
		err = vfs.OS{}.SyncDir(s.dir)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	return openVolume(s, path, meta)
}

// Volume returns the volume of that name, or [ErrNotFound].
func (s *Store) Volume(name string) (*Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[name]; v != nil {
		return v, nil
	}
	if err := s.damaged[name]; err != nil {
		return nil, fmt.Errorf("volume %s is damaged: %w", name, err)
	}
	return nil, fmt.Errorf("volume %s: %w", name, ErrNotFound)
}

// Volumes reports on all volumes, sorted by name. One that cannot be opened has no role, and Err says why.
func (s *Store) Volumes() []Status {
	s.mu.Lock()
	volumes := make([]*Volume, 0, len(s.volumes))
	for _, v := range s.volumes {
		volumes = append(volumes, v)
	}
	out := make([]Status, 0, len(volumes)+len(s.damaged))
	for name, err := range s.damaged {
		meta, _ := loadMetadata(filepath.Join(s.dir, name)) // which may be what is damaged
		path, _ := meta.disk(filepath.Join(s.dir, name))
		out = append(out, Status{Name: name, Path: path, Device: meta.Device != "", Err: err.Error()})
	}
	s.mu.Unlock()
	for _, v := range volumes {
		out = append(out, v.Status())
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// StatePath is the path, without its ending, of what is kept beside the bytes of a volume: as in [disk.Options].
func (s *Store) StatePath(volume string) string { return filepath.Join(s.dir, volume, baseName) }

// Free is what the file system of the store has left for us, in bytes.
func (s *Store) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Delete removes a volume, its connections and sessions included; one that is not there is a success. A block device is let go, and
// what is on it stays. It is refused with
// [ErrStale] when the volume is bound to a newer epoch, and, on a primary, for the epochs of attempts that never fenced it.
func (s *Store) Delete(ctx context.Context, name string, epoch uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	gone, err := s.putAside(name, epoch)
	if err == nil && gone != "" {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("delete volume %s: %w", name, err)
	}
	return nil
}

func (s *Store) deletedPath(name string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s%s-%d", deletedPrefix, name, time.Now().UnixNano()))
}

// putAside makes the volume disappear durably and returns the folder whose space is to be given back, if there is one.
func (s *Store) putAside(name string, epoch uint64) (gone string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.damaged[name]; err != nil {
		meta, unread := loadMetadata(filepath.Join(s.dir, name))
		if unread != nil || meta.Device == "" {
			return "", fmt.Errorf("it is damaged and must be looked at by hand: %w", err)
		}
		return s.forgetDeviceLocked(meta, epoch)
	}
	v := s.volumes[name]
	if v == nil {
		return "", nil
	}
	if err := v.deletable(epoch); err != nil {
		return "", err
	}
	gone = s.deletedPath(name)
	closed := v.closeWith((*disk.Disk).Abandon)
	if meta := v.metadata(); meta.Device != "" {
		s.released(meta)
	}
	if err := os.Rename(v.dir, gone); err != nil {
		return "", errors.Join(err, closed)
	}
	delete(s.volumes, name)
	return gone, vfs.OS{}.SyncDir(s.dir)
}
