package journal

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
)

var (
	// ErrSpoiled means that a disk failed in a way that leaves the replica's content unknown: delete it and prepare again.
	ErrSpoiled = errors.New("replica is spoiled")
	// ErrOrder means that the caller does not keep to the order of the verbs.
	ErrOrder = errors.New("epoch out of order")
)

// applyBatch is how much of the log one Apply takes, in bytes, unless a single epoch is larger.
const applyBatch = 16 << 20

// Point is the last consistent point of a group.
type Point struct {
	// Lineage is drawn anew whenever the content changes otherwise than by the next epoch: what another end remembers of
	// an older lineage is worth nothing.
	Lineage uint64
	// Epoch is the last that is durable; Time is when the primary was there.
	Epoch uint64
	Time  time.Time
	// Complete says that there is such a point; without one the disks may hold anything.
	Complete bool
	// Touched says that anything was ever written to the disks.
	Touched bool
}

// Journal is the replica of a group. Begin, Put, Commit, Discard and Restore are one goroutine's, all else may be called at
// any time.
type Journal struct {
	dir   FS
	disks []Disk

	// writing guards the log and is held for each record; applying is held by the one who changes the disks or the cuts;
	// base excludes readers of cuts while disks or cuts change. Lock order: applying, base, syncing, writing, mu.
	writing  sync.Mutex
	applying sync.Mutex
	base     sync.RWMutex
	log      log
	cuts     []*cut // oldest first; changed under applying and base
	reader   reader // under applying

	begun int64 // of a first copy: written since a sync of it was begun; the writer's

	syncing sync.Mutex // one Sync at a time; before writing

	mu        sync.Mutex
	st        state
	sealed    []epochAt // ended, not known to be durable
	last      uint64    // the last of those, or of the committed
	point     Point
	under     uint64 // the epoch under way, 0 for none
	queue     []epochAt
	queued    int64
	applied   uint64
	appliedAt time.Time
	unsynced  int64
}

// Open opens the replica in dir, or makes one there: complete says that the disks, if it is made now, hold a consistent point
// already. Everything that was committed is there afterwards; what is not applied yet, [Journal.Apply] does.
func Open(dir FS, disks []Disk, complete bool) (*Journal, error) {
	return open(dir, disks, complete, usualSizes())
}

func open(dir FS, disks []Disk, complete bool, sizes sizes) (*Journal, error) {
	st, ok, err := loadState(dir)
	if err != nil {
		return nil, err
	}
	if !ok {
		st = state{Lineage: newLineage(), Complete: complete, Touched: complete}
	}
	// What a killed process left is seen here, but need not be durable: everything that is built on is synced first.
	if err := st.save(dir); err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, disks: disks, st: st, log: log{dir: dir, sizes: sizes, next: 1}, applied: st.Applied, appliedAt: st.Time}
	j.point = Point{Lineage: st.Lineage, Epoch: st.Applied, Time: st.Time, Complete: st.Complete, Touched: st.Touched}
	if err := j.openCuts(); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	if j.queue, err = j.log.scan(st.Applied); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	for _, e := range j.queue {
		j.queued += e.bytes
		j.point.Epoch, j.point.Time = e.number, e.at
	}
	j.last = j.point.Epoch
	return j, nil
}

// Close closes the files. What was committed stays so.
func (j *Journal) Close() error {
	j.applying.Lock()
	defer j.applying.Unlock()
	j.base.Lock()
	defer j.base.Unlock()
	j.writing.Lock()
	defer j.writing.Unlock()
	err := j.log.close()
	for _, c := range j.cuts {
		err = errors.Join(err, c.close())
	}
	j.cuts = nil
	return err
}

// Point is where the replica stands.
func (j *Journal) Point() Point {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.point
}

// Backlog is what is committed and not applied, in bytes.
func (j *Journal) Backlog() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.queued
}

// Err says why the replica is spoiled, if it is.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.errLocked()
}

func (j *Journal) errLocked() error {
	if j.st.Spoiled != "" {
		return fmt.Errorf("%w: %s", ErrSpoiled, j.st.Spoiled)
	}
	return nil
}

// spoil gives the replica up, durably if that is possible.
func (j *Journal) spoil(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.st.Spoiled == "" {
		j.st.Spoiled = err.Error()
		err = errors.Join(err, j.st.save(j.dir))
	}
	return fmt.Errorf("%w: %w", ErrSpoiled, err)
}

// updateLocked makes a change of the state durable, and only then true in memory.
func (j *Journal) updateLocked(change func(*state)) error {
	next := j.st
	change(&next)
	if err := next.save(j.dir); err != nil {
		return err
	}
	j.st = next
	return nil
}

// Begin begins an epoch, whose number must be above the last.
func (j *Journal) Begin(number uint64) error {
	j.mu.Lock()
	err := j.errLocked()
	switch {
	case err != nil:
	case j.under != 0 || number <= j.last:
		err = fmt.Errorf("%w: %d begins after %d, while %d is under way", ErrOrder, number, j.last, j.under)
	case !j.st.Touched:
		err = j.updateLocked(func(st *state) { st.Touched = true })
		j.point.Touched = true
	}
	complete, before := j.st.Complete, j.last
	j.mu.Unlock()
	if err == nil && complete {
		j.writing.Lock()
		full := j.log.full()
		j.writing.Unlock()
		if full { // another file may only follow what is durable
			err = j.Sync()
		}
	}
	if err == nil && complete {
		j.writing.Lock()
		err = j.log.begin(before)
		j.writing.Unlock()
	}
	if err == nil {
		j.mu.Lock()
		j.under = number
		j.mu.Unlock()
	}
	return err
}

