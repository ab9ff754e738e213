package storage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/disk/vfs"
	"github.com/godwit-project/godwit/storage/nbd"
	"github.com/godwit-project/godwit/unixsocket"
)

// tryAgain is the pause before a disk is tried that could not be opened.
const tryAgain = time.Second

// Use makes this host the user of the disk, under the owner's epoch, and opens it. It fails while another host holds its lock. It is
// for the start of a service: a newer epoch overtakes what is left of an older one.
func (s *Externals) Use(_ context.Context, spec ExternalSpec, epoch uint64) (*External, error) {
	return s.take(spec, RolePrimary, epoch)
}

// Await makes this host wait for a disk, for the attempt of that epoch: its export can be read, past this machine's memory, and refuses
// writes. It fails when the disk cannot be reached here, or is not the one that is in use elsewhere, as far as its locks tell.
func (s *Externals) Await(_ context.Context, spec ExternalSpec, epoch uint64) (*External, error) {
	return s.take(spec, RoleWaiting, epoch)
}

func (s *Externals) take(spec ExternalSpec, role string, epoch uint64) (*External, error) {
	x, err := s.enter(spec, role, epoch)
	if err == nil {
		err = x.bringBack()
	}
	if err != nil {
		return nil, fmt.Errorf("external disk %s at epoch %d: %w", spec.Name, epoch, err)
	}
	return x, nil
}

// enter finds or makes the record of a disk, durably.
func (s *Externals) enter(spec ExternalSpec, role string, epoch uint64) (*External, error) {
	if err := (Spec{Name: spec.Name, Size: 512}).check(); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(spec.Path) {
		return nil, fmt.Errorf("path %q is not absolute", spec.Path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if x := s.disks[spec.Name]; x != nil {
		return x, x.again(spec, role, epoch)
	}
	size, err := look(spec.Path)
	if err == nil && role == RoleWaiting {
		err = othersUse(spec.Path)
	}
	if err != nil {
		return nil, err
	}
	x := s.make(externalMeta{Name: spec.Name, Path: spec.Path, Size: size, Role: role, Epoch: epoch, Owner: epoch})
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.updateLocked(func(*externalMeta) {}); err != nil {
		return nil, err
	}
	s.disks[spec.Name] = x
	return x, nil
}

// again takes a wish for a disk that is known.
func (x *External) again(spec ExternalSpec, role string, epoch uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := &x.meta
	switch {
	case x.closed:
		return ErrClosed
	case m.Path != spec.Path:
		return fmt.Errorf("%w: it is %s here, not %s", ErrExists, m.Path, spec.Path)
	case m.Epoch == epoch && m.Role == role:
		return nil
	case epoch < m.Epoch || epoch <= m.Aborted:
		return fmt.Errorf("%w: it is %s at epoch %d", ErrStale, m.Role, m.Epoch)
	case role == RoleWaiting:
		return fmt.Errorf("%w as %s at epoch %d: forget that first", ErrExists, m.Role, m.Epoch)
	}
	return x.updateLocked(func(m *externalMeta) {
		m.Role, m.Epoch, m.Owner, m.Sealed = RolePrimary, epoch, epoch, false
	})
}

// bringBack makes the disk as its role says, and lets clients in.
func (x *External) bringBack() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := x.bringBackLocked()
	x.trouble = ""
	if err != nil {
		x.trouble = err.Error()
	}
	return err
}

func (x *External) bringBackLocked() error {
	switch {
	case x.closed:
		return ErrClosed
	case x.meta.Role == RoleFenced:
		return nil
	case x.meta.Role == RolePrimary && x.disk.Load() == nil:
		if err := x.openDiskLocked(); err != nil {
			return err
		}
	}
	x.gate.open()
	return nil
}

func (x *External) openDiskLocked() error {
	if err := freshen(x.path); err != nil {
		return fmt.Errorf("%w cannot be reached: %w", ErrElsewhere, err)
	}
	d, err := disk.Open(x.path, disk.Options{State: x.state, Notify: x.hear})
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return fmt.Errorf("%w: %w", ErrTaken, err)
	case err != nil:
		return err
	case d.Size() < x.size:
		return errors.Join(fmt.Errorf("%w %s has %d bytes, and had %d", ErrElsewhere, x.path, d.Size(), x.size), d.Close())
	}
	x.disk.Store(d)
	return nil
}

