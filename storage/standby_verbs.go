package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-project/godwit/storage/journal"
)

// StandbyStatus is a snapshot of a standby.
type StandbyStatus struct {
	Name  string
	Epoch uint64
	// Complete says that there is a consistent point; Point counts epochs, PointTime is when the primary was there.
	Complete  bool
	Point     uint64
	PointTime time.Time
	// Backlog is what is durable in the journal and not applied to the disks yet, in bytes.
	Backlog int64
	// Connected says that a source is connected.
	Connected bool
	// Tail is what these volumes, when they were demoted, held that had not been replicated, in bytes at most. It is kept in
	// the cut that Demote made.
	Tail int64
	// Err is the last trouble, empty when all is well.
	Err string
}

// Status is a snapshot.
func (b *Standby) Status() StandbyStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.journal.Point()
	st := StandbyStatus{
		Name: b.meta.Name, Epoch: b.meta.Epoch, Complete: p.Complete, Point: p.Epoch, PointTime: p.Time,
		Backlog: b.journal.Backlog(), Connected: b.incoming != nil, Tail: b.meta.Tail,
	}
	if err := errors.Join(b.trouble, b.journal.Err()); err != nil {
		st.Err = err.Error()
	}
	return st
}

// still lets the source's connection end, and none in, while f runs.
func (b *Standby) still(f func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.incoming != nil {
		b.incoming.cut()
		b.changed.Wait()
	}
	if b.closed {
		return ErrClosed
	}
	return f()
}

// Promote makes the volumes primaries, bound to that epoch, as they were at the last consistent point; that is durable before it
// returns. Their exports' connections stay. The standby is gone afterwards, its cuts too: [Standby.Restore] one before, if that
// is the one to go back to.
func (b *Standby) Promote(_ context.Context, epoch uint64) error {
	b.store.grouping.Lock()
	defer b.store.grouping.Unlock()
	var next standbyMeta
	err := b.still(func() error {
		if epoch <= b.meta.Epoch {
			return fmt.Errorf("%w: it is at epoch %d", ErrStale, b.meta.Epoch)
		}
		if !b.journal.Point().Complete {
			return fmt.Errorf("%w: its first copy was never finished", ErrIncomplete)
		}
		if err := errors.Join(b.journal.Err(), b.journal.Sync(), b.journal.Settle(), b.journal.Checkpoint()); err != nil {
			return err
		}
		next = b.meta
		next.Promoted = epoch
		if err := next.save(b.dir); err != nil {
			return err
		}
		b.meta = next
		return nil
	})
	if err == nil {
		b.store.mu.Lock()
		delete(b.store.standby, next.Name)
		b.store.mu.Unlock()
		err = errors.Join(b.close(), b.store.finishPromotion(next, b.dir))
	}
	if err != nil {
		return fmt.Errorf("promote standby %s to epoch %d: %w", b.meta.Name, epoch, err)
	}
	return nil
}

// finishPromotion makes the volumes of a standby primaries, whose promotion is decided durably, and removes the rest of it.
func (s *Store) finishPromotion(meta standbyMeta, dir string) error {
	for _, spec := range meta.Volumes {
		v, err := s.Volume(spec.Name)
		if err != nil {
			return err
		}
		v.mu.Lock()
		if v.meta.Group == meta.Name {
			err = v.updateLocked(func(m *metadata) {
				m.Role, m.Epoch, m.Owner, m.Attempt, m.Group = RolePrimary, meta.Promoted, meta.Promoted, meta.Promoted, ""
				m.Complete, m.Touched = false, false
			})
		}
		v.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(dir), syncDir(s.dir))
}

// DeleteStandby removes a standby and its volumes; one that is not there is a success.
func (s *Store) DeleteStandby(ctx context.Context, name string, epoch uint64) error {
	s.grouping.Lock()
	defer s.grouping.Unlock()
	b, err := s.Standby(name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete standby %s: %w", name, err)
	}
	if have := b.Status().Epoch; epoch < have {
		return fmt.Errorf("delete standby %s: %w: it is at epoch %d", name, ErrStale, have)
	}
	s.mu.Lock()
	delete(s.standby, name)
	s.mu.Unlock()
	err = b.close()
	for _, v := range b.volumes {
		v.mu.Lock()
		err = errors.Join(err, v.updateLocked(func(m *metadata) { m.Group = "" }))
		v.mu.Unlock()
		err = errors.Join(err, s.Delete(ctx, v.name, max(epoch, v.metadata().Epoch)))
	}
	return errors.Join(err, os.RemoveAll(b.dir), syncDir(s.dir))
}

