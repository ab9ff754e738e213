package storage

import "fmt"

// Bind raises the epoch that a primary is bound to, durably, when somebody else begins to use it: what was asked of it for earlier
// ones is stale from then on. The epoch that it has is a success.
func (v *Volume) Bind(epoch uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := &v.meta
	switch {
	case m.Role != RolePrimary:
		return fmt.Errorf("bind volume %s to epoch %d: %w: it is %s at epoch %d", v.name, epoch, ErrRole, m.Role, m.Epoch)
	case epoch == m.Epoch:
		return nil
	case epoch <= max(m.Epoch, m.Attempt, m.Aborted):
		return fmt.Errorf("bind volume %s to epoch %d: %w: seen %d", v.name, epoch, ErrStale, max(m.Epoch, m.Attempt, m.Aborted))
	}
	if err := v.updateLocked(func(m *metadata) { m.Epoch, m.Owner = epoch, epoch }); err != nil {
		return fmt.Errorf("bind volume %s to epoch %d: %w", v.name, epoch, err)
	}
	return nil
}

// Unserve ends the export, for good: it is not served again when the store is opened. Where there is none, nothing is to be done.
func (v *Volume) Unserve() error {
	v.mu.Lock()
	export := v.export
	v.export = nil
	err := v.updateLocked(func(m *metadata) { m.Socket = "" })
	v.mu.Unlock()
	if export != nil {
		_ = export.Close() // that it was not listening any more says nothing
	}
	if err != nil {
		return fmt.Errorf("end the export of volume %s: %w", v.name, err)
	}
	return nil
}

// Standby is the name of the standby that this replica belongs to; empty for none.
func (v *Volume) Standby() string { return v.metadata().Group }
