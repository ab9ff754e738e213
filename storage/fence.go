package storage

import (
	"context"
	"errors"
	"fmt"
)

// Fence ends this primary for the attempt of that epoch. From its first instant clients' requests are parked (only FLUSH is
// answered, which lets nothing in), also after a restart of this process. Then everything acknowledged is drained, and the
// replica records durably that it is complete. On success nothing more will ever be accepted here, unless Unfence says so.
//
// On an error after the gate was shut the volume stays fenced: repeat, or abort with Unfence. Fencing a fenced volume again
// makes sure of the replica; [ErrNoSession] then asks for Replicate first.
func (v *Volume) Fence(ctx context.Context, epoch uint64) error {
	if err := v.fence(ctx, epoch); err != nil {
		return fmt.Errorf("fence volume %s for epoch %d: %w", v.name, epoch, err)
	}
	return nil
}

func (v *Volume) fence(ctx context.Context, epoch uint64) error {
	src, err := v.shut(ctx, epoch)
	if src == nil || err != nil {
		return err
	}
	if err := src.complete(ctx, v.opts.LinkTimeout); err != nil {
		return err
	}
	v.recordSealed(epoch)
	return nil
}

// Shut is the first half of Fence alone: when it returns, no client changes anything here any more, also after a restart of
// this process, but the replica is not complete yet. It is for the moment between a guest's stop and the end of its handover,
// in which a guest that starts again unasked must find nothing that takes its writes.
func (v *Volume) Shut(ctx context.Context, epoch uint64) error {
	if _, err := v.shut(ctx, epoch); err != nil {
		return fmt.Errorf("shut volume %s for epoch %d: %w", v.name, epoch, err)
	}
	return nil
}

// shut returns the source that has to be drained, or nil when the replica is known to be complete.
func (v *Volume) shut(ctx context.Context, epoch uint64) (*source, error) {
	v.mu.Lock()
	err := v.attemptLocked(epoch)
	if err == nil && v.meta.Role == RoleFenced && v.meta.Complete {
		v.mu.Unlock()
		return nil, nil
	}
	var src *source
	if err == nil {
		src, err = v.runningLocked(epoch)
	}
	if err != nil {
		v.mu.Unlock()
		return nil, err
	}
	v.gate.shut()
	v.mu.Unlock()

	// The fence goes to disk while the last requests are still under way; it is there before the replica may call itself
	// complete.
	marked := make(chan error, 1)
	go func() { marked <- v.markFenced(epoch) }()
	err = v.gate.drained(ctx)
	return src, errors.Join(<-marked, err)
}

func (v *Volume) markFenced(epoch uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.attemptLocked(epoch); err != nil { // an abort may have come meanwhile
		return err
	}
	if v.meta.Role == RoleFenced && v.meta.Epoch == epoch && v.meta.Attempt == epoch {
		return nil
	}
	return v.updateLocked(func(m *metadata) {
		if m.Role == RolePrimary {
			m.Owner = m.Epoch
		}
		m.Role, m.Epoch, m.Attempt = RoleFenced, epoch, epoch
	})
}

// recordSealed remembers that the replica has confirmed, so that Fence repeated after a restart needs no link. It is no part
// of the blackout: should it get lost, the replica is asked again.
func (v *Volume) recordSealed(epoch uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.wg.Go(func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.meta.Role != RoleFenced || v.meta.Epoch != epoch {
			return
		}
		if err := v.updateLocked(func(m *metadata) { m.Complete = true }); err != nil && !errors.Is(err, ErrClosed) {
			v.log.Warn("cannot record that the replica is complete", "epoch", epoch, "err", err)
		}
	})
}

// Unfence aborts the attempt of that epoch on its source: replication stops, the volume is primary again under its owner's
// epoch, and parked requests go on. Everything of this epoch is refused from then on, a Fence that is still under way
// included. It does no harm when the volume was never fenced; the fence of another attempt is an error.
func (v *Volume) Unfence(_ context.Context, epoch uint64) error {
	src, err := v.unfence(epoch)
	if src != nil {
		src.stop()
	}
	if err != nil {
		return fmt.Errorf("unfence volume %s for epoch %d: %w", v.name, epoch, err)
	}
	return nil
}

