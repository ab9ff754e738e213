package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/disk/vfs"
	"github.com/godwit-project/godwit/storage/nbd"
)

// Volume is one virtual disk. Its roles and the verbs that change them:
//
//	Create ──────────▶ primary ──Fence──▶ fenced ──Delete──▶ (gone)
//	                    ▲   ▲               │
//	                 Promote└────Unfence────┘
//	CreateReplica ──▶ replica ──Delete──▶ (gone)
//
// Lock order: mu, then a range, then source.mu.
type Volume struct {
	name   string
	dir    string
	size   int64
	disk   *disk.Disk
	log    *slog.Logger
	opts   *Options
	bootID uint64

	gate   gate
	ranges *rangeLocks
	role   atomic.Pointer[string]
	source atomic.Pointer[source]
	member atomic.Pointer[member]
	fault  atomic.Pointer[string] // the last that the disk has reported
	faults faultLog
	counts requestCounts

	// using is held, for reading, by those who need the disk and are not inside the gate.
	using    sync.RWMutex
	unusable bool // the disk is closed

	life context.Context // ends with close
	end  context.CancelFunc

	mu        sync.Mutex
	changed   sync.Cond // of meta, incoming and closed
	meta      metadata
	export    *nbd.Server
	incoming  *incoming
	last      incomingID // the newest connection that was let in
	promoting bool       // no replication comes in any more
	trouble   string
	closed    bool
	wg        sync.WaitGroup
}

func openVolume(s *Store, dir string, meta metadata) (*Volume, error) {
	v := &Volume{
		name: meta.Name, dir: dir, size: meta.Size, meta: meta,
		log: s.opts.Logger.With("volume", meta.Name), opts: &s.opts, bootID: s.bootID, ranges: newRangeLocks(),
	}
	v.changed.L = &v.mu
	err := meta.found(dir)
	if err == nil {
		path, opts := meta.disk(dir)
		opts.Notify = v.hear
		v.disk, err = disk.Open(path, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w", meta.Name, err)
	}
	v.life, v.end = context.WithCancel(context.Background())
	v.role.Store(&meta.Role)
	if meta.Role != RoleReplica {
		marks, err := openRegions(dir, meta.Size, s.bootID, false)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open volume %s: %w", meta.Name, err), v.disk.Close())
		}
		if marks != nil {
			v.member.Store(&member{v: v, marks: marks})
		}
	}
	if meta.Role == RoleFenced {
		v.gate.shut()
	}
	return v, nil
}

// close ends everything that runs for the volume, and the use of its disk, which is durable then.
func (v *Volume) close() error { return v.closeWith((*disk.Disk).Close) }

// closeWith is close with another end for the disk.
func (v *Volume) closeWith(end func(*disk.Disk) error) error {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return nil
	}
	v.closed = true
	export := v.export
	v.changed.Broadcast()
	v.mu.Unlock()
	if src := v.source.Swap(nil); src != nil {
		src.stop()
	}
	var err error
	if export != nil {
		err = export.Close()
	}
	v.end()
	v.wg.Wait()
	v.gate.close()
	err = errors.Join(err, v.gate.drained(context.Background()))
	if m := v.member.Load(); m != nil {
		err = errors.Join(err, m.marks.close())
	}
	v.using.Lock()
	defer v.using.Unlock()
	v.unusable = true
	return errors.Join(err, end(v.disk))
}

// withDisk calls f while the disk is open, and cannot be closed.
func (v *Volume) withDisk(f func() error) error {
	v.using.RLock()
	defer v.using.RUnlock()
	if v.unusable {
		return fmt.Errorf("volume %s: %w", v.name, ErrClosed)
	}
	return f()
}

// hole says that the range of p is a hole, and makes p what that reads as. Unlike zeroes that were written, it need not be read to
// be known right.
func (v *Volume) hole(p []byte, off int64) (bool, error) {
	start, _, _, err := v.disk.NextData(off)
	if err != nil || start < off+int64(len(p)) {
		return false, err
	}
	clear(p)
	return true, nil
}

