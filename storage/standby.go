package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/disk/vfs"
	"github.com/godwit-project/godwit/storage/journal"
)

const (
	// standbyPrefix begins the name of a standby's folder, which no volume's name can begin with.
	standbyPrefix = ".standby-"
	standbyName   = "standby.json"
	standbyFormat = 1
	// applyPause is how long the standby waits for more before it syncs its disks and gives log files back. A source may rest for longer
	// between two large epochs; what keeps a log file quick to write again is given back after idlePauses of them.
	applyPause = 5 * time.Second
	idlePauses = 12
	// maxBacklog bounds what is committed and not applied, in bytes: beyond it no more is taken from the source.
	maxBacklog = 1 << 30
)

// standbyMeta is what is durable about a standby beside its journal.
type standbyMeta struct {
	Format  int    `json:"format"`
	Name    string `json:"name"`
	Epoch   uint64 `json:"epoch"`
	Volumes []Spec `json:"volumes"`
	// Promoted is the epoch that its volumes became primaries at, 0 for not yet.
	Promoted uint64 `json:"promoted,omitempty"`
	// Tail is what the volumes held that was never replicated, in bytes at most, when they were demoted into this standby.
	Tail int64 `json:"tail,omitempty"`
}

// Standby is the other end of a [Group]: replicas of several volumes that are always at the end of one epoch, together.
type Standby struct {
	store   *Store
	dir     string
	volumes []*Volume
	journal *journal.Journal
	life    context.Context
	end     context.CancelFunc
	wg      sync.WaitGroup

	mu       sync.Mutex
	changed  sync.Cond // of incoming; work for the applier; closed
	meta     standbyMeta
	incoming *standbyLink
	last     incomingID
	closed   bool
	trouble  error
}

// CreateStandby makes an empty standby of a group at the owner's epoch, with its volumes. If it exists with the same volumes it
// is returned as it is, content included; a newer epoch is taken over, and cuts the connection of an older one.
func (s *Store) CreateStandby(ctx context.Context, name string, volumes []Spec, epoch uint64) (*Standby, error) {
	b, err := s.createStandby(ctx, name, volumes, epoch)
	if err != nil {
		return nil, fmt.Errorf("create standby %s: %w", name, err)
	}
	return b, nil
}

func (s *Store) createStandby(ctx context.Context, name string, volumes []Spec, epoch uint64) (*Standby, error) {
	if err := (Spec{Name: name, Size: 512}).check(); err != nil {
		return nil, err
	}
	if len(volumes) == 0 {
		return nil, errors.New("it has no volumes")
	}
	s.grouping.Lock()
	defer s.grouping.Unlock()
	if b, err := s.Standby(name); err == nil {
		return b, b.adopt(volumes, epoch)
	}
	for _, spec := range volumes {
		meta := metadata{Name: spec.Name, Size: spec.Size, Role: RoleReplica, Epoch: epoch, Group: name}
		if _, err := s.create(ctx, spec, meta); err != nil {
			return nil, err
		}
	}
	made := standbyMeta{Name: name, Epoch: epoch}
	for _, spec := range volumes {
		made.Volumes = append(made.Volumes, Spec{Name: spec.Name, Size: spec.Size})
	}
	return s.makeStandby(made, false)
}

// makeStandby makes the folder, whose metadata are written last.
func (s *Store) makeStandby(meta standbyMeta, complete bool) (*Standby, error) {
	dir := filepath.Join(s.dir, standbyPrefix+meta.Name)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), vfs.OS{}.SyncDir(s.dir)); err != nil {
		return nil, err
	}
	b, err := s.openStandby(dir, meta, complete)
	if err != nil {
		return nil, err
	}
	if err := meta.save(dir); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (m standbyMeta) save(dir string) error {
	m.Format = standbyFormat
	content, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return vfs.Replace(vfs.OS{}, filepath.Join(dir, standbyName), append(content, '\n'))
}

// loadStandby brings a standby back, or removes one whose making was interrupted.
func (s *Store) loadStandby(name, dir string) error {
	content, err := os.ReadFile(filepath.Join(dir, standbyName))
	if errors.Is(err, os.ErrNotExist) {
		return os.RemoveAll(dir)
	}
	if err != nil {
		return err
	}
	var meta standbyMeta
	if err := json.Unmarshal(content, &meta); err != nil {
		return fmt.Errorf("read standby %s: %w", name, err)
	}
	if meta.Format != standbyFormat || meta.Name != name {
		return fmt.Errorf("read standby %s: format %d of %s, this program knows %d only", name, meta.Format, meta.Name, standbyFormat)
	}
	if meta.Promoted != 0 {
		return s.finishPromotion(meta, dir)
	}
	_, err = s.openStandby(dir, meta, false)
	return err
}

