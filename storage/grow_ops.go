package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-project/godwit/storage/disk"
)

// leaveWithin is how long clients are waited for whose program was ended a moment ago.
const leaveWithin = 5 * time.Second

// Grow makes a primary larger; what is added reads as zeroes. It needs the volume for itself: clients are waited for for a moment, a
// replication is an [ErrBusy]. The volume is opened anew, so that one got before is closed; its export goes on. A size that it has
// already is a success, a smaller one an error. Once begun it is finished, also after a crash.
func (s *Store) Grow(ctx context.Context, name string, size int64) error {
	s.grouping.Lock()
	defer s.grouping.Unlock()
	if err := s.grow(ctx, name, size); err != nil {
		return fmt.Errorf("grow volume %s to %d bytes: %w", name, size, err)
	}
	return nil
}

func (s *Store) grow(ctx context.Context, name string, size int64) error {
	v, err := s.Volume(name)
	if err != nil {
		return err
	}
	switch {
	case size == v.size:
		return nil
	case size < v.size:
		return fmt.Errorf("it has %d bytes: volumes grow only", v.size)
	}
	if err := errors.Join((Spec{Name: name, Size: size}).check(), s.growable(v, size)); err != nil {
		return err
	}
	if err := v.Left(ctx); err != nil {
		return err
	}
	if err := v.intend(size); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	err = v.close()
	delete(s.volumes, name)
	if err = errors.Join(err, s.loadVolume(name, v.dir)); err != nil {
		s.damaged[name] = err
	}
	return err
}

// growable says why there is no room for a larger volume.
func (s *Store) growable(v *Volume, size int64) error {
	if device := v.metadata().Device; device != "" {
		return deviceHas(device, size)
	}
	free, err := s.Free()
	if err == nil && free < size-v.size {
		err = fmt.Errorf("%w: %d bytes are free, %d more are needed", ErrNoSpace, free, size-v.size)
	}
	return err
}

// Left waits for a moment until no client has the volume, whose program was ended just now; else [ErrBusy].
func (v *Volume) Left(ctx context.Context) error {
	const again = 10 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	for {
		n := v.Status().Clients
		if n == 0 {
			return nil
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return fmt.Errorf("%w: %d clients", ErrBusy, n)
		}
	}
}

// intend records durably that the volume is about to grow.
func (v *Volume) intend(size int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.meta.Role != RolePrimary:
		return fmt.Errorf("%w: it is %s", ErrRole, v.meta.Role)
	case v.member.Load() != nil || v.source.Load() != nil:
		return fmt.Errorf("%w: it is replicated: end that first", ErrBusy)
	}
	return v.updateLocked(func(m *metadata) { m.Growing = size })
}

// finishGrowth makes the disk as large as it was to be, whose volume is not open.
func (m *metadata) finishGrowth(dir string) error {
	if m.Growing == 0 {
		return nil
	}
	err := m.found(dir)
	if err != nil {
		return fmt.Errorf("finish growing: %w", err)
	}
	path, opts := m.disk(dir)
	d, err := disk.Open(path, opts)
	if err != nil {
		return fmt.Errorf("finish growing: %w", err)
	}
	if d.Size() != m.Growing {
		err = d.Resize(m.Growing)
	}
	if err := errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("finish growing: %w", err)
	}
	m.Size, m.Growing = m.Growing, 0
	return m.save(dir)
}