// allocated is what the disk occupies, in bytes; 0 when it is closed.
func (v *Volume) allocated() (n int64) {
	_ = v.withDisk(func() error {
		n = v.disk.Allocated()
		return nil
	})
	return n
}

func (v *Volume) metadata() metadata {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.meta
}

// updateLocked makes a change of the metadata durable, and only then true in memory.
func (v *Volume) updateLocked(change func(*metadata)) error {
	if v.closed {
		return fmt.Errorf("volume %s: %w", v.name, ErrClosed)
	}
	next := v.meta
	change(&next)
	if next == v.meta {
		return nil
	}
	if err := next.save(v.dir); err != nil {
		return err
	}
	v.meta = next
	v.role.Store(&next.Role)
	v.changed.Broadcast()
	return nil
}

// await waits under mu until done says so, fails, the context ends or the volume is closed.
func (v *Volume) await(ctx context.Context, done func() (bool, error)) error {
	stop := context.AfterFunc(ctx, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.changed.Broadcast()
	})
	defer stop()
	v.mu.Lock()
	defer v.mu.Unlock()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if v.closed {
			return ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		v.changed.Wait()
	}
}

// note remembers the last trouble for Status; nil clears it.
func (v *Volume) note(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.noteLocked(err)
}

func (v *Volume) noteLocked(err error) {
	v.trouble = ""
	if err != nil {
		v.trouble = err.Error()
	}
}

// unmark forgets what a replica lacks.
func (v *Volume) unmark() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.member.Load()
	if m == nil || m.group != nil {
		return nil
	}
	v.member.Store(nil)
	v.ranges.unlock(v.ranges.lock(0, v.size))
	if err := errors.Join(m.marks.close(), os.Remove(filepath.Join(v.dir, regionsName))); err != nil {
		return err
	}
	return vfs.OS{}.SyncDir(v.dir)
}

// Status is a snapshot.
func (v *Volume) Status() Status {
	v.mu.Lock()
	st := Status{
		Name: v.name, Size: v.size, Allocated: v.allocated(),
		Role: v.meta.Role, Epoch: v.meta.Epoch, Mode: ModeLocal, Complete: v.meta.Complete,
		Path: v.disk.Path(), Device: v.meta.Device != "", Socket: v.meta.Socket, Err: v.trouble,
	}
	if v.export != nil {
		st.Clients = v.export.Clients()
	}
	if in := v.incoming; in != nil {
		st.Connected = true
		st.Copied = in.applied.Load()
		st.Total, st.Shipped = st.Copied, in.received.Load()
	}
	if fault := v.fault.Load(); fault != nil && st.Err == "" {
		st.Err = *fault
	}
	v.mu.Unlock()
	if src := v.source.Load(); src != nil {
		src.report(&st)
	} else if m := v.member.Load(); m != nil && m.group != nil {
		st.Mode = m.group.Status().Mode
	}
	return st
}

// deletable says why a deletion at epoch must be refused.
func (v *Volume) deletable(epoch uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := &v.meta
	if epoch < m.Epoch {
		return fmt.Errorf("%w: asked at epoch %d, it is bound to %d", ErrStale, epoch, m.Epoch)
	}
	if m.Group != "" {
		return fmt.Errorf("%w: it belongs to standby %s: delete that", ErrBusy, m.Group)
	}
	if member := v.member.Load(); member != nil && member.group != nil {
		return fmt.Errorf("%w: it is in group %s: unprotect that first", ErrBusy, member.group.name)
	}
	if m.Role == RolePrimary && epoch > m.Epoch && epoch <= max(m.Attempt, m.Aborted) {
		return fmt.Errorf("%w: it is primary at epoch %d and was never fenced for attempt %d", ErrStale, m.Epoch, epoch)
	}
	return nil
}