// Put adds a change to the epoch under way: data, or, when that is nil, zeroes. An error that is not an ErrSpoiled (a full disk)
// is made good by Discard.
func (j *Journal) Put(vol int, off, length int64, data []byte) error {
	r := record{kind: kindZero, vol: uint16(vol), off: off, length: length}
	if data != nil {
		r.kind = kindData
	}
	return j.put(&r, data)
}

// Lose adds to the epoch under way that a range, of whole blocks, has no right content any more. The disks must be [Condemner]s.
func (j *Journal) Lose(vol int, off, length int64) error {
	if vol < 0 || vol >= len(j.disks) || off%block != 0 || length%block != 0 && off+length != j.disks[vol].Size() {
		return fmt.Errorf("%w: loss of %d bytes at %d of volume %d, which are no whole blocks", ErrOrder, length, off, vol)
	}
	return j.put(&record{kind: kindLost, vol: uint16(vol), off: off, length: length}, nil)
}

func (j *Journal) put(r *record, data []byte) error {
	j.mu.Lock()
	number, complete := j.under, j.st.Complete
	j.mu.Unlock()
	if r.epoch = number; number == 0 || int(r.vol) >= len(j.disks) || r.off < 0 || r.length <= 0 || r.length > j.disks[r.vol].Size()-r.off ||
		data != nil && int64(len(data)) != r.length {
		return fmt.Errorf("%w: change of volume %d at %d+%d in epoch %d", ErrOrder, r.vol, r.off, r.length, number)
	}
	if !complete {
		disk := j.disks[r.vol]
		if j.begun += int64(len(data)); j.begun >= startEvery {
			j.begun = 0
			startSync(disk)
		}
		return r.redo(disk, data)
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	return j.log.append(r, data)
}

// Commit ends the epoch under way; on return it is durable, and the last consistent point. at is when the primary was there.
func (j *Journal) Commit(number uint64, at time.Time) error {
	if err := j.Seal(number, at); err != nil {
		return err
	}
	return j.Sync()
}

// Seal ends the epoch under way like Commit, but what makes it durable, and the last consistent point, is the next Sync: so that
// one may serve several epochs, while others come in.
func (j *Journal) Seal(number uint64, at time.Time) error {
	j.mu.Lock()
	err, complete := j.errLocked(), j.st.Complete
	if err == nil && (number == 0 || j.under != number) {
		err = fmt.Errorf("%w: commit of %d while %d is under way", ErrOrder, number, j.under)
	}
	j.mu.Unlock()
	if err != nil {
		return err
	}
	if !complete {
		return j.commitFirst(number, at)
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	e, err := j.log.commit(number, at)
	if errors.Is(err, syscall.ENOSPC) {
		return err // nothing of it counts
	}
	if err != nil {
		return j.spoil(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.under, j.last = 0, number
	j.sealed = append(j.sealed, e)
	return nil
}

// Sync makes durable what is sealed. It may be called while epochs come in.
func (j *Journal) Sync() error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	err, n := j.errLocked(), len(j.sealed)
	var file *logFile
	if n > 0 {
		file = j.sealed[n-1].file // the same for all: a file begins when all before is durable
	}
	j.mu.Unlock()
	if err != nil || n == 0 {
		return err
	}
	if err := file.Sync(); err != nil {
		return j.spoil(err)
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.sealed[:n] {
		j.point.Epoch, j.point.Time = e.number, e.at
		j.queue = append(j.queue, e)
		j.queued += e.bytes
	}
	j.sealed = j.sealed[:copy(j.sealed, j.sealed[n:])]
	return nil
}

// commitFirst makes the first consistent point.
func (j *Journal) commitFirst(number uint64, at time.Time) error {
	if err := j.syncDisks(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.updateLocked(func(st *state) { st.Complete, st.Applied, st.Time = true, number, at }); err != nil {
		return err
	}
	j.under, j.last, j.applied, j.appliedAt = 0, number, number, at
	j.point.Epoch, j.point.Time, j.point.Complete = number, at, true
	return nil
}

// Discard takes the epoch under way back, if there is one. Of a first copy what came stays on the disks, for being compared.
func (j *Journal) Discard() {
	j.mu.Lock()
	under, complete := j.under, j.st.Complete
	j.under = 0
	j.mu.Unlock()
	if under != 0 && complete {
		j.writing.Lock()
		defer j.writing.Unlock()
		j.log.discard()
	}
}

// ReadAt reads what a disk holds; after [Journal.Settle] that is the last consistent point.
func (j *Journal) ReadAt(vol int, p []byte, off int64) error {
	j.base.RLock()
	defer j.base.RUnlock()
	return readFull(j.disks[vol], p, off)
}

// Renew draws another lineage: what any source remembers of this replica is worth nothing from now on.
func (j *Journal) Renew() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	lineage := newLineage()
	if err := j.updateLocked(func(st *state) { st.Lineage = lineage }); err != nil {
		return err
	}
	j.point.Lineage = lineage
	return nil
}

func (j *Journal) syncDisks() error {
	for _, d := range j.disks {
		if err := d.Sync(); err != nil {
			return j.spoil(err)
		}
	}
	return nil
}
