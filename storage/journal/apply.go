package journal

import "fmt"

// Apply carries some of what is committed over to the disks; more says that there is more to do. After an error that is not
// an ErrSpoiled it may be called again.
func (j *Journal) Apply() (more bool, err error) {
	j.applying.Lock()
	defer j.applying.Unlock()
	batch, top := j.nextBatch()
	if len(batch) == 0 {
		return false, j.Err()
	}
	if top != nil {
		if err := j.save(top, batch); err != nil {
			return true, err
		}
	}
	if err := j.redo(batch); err != nil {
		return true, err
	}
	j.mu.Lock()
	for _, e := range batch {
		j.queued -= e.bytes
		j.unsynced += e.bytes
		j.applied, j.appliedAt = e.number, e.at
	}
	j.queue = j.queue[len(batch):]
	more = len(j.queue) > 0
	due := j.unsynced >= j.log.sizes.checkpoint
	j.mu.Unlock()
	if due {
		err = j.checkpoint()
	}
	return more, err
}

// nextBatch takes epochs that lie between the same two cuts; top is the cut that what they overwrite must be saved for.
func (j *Journal) nextBatch() (batch []epochAt, top *cut) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.queue) == 0 || j.st.Spoiled != "" {
		return nil, nil
	}
	first := j.queue[0].number
	for _, c := range j.cuts {
		if c.Epoch < first {
			top = c
		}
	}
	bytes := int64(0)
	for i, e := range j.queue {
		for _, c := range j.cuts {
			if c.Epoch >= first && c.Epoch < e.number {
				return j.queue[:i], top
			}
		}
		if bytes += e.bytes; i > 0 && bytes > applyBatch {
			return j.queue[:i], top
		}
	}
	return j.queue, top
}

// records calls f with every change of an epoch; under applying.
func (j *Journal) records(e *epochAt, f func(r *record, payload []byte) error) error {
	r := &j.reader
	r.over(e.file, e.start, e.bytes, e.before)
	for {
		rec, payload, err := r.next()
		if err != nil {
			return fmt.Errorf("epoch %d in %s: %w", e.number, e.file.name, err)
		}
		if rec.kind == kindCommit {
			return nil
		}
		if int(rec.vol) >= len(j.disks) || rec.off < 0 || rec.length <= 0 || rec.length > j.disks[rec.vol].Size()-rec.off {
			return fmt.Errorf("%w: record beyond volume %d", ErrDamaged, rec.vol)
		}
		if err := f(&rec, payload); err != nil {
			return err
		}
	}
}

// save puts what the epochs overwrite aside for a cut, durably.
func (j *Journal) save(c *cut, batch []epochAt) error {
	fresh := make([]unsealed, len(j.disks))
	for i, d := range j.disks {
		fresh[i] = newUnsealed(d.Size())
	}
	for i := range batch {
		if err := j.records(&batch[i], func(r *record, _ []byte) error {
			return c.vols[r.vol].save(j.disks[r.vol], fresh[r.vol], r.off, r.length)
		}); err != nil {
			return err
		}
	}
	for i := range c.vols {
		if err := c.vols[i].seal(fresh[i]); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) redo(batch []epochAt) error {
	j.base.Lock()
	defer j.base.Unlock()
	for i := range batch {
		if err := j.records(&batch[i], func(r *record, payload []byte) error {
			return r.redo(j.disks[r.vol], payload)
		}); err != nil {
			return err
		}
	}
	return nil
}

// redo makes the change on the disk.
func (r *record) redo(d Disk, payload []byte) error {
	switch r.kind {
	case kindZero:
		return d.Zero(r.off, r.length)
	case kindLost:
		lost, ok := d.(Condemner)
		if !ok {
			return fmt.Errorf("%w: volume %d cannot be told that %d bytes at %d are lost", ErrOrder, r.vol, r.length, r.off)
		}
		return lost.Condemn(r.off, r.length)
	default:
		_, err := d.WriteAt(payload, r.off)
		return err
	}
}

// Settle applies everything that is committed.
func (j *Journal) Settle() error {
	for {
		if more, err := j.Apply(); err != nil || !more {
			return err
		}
	}
}

// Checkpoint makes what is applied durable on the disks and gives back what the log needs no longer, but for what is worth keeping while
// epochs come.
func (j *Journal) Checkpoint() error {
	j.applying.Lock()
	defer j.applying.Unlock()
	return j.checkpoint()
}

// Trim gives back most of what Checkpoint keeps. It is for when nothing comes.
func (j *Journal) Trim() error {
	j.writing.Lock()
	defer j.writing.Unlock()
	return j.log.trim()
}

func (j *Journal) checkpoint() error {
	j.mu.Lock()
	err, unsynced := j.errLocked(), j.unsynced
	target, at := j.applied, j.appliedAt
	j.mu.Unlock()
	if err != nil || unsynced == 0 {
		return err
	}
	if err := j.syncDisks(); err != nil {
		return err
	}
	j.mu.Lock()
	err = j.updateLocked(func(st *state) { st.Applied, st.Time = target, at })
	if err == nil {
		j.unsynced = 0
	}
	j.mu.Unlock()
	if err != nil {
		return err
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	return j.log.retire(target)
}
