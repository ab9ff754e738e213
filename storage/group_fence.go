package storage

import (
	"context"
	"errors"
	"fmt"
)

// Fence ends the primaries of the group for a planned move to the standby under the attempt of that epoch: clients' requests are
// parked from its first instant, also after a restart, and on success the standby has everything that was acknowledged, durably.
// Then [Standby.Promote] at that epoch loses nothing, and [Store.Demote] makes this end the standby. To abort, [Volume.Unfence]
// each volume. On an error after the gates were shut the volumes stay fenced: repeat, or abort.
func (g *Group) Fence(ctx context.Context, epoch uint64) error {
	if err := g.fence(ctx, epoch); err != nil {
		return fmt.Errorf("fence group %s for epoch %d: %w", g.name, epoch, err)
	}
	return nil
}

func (g *Group) fence(ctx context.Context, epoch uint64) error {
	if epoch <= g.epoch {
		return fmt.Errorf("%w: its owner is at epoch %d", ErrStale, g.epoch)
	}
	for _, m := range g.members {
		if err := m.v.shutFor(epoch); err != nil {
			return fmt.Errorf("volume %s: %w", m.v.name, err)
		}
	}
	var errs []error
	for _, m := range g.members {
		errs = append(errs, m.v.markFenced(epoch), m.v.gate.drained(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return g.Drain(ctx)
}

// shutFor parks what clients ask from now on, for an attempt.
func (v *Volume) shutFor(epoch uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.attemptLocked(epoch); err != nil {
		return err
	}
	v.gate.shut()
	return nil
}