func (s *Store) openStandby(dir string, meta standbyMeta, complete bool) (*Standby, error) {
	b := &Standby{store: s, dir: dir, meta: meta}
	b.changed.L = &b.mu
	b.life, b.end = context.WithCancel(context.Background())
	var disks []journal.Disk
	for _, spec := range meta.Volumes {
		v, err := s.Volume(spec.Name)
		if err != nil {
			return nil, err
		}
		if m := v.metadata(); m.Group != meta.Name || m.Role != RoleReplica {
			return nil, fmt.Errorf("%w: volume %s is %s of %q", ErrRole, v.name, m.Role, m.Group)
		}
		b.volumes, disks = append(b.volumes, v), append(disks, replicaDisk{v})
	}
	var err error
	if b.journal, err = journal.Open(journal.Dir(dir), disks, complete); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.standby[meta.Name] = b
	s.mu.Unlock()
	b.wg.Go(b.apply)
	return b, nil
}

var (
	_ journal.Salvager  = replicaDisk{}
	_ journal.Condemner = replicaDisk{}
	_ journal.Starter   = replicaDisk{}
)

// replicaDisk is a volume as its journal sees it.
type replicaDisk struct{ v *Volume }

func (d replicaDisk) Size() int64                              { return d.v.size }
func (d replicaDisk) ReadAt(p []byte, off int64) (int, error)  { return d.v.disk.ReadAt(p, off) }
func (d replicaDisk) Salvage(p []byte, off int64) error        { return d.v.disk.Salvage(p, off) }
func (d replicaDisk) WriteAt(p []byte, off int64) (int, error) { return d.v.disk.WriteAt(p, off) }
func (d replicaDisk) Zero(off, length int64) error             { return d.v.disk.Zero(off, length, false) }

func (d replicaDisk) Condemn(off, length int64) error {
	return d.v.disk.Condemn(disk.Range{Off: off, Length: length})
}
func (d replicaDisk) StartSync()  { d.v.disk.StartSync() }
func (d replicaDisk) Sync() error { return d.v.disk.Sync() }

// onDevices says whether one of the volumes lies on a block device, which need not read as zeroes when it is new.
func (b *Standby) onDevices() bool {
	return slices.ContainsFunc(b.volumes, func(v *Volume) bool { return v.metadata().Device != "" })
}

// adopt takes a newer epoch over.
func (b *Standby) adopt(volumes []Spec, epoch uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(volumes) != len(b.meta.Volumes) {
		return fmt.Errorf("%w with %d volumes: delete it first", ErrExists, len(b.meta.Volumes))
	}
	for i, v := range volumes {
		if have := b.meta.Volumes[i]; v.Name != have.Name || v.Size != have.Size {
			return fmt.Errorf("%w with volume %s of %d bytes: delete it first", ErrExists, b.meta.Volumes[i].Name, b.meta.Volumes[i].Size)
		}
	}
	if epoch < b.meta.Epoch {
		return fmt.Errorf("%w: it is at epoch %d", ErrStale, b.meta.Epoch)
	}
	if epoch == b.meta.Epoch {
		return nil
	}
	next := b.meta
	next.Epoch = epoch
	if err := next.save(b.dir); err != nil {
		return err
	}
	b.meta = next
	if b.incoming != nil {
		b.incoming.cut()
	}
	return nil
}

// Standby returns the standby of that name, or [ErrNotFound].
func (s *Store) Standby(name string) (*Standby, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.standby[name]; b != nil {
		return b, nil
	}
	if err := s.damaged[standbyPrefix+name]; err != nil {
		return nil, fmt.Errorf("standby %s is damaged: %w", name, err)
	}
	return nil, fmt.Errorf("standby %s: %w", name, ErrNotFound)
}

// apply carries what is committed over to the disks, and gives expired cuts up, until the standby is closed.
func (b *Standby) apply() {
	pauses := 0
	for {
		more, err := b.journal.Apply()
		b.note(err)
		if more && err == nil {
			b.mu.Lock()
			b.changed.Broadcast()
			b.mu.Unlock()
			if b.life.Err() != nil {
				return
			}
			continue
		}
		switch paused, open := b.idle(); {
		case !open:
			return
		case !paused:
			pauses = 0
		default:
			if pauses++; pauses == idlePauses {
				b.note(b.journal.Trim())
			}
		}
	}
}

// idle waits for something to apply; when nothing has come for a pause it makes durable what there is. It says whether there was such a
// pause, and whether the standby is still open.
func (b *Standby) idle() (paused, open bool) {
	timer := time.AfterFunc(applyPause, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.changed.Broadcast()
	})
	defer timer.Stop()
	start := time.Now()
	b.mu.Lock()
	for !b.closed && (b.journal.Backlog() == 0 || b.trouble != nil) && time.Since(start) < applyPause {
		b.changed.Wait()
	}
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return false, false
	}
	if paused = time.Since(start) >= applyPause; paused {
		_, err := b.journal.Expire(time.Now())
		b.note(errors.Join(err, b.journal.Checkpoint()))
	}
	return paused, true
}

// note remembers the last trouble.
func (b *Standby) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil && b.trouble == nil {
		b.store.opts.Logger.Error("a standby has trouble", "standby", b.meta.Name, "err", err)
	}
	b.trouble = err
}

// close ends everything that runs for the standby. What was committed is there when it is opened again.
func (b *Standby) close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	if b.incoming != nil {
		b.incoming.cut()
	}
	b.changed.Broadcast()
	b.mu.Unlock()
	b.end()
	b.wg.Wait()
	return b.journal.Close()
}
