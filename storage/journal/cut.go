package journal

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxCuts bounds the cuts of a group: each costs two open files for every volume.
const maxCuts = 256

var (
	// ErrNoCut means that there is no cut of that name.
	ErrNoCut = errors.New("no such cut")
	// ErrInUse means that the cut is open.
	ErrInUse = errors.New("cut is in use")
)

type cut struct {
	Cut
	vols    []overlay
	readers int // under Journal.mu
}

func (c *cut) close() error {
	var errs []error
	for i := range c.vols {
		errs = append(errs, c.vols[i].close())
	}
	return errors.Join(errs...)
}

// sync makes durable what an interrupted seal left, in its order.
func (c *cut) sync() error {
	for i := range c.vols {
		if err := errors.Join(c.vols[i].data.Sync(), c.vols[i].bits.Sync()); err != nil {
			return err
		}
	}
	return nil
}

// openCuts opens the files of the cuts that the state names, and removes those of others.
func (j *Journal) openCuts() error {
	named := map[string]bool{}
	for _, c := range j.st.Cuts {
		opened, err := j.openCut(c, false)
		if err == nil {
			err = opened.sync()
		}
		if err != nil {
			return fmt.Errorf("cut %s: %w", c.Name, err)
		}
		j.cuts = append(j.cuts, opened)
		for vol := range j.disks {
			named[overlayName(c.ID, vol)], named[overlayName(c.ID, vol)+".map"] = true, true
		}
	}
	names, err := j.dir.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if len(name) > 4 && name[:4] == "cut-" && !named[name] {
			if err := j.dir.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *Journal) openCut(c Cut, create bool) (*cut, error) {
	out := &cut{Cut: c}
	for vol, d := range j.disks {
		o, err := openOverlay(j.dir, c.ID, vol, d.Size(), create)
		if err != nil {
			return nil, errors.Join(err, out.close())
		}
		out.vols = append(out.vols, o)
	}
	return out, nil
}

// Cut names the last consistent point and keeps it until that time; zero for ever. The same name again is a success if the
// cut is there.
func (j *Journal) Cut(name string, until time.Time) (Cut, error) {
	j.applying.Lock()
	defer j.applying.Unlock()
	j.mu.Lock()
	point, id, full := j.point, j.st.NextCut, len(j.st.Cuts) >= maxCuts
	j.mu.Unlock()
	if c := j.named(name); c != nil {
		return c.Cut, nil
	}
	switch {
	case name == "":
		return Cut{}, errors.New("a cut needs a name")
	case !point.Complete:
		return Cut{}, fmt.Errorf("cut %s: there is no consistent point yet", name)
	case full:
		return Cut{}, fmt.Errorf("cut %s: there are %d already: delete some", name, maxCuts)
	}
	c, err := j.openCut(Cut{Name: name, Epoch: point.Epoch, Time: point.Time, Until: until, ID: id}, true)
	if err == nil {
		err = j.dir.Sync()
	}
	if err != nil {
		return Cut{}, fmt.Errorf("cut %s: %w", name, err)
	}
	j.base.Lock()
	defer j.base.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.updateLocked(func(st *state) {
		st.Cuts = append(slices.Clone(st.Cuts), c.Cut)
		st.NextCut = id + 1
	}); err != nil {
		return Cut{}, errors.Join(fmt.Errorf("cut %s: %w", name, err), c.close())
	}
	j.cuts = append(j.cuts, c)
	return c.Cut, nil
}

// named finds a cut; under applying or base.
func (j *Journal) named(name string) *cut {
	for _, c := range j.cuts {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Cuts lists the cuts, oldest first.
func (j *Journal) Cuts() ([]Cut, error) {
	j.base.RLock()
	defer j.base.RUnlock()
	out := make([]Cut, 0, len(j.cuts))
	for _, c := range j.cuts {
		listed := c.Cut
		for i := range c.vols {
			n, err := c.vols[i].count()
			if err != nil {
				return nil, fmt.Errorf("cut %s: %w", c.Name, err)
			}
			listed.Saved += n
		}
		out = append(out, listed)
	}
	return out, nil
}

// DeleteCut gives a cut up; one that is not there is a success. What older cuts need of it goes over to the one before.
func (j *Journal) DeleteCut(name string) error {
	j.applying.Lock()
	defer j.applying.Unlock()
	at := slices.IndexFunc(j.cuts, func(c *cut) bool { return c.Name == name })
	if at < 0 {
		return nil
	}
	c := j.cuts[at]
	j.mu.Lock()
	readers := c.readers
	j.mu.Unlock()
	if readers > 0 {
		return fmt.Errorf("delete cut %s: %w", name, ErrInUse)
	}
	if at > 0 {
		if err := j.merge(c, j.cuts[at-1]); err != nil {
			return fmt.Errorf("delete cut %s: %w", name, err)
		}
	}
	j.base.Lock()
	defer j.base.Unlock()
	j.mu.Lock()
	err := j.updateLocked(func(st *state) {
		st.Cuts = slices.DeleteFunc(slices.Clone(st.Cuts), func(c Cut) bool { return c.Name == name })
	})
	j.mu.Unlock()
	if err != nil {
		return fmt.Errorf("delete cut %s: %w", name, err)
	}
	j.cuts = slices.Delete(j.cuts, at, at+1)
	err = c.close()
	for vol := range c.vols {
		err = errors.Join(err, j.dir.Remove(overlayName(c.ID, vol)), j.dir.Remove(overlayName(c.ID, vol)+".map"))
	}
	return err
}

// merge saves in an older cut what only the newer one has.
func (j *Journal) merge(newer, older *cut) error {
	for vol := range newer.vols {
		from, to := &newer.vols[vol], &older.vols[vol]
		fresh := newUnsealed(from.size)
		if err := from.each(func(off, length int64) error {
			return to.save(overlayDisk{from.data, from}, fresh, off, length)
		}); err != nil {
			return err
		}
		if err := to.seal(fresh); err != nil {
			return err
		}
	}
	return nil
}

// overlayDisk lets an overlay be saved from another one's content, block by block.
type overlayDisk struct {
	File
	of *overlay
}

func (d overlayDisk) Size() int64           { return d.of.size }
func (d overlayDisk) Zero(_, _ int64) error { return errors.ErrUnsupported }

// ReadAt implements Disk.
func (d overlayDisk) ReadAt(p []byte, off int64) (int, error) {
	rotten, first, err := d.of.rottenOf(off, int64(len(p)))
	if err == nil && bit(rotten, first, off/block) {
		err = errUnreadable
	}
	if err != nil {
		return 0, err
	}
	return d.File.ReadAt(p, off)
}

// Salvage implements Salvager: what cannot be read there cannot be read here.
func (d overlayDisk) Salvage(p []byte, off int64) error { return readFull(d.File, p, off) }

// Expire deletes the cuts whose time is over, except those in use, and says which.
func (j *Journal) Expire(now time.Time) (gone []string, err error) {
	j.mu.Lock()
	cuts := j.st.Cuts
	j.mu.Unlock()
	for _, c := range cuts {
		if c.Until.IsZero() || now.Before(c.Until) {
			continue
		}
		if err := j.DeleteCut(c.Name); errors.Is(err, ErrInUse) {
			continue
		} else if err != nil {
			return gone, err
		}
		gone = append(gone, c.Name)
	}
	return gone, nil
}