// closeDiskLocked makes what was written durable and lets the disk go, once nobody is inside.
func (x *External) closeDiskLocked() error {
	if err := x.gate.drained(context.Background()); err != nil {
		return err
	}
	d := x.disk.Swap(nil)
	if d == nil {
		return nil
	}
	return d.Close()
}

// keepTrying opens a disk that could not be opened when this program began.
func (x *External) keepTrying() {
	timer := time.NewTicker(tryAgain)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-x.stop:
			return
		}
		if err := x.bringBack(); err == nil {
			x.log.Info("an external disk can be used again", "path", x.path)
			return
		}
	}
}

// Sync makes what was written durable, so that there is little left of it to do when the disk is fenced.
func (x *External) Sync(context.Context) error {
	if !x.gate.tryEnter() {
		return nil // it is shut: whoever shut it does that
	}
	defer x.gate.leave()
	if d := x.disk.Load(); d != nil {
		return d.Sync()
	}
	return nil
}

// Shut lets no client change anything here any more, also after a restart of this process, for the attempt of that epoch.
func (x *External) Shut(ctx context.Context, epoch uint64) error {
	err := x.attempt(epoch)
	if err == nil {
		x.gate.shut()
		marked := make(chan error, 1)
		go func() { marked <- x.mark(epoch) }()
		err = x.gate.drained(ctx)
		err = errors.Join(<-marked, err)
	}
	if err != nil {
		return fmt.Errorf("shut external disk %s for epoch %d: %w", x.name, epoch, err)
	}
	return nil
}

// Fence is Shut; on success all that was written is on stable storage, the disk is closed, and its lock is given back: another host may
// use it.
func (x *External) Fence(ctx context.Context, epoch uint64) error {
	if err := x.Shut(ctx, epoch); err != nil {
		return err
	}
	if err := x.seal(epoch); err != nil {
		return fmt.Errorf("fence external disk %s for epoch %d: %w", x.name, epoch, err)
	}
	return nil
}

func (x *External) attempt(epoch uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.attemptLocked(epoch)
}

func (x *External) attemptLocked(epoch uint64) error {
	m := &x.meta
	switch {
	case x.closed:
		return ErrClosed
	case epoch <= m.Aborted:
		return fmt.Errorf("%w: attempt %d was aborted (highest aborted: %d)", ErrStale, epoch, m.Aborted)
	case epoch < max(m.Attempt, m.Epoch):
		return fmt.Errorf("%w: attempt %d, seen %d", ErrStale, epoch, max(m.Attempt, m.Epoch))
	case m.Role == RoleWaiting, m.Role == RoleFenced && epoch != m.Epoch:
		return fmt.Errorf("%w: it is %s at epoch %d", ErrRole, m.Role, m.Epoch)
	}
	return nil
}

// mark records the fence.
func (x *External) mark(epoch uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.attemptLocked(epoch); err != nil || x.meta.Role == RoleFenced {
		return err
	}
	return x.updateLocked(func(m *externalMeta) {
		m.Role, m.Owner, m.Epoch, m.Attempt, m.Sealed = RoleFenced, m.Epoch, epoch, epoch, false
	})
}

// seal makes the disk durable and closes it. What a killed process left in memory is synced by opening it once more.
func (x *External) seal(epoch uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.attemptLocked(epoch); err != nil || x.meta.Sealed {
		return err
	}
	if x.disk.Load() == nil {
		if err := x.openDiskLocked(); err != nil {
			return err
		}
	}
	if err := x.closeDiskLocked(); err != nil {
		return err
	}
	return x.updateLocked(func(m *externalMeta) { m.Sealed = true })
}

// Unfence aborts the attempt of that epoch: this host uses the disk again, under its owner's epoch.
func (x *External) Unfence(_ context.Context, epoch uint64) error {
	err := x.unfence(epoch)
	if err == nil {
		err = x.bringBack()
	}
	if err != nil {
		return fmt.Errorf("unfence external disk %s for epoch %d: %w", x.name, epoch, err)
	}
	return nil
}