func (v *Volume) unfence(epoch uint64) (*source, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := &v.meta
	switch {
	case v.closed:
		return nil, ErrClosed
	case m.Role == RoleReplica:
		return nil, fmt.Errorf("%w: it is a replica at epoch %d: delete it instead", ErrRole, m.Epoch)
	case m.Role == RolePrimary && epoch <= m.Aborted:
		return nil, nil
	case epoch < max(m.Attempt, m.Epoch):
		return nil, fmt.Errorf("%w: attempt %d, seen %d", ErrStale, epoch, max(m.Attempt, m.Epoch))
	case m.Role == RoleFenced && epoch != m.Epoch:
		return nil, fmt.Errorf("%w: it is fenced for attempt %d, which this epoch does not end", ErrRole, m.Epoch)
	}
	if err := v.updateLocked(func(m *metadata) {
		if m.Role == RoleFenced {
			m.Role, m.Epoch = RolePrimary, m.Owner
		}
		m.Complete = false
		m.Attempt, m.Aborted = max(m.Attempt, epoch), epoch
	}); err != nil {
		return nil, err
	}
	src := v.source.Swap(nil)
	v.gate.open()
	return src, nil
}

// Promote makes this replica the primary, bound to that epoch, durably before it returns. It is refused with
// [ErrIncomplete] unless the completion marker of that epoch is here. The connections of waiting clients stay; from its
// return on their writes are accepted.
func (v *Volume) Promote(_ context.Context, epoch uint64) error {
	if err := v.promote(epoch); err != nil {
		return fmt.Errorf("promote volume %s to epoch %d: %w", v.name, epoch, err)
	}
	return nil
}

func (v *Volume) promote(epoch uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.promoting {
		v.changed.Wait()
	}
	if v.meta.Role == RolePrimary && v.meta.Epoch == epoch {
		return nil
	}
	if err := v.promotableLocked(epoch); err != nil {
		return err
	}
	// Nothing may be applied once clients write: let the source's connection end first, and no other in.
	v.promoting = true
	defer func() {
		v.promoting = false
		v.changed.Broadcast()
	}()
	for v.incoming != nil {
		v.incoming.cut()
		v.changed.Wait()
	}
	if err := v.promotableLocked(epoch); err != nil { // the last frames may have withdrawn the marker
		return err
	}
	return v.updateLocked(func(m *metadata) {
		m.Role, m.Owner, m.Attempt = RolePrimary, epoch, epoch
		m.Complete, m.Touched = false, false
	})
}

func (v *Volume) promotableLocked(epoch uint64) error {
	m := &v.meta
	switch {
	case v.closed:
		return ErrClosed
	case epoch < m.Epoch:
		return fmt.Errorf("%w: it is at epoch %d", ErrStale, m.Epoch)
	case m.Role != RoleReplica || epoch != m.Epoch:
		return fmt.Errorf("%w: it is %s at epoch %d", ErrRole, m.Role, m.Epoch)
	case m.Group != "":
		return fmt.Errorf("%w: it belongs to standby %s: promote that", ErrRole, m.Group)
	case m.Spoiled:
		return fmt.Errorf("%w: its disk has failed: %s", ErrIncomplete, v.trouble)
	case !m.Complete:
		return fmt.Errorf("%w for epoch %d: it lacks writes of the source", ErrIncomplete, epoch)
	}
	return nil
}

// Forget drops what the destination remembers of the replication session of that epoch, whose connection is cut. The
// volume itself stays; a newer epoch is not touched.
func (v *Volume) Forget(_ context.Context, epoch uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if epoch < v.meta.Epoch {
		return fmt.Errorf("forget the replication of volume %s: %w: asked at epoch %d, it is at %d", v.name, ErrStale, epoch, v.meta.Epoch)
	}
	if v.incoming != nil {
		v.incoming.cut()
	}
	v.last = incomingID{}
	return nil
}