// Demote turns former primaries (or fenced ones) into a standby of their group at a newer epoch, whose owner is elsewhere. What
// they hold is kept as a cut of that name for so long (0: for ever), what of it was never replicated is counted in
// [StandbyStatus].Tail, and the new owner's [Store.Protect] ships only what differs.
func (s *Store) Demote(ctx context.Context, name string, volumes []string, epoch uint64, cut string, keepFor time.Duration) (*Standby, error) {
	b, err := s.demote(ctx, name, volumes, epoch, cut, keepFor)
	if err != nil {
		return nil, fmt.Errorf("demote group %s at epoch %d: %w", name, epoch, err)
	}
	return b, nil
}

func (s *Store) demote(_ context.Context, name string, volumes []string, epoch uint64, cut string, keepFor time.Duration) (*Standby, error) {
	s.grouping.Lock()
	defer s.grouping.Unlock()
	if b, err := s.Standby(name); err == nil {
		return b, nil
	}
	if g, err := s.Group(name); err == nil {
		if epoch <= g.epoch {
			return nil, fmt.Errorf("%w: it is the owner at epoch %d", ErrStale, g.epoch)
		}
		if err := s.unprotect(g); err != nil {
			return nil, err
		}
	}
	meta := standbyMeta{Name: name, Epoch: epoch}
	for _, volume := range volumes {
		v, err := s.Volume(volume)
		if err != nil {
			return nil, err
		}
		tail, err := v.yield(name, epoch)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", volume, err)
		}
		meta.Tail += tail
		meta.Volumes = append(meta.Volumes, Spec{Name: volume, Size: v.size})
	}
	b, err := s.makeStandby(meta, true)
	if err != nil {
		return nil, err
	}
	_, err = b.keep(cut, keepFor)
	return b, err
}

// yield makes a primary a replica of a standby, and says how much of it was never replicated.
func (v *Volume) yield(group string, epoch uint64) (tail int64, err error) {
	if m := v.member.Load(); m != nil {
		tail = min(m.marks.marked(), v.size)
	}
	v.mu.Lock()
	switch m := &v.meta; {
	case m.Role == RoleReplica && m.Group == group:
	case m.Role == RoleReplica:
		err = fmt.Errorf("%w: it is a replica", ErrRole)
	case epoch <= m.Epoch && m.Role == RolePrimary || epoch < m.Epoch:
		err = fmt.Errorf("%w: it is bound to epoch %d", ErrStale, m.Epoch)
	default:
		// Whoever wrote here is over: from now on writes are refused, and none may still be under way.
		v.gate.shut()
		v.mu.Unlock()
		err = v.gate.drained(v.life)
		v.mu.Lock()
		if err == nil {
			err = v.updateLocked(func(m *metadata) {
				m.Role, m.Epoch, m.Group, m.Complete, m.Touched = RoleReplica, epoch, group, false, true
			})
		}
		v.gate.open()
	}
	v.mu.Unlock()
	if err == nil {
		err = v.unmark()
	}
	return tail, err
}

// Cut is a named point that is kept.
type Cut = journal.Cut

// Keep names the last consistent point and keeps it for so long; 0 is for ever.
func (b *Standby) Keep(_ context.Context, name string, keepFor time.Duration) (Cut, error) {
	return b.keep(name, keepFor)
}

func (b *Standby) keep(name string, keepFor time.Duration) (Cut, error) {
	var until time.Time
	if keepFor > 0 {
		until = time.Now().Add(keepFor)
	}
	return b.journal.Cut(name, until)
}

// Cuts lists the cuts, oldest first.
func (b *Standby) Cuts() ([]Cut, error) { return b.journal.Cuts() }

// DeleteCut gives a cut up; one that is not there is a success.
func (b *Standby) DeleteCut(name string) error { return b.journal.DeleteCut(name) }

// Restore makes a cut the last consistent point. The source's connection is cut; the next one compares everything, and undoes it:
// so Promote afterwards, or fence the source before.
func (b *Standby) Restore(_ context.Context, name string) error {
	return b.still(func() error { return b.journal.Restore(name) })
}

// Path is the folder of the standby.
func (b *Standby) Path() string { return filepath.Clean(b.dir) }