func (x *External) unfence(epoch uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := &x.meta
	switch {
	case x.closed:
		return ErrClosed
	case m.Role == RoleWaiting:
		return fmt.Errorf("%w: it is waiting at epoch %d: forget it instead", ErrRole, m.Epoch)
	case m.Role == RolePrimary && epoch <= m.Aborted:
		return nil
	case epoch < max(m.Attempt, m.Epoch):
		return fmt.Errorf("%w: attempt %d, seen %d", ErrStale, epoch, max(m.Attempt, m.Epoch))
	case m.Role == RoleFenced && epoch != m.Epoch:
		return fmt.Errorf("%w: it is fenced for attempt %d, which this epoch does not end", ErrRole, m.Epoch)
	}
	return x.updateLocked(func(m *externalMeta) {
		if m.Role == RoleFenced {
			m.Role, m.Epoch = RolePrimary, m.Owner
		}
		m.Sealed, m.Attempt, m.Aborted = false, max(m.Attempt, epoch), epoch
	})
}

// Promote makes this host, which waits, the user of the disk. The caller knows that the user before it is fenced.
func (x *External) Promote(_ context.Context, epoch uint64) error {
	err := x.promote(epoch)
	if err == nil {
		err = x.bringBack()
	}
	if err != nil {
		return fmt.Errorf("promote external disk %s to epoch %d: %w", x.name, epoch, err)
	}
	return nil
}

func (x *External) promote(epoch uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := &x.meta
	switch {
	case x.closed:
		return ErrClosed
	case m.Role == RolePrimary && m.Epoch == epoch:
		return nil
	case epoch < m.Epoch:
		return fmt.Errorf("%w: it is at epoch %d", ErrStale, m.Epoch)
	case m.Role != RoleWaiting || epoch != m.Epoch:
		return fmt.Errorf("%w: it is %s at epoch %d", ErrRole, m.Role, m.Epoch)
	}
	x.gate.shut() // until the disk is open
	return x.updateLocked(func(m *externalMeta) { m.Role, m.Owner, m.Attempt = RolePrimary, epoch, epoch })
}

// Serve exports the disk over NBD on the unix socket at that path, as [Volume.Serve] does.
func (x *External) Serve(socket string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.closed:
		return fmt.Errorf("serve external disk %s: %w", x.name, ErrClosed)
	case len(socket) > unixsocket.Longest || !filepath.IsAbs(socket):
		return fmt.Errorf("serve external disk %s: socket %q must be an absolute path of at most %d characters", x.name, socket, unixsocket.Longest)
	case x.export != nil && x.meta.Socket == socket:
		return nil
	}
	ln, err := listen(socket)
	if err != nil {
		return fmt.Errorf("serve external disk %s: %w", x.name, err)
	}
	if err := x.updateLocked(func(m *externalMeta) { m.Socket = socket }); err != nil {
		return errors.Join(fmt.Errorf("serve external disk %s: %w", x.name, err), ln.Close())
	}
	old := x.export
	x.export = nbd.Serve(ln, x.name, externalClient{x}, x.log)
	if old != nil {
		_ = old.Close()
	}
	return nil
}

// Status is a snapshot.
func (x *External) Status() Status {
	faults := x.faults.list(nil)
	x.mu.Lock()
	defer x.mu.Unlock()
	st := Status{
		Name: x.name, Size: x.size, Role: x.meta.Role, Epoch: x.meta.Epoch, Mode: ModeExternal,
		Complete: x.meta.Sealed, Path: x.path, Socket: x.meta.Socket, Err: x.trouble,
	}
	if x.export != nil {
		st.Clients = x.export.Clients()
	}
	if len(faults) > 0 && st.Err == "" {
		st.Err = faults[0].Text
	}
	return st
}

// ReadAt fills p with what the disk holds. Of a disk in use, what is read piece by piece is not one moment of it.
func (x *External) ReadAt(ctx context.Context, p []byte, off int64) error {
	return externalClient{x}.inside(ctx, func(d *disk.Disk) error { return x.read(d, p, off) })
}

// Size of the disk in bytes.
func (x *External) Size() int64 { return x.size }

// Counters are what clients have asked for.
func (x *External) Counters() Counters {
	return Counters{Reads: x.counts.reads.view(), Writes: x.counts.writes.view(), Discards: x.counts.discards.view(), Flushes: x.counts.flushes.view()}
}
