package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/godwit-project/godwit/storage/changes"
	"github.com/godwit-project/godwit/storage/wire"
)

// GroupSpec says which volumes are replicated together, and how.
type GroupSpec struct {
	// Name of the group: as for volumes. The other end has a standby of that name.
	Name string
	// Volumes are names of primaries of the store, in the same order as at the standby.
	Volumes []string
	// Epoch of the owner; the standby refuses any other.
	Epoch uint64
	// Mode is one of ModeLocal, ModeAsync, ModeFlush, ModeSync.
	Mode string
	// Limits of the mode; the zero value is good.
	Limits Limits
}

// Limits of a group's replication.
type Limits struct {
	// Bytes and Lag bound what the standby may lack in async and flush mode, as data and as time; at either bound, writers
	// are slowed. 256 MiB and 30 s when zero.
	Bytes int64
	Lag   time.Duration
	// Interval is how long after the first write an epoch is cut when nobody waits for it; 100 ms when zero. While writers are busy it
	// is longer, up to an eighth of Lag, in async mode up to half where they write much over, as long as Bytes are far: what is written over
	// meanwhile is shipped once.
	Interval time.Duration
	// Overflow is how long the link may be down before writers are not slowed any more, and only what changed is
	// remembered; 30 s when zero.
	Overflow time.Duration
	// Strict lets flush and sync mode wait for the other end however long it takes. Without it they fall back to async when
	// the link breaks or owes an answer for the store's SyncTimeout.
	Strict bool
}

// Group replicates volumes of this store to a standby elsewhere, in epochs that are cut over all of them at once.
//
// The tracker numbers epochs from 1 in each life of the group; the standby goes on counting from where it stands. base is the
// difference.
type Group struct {
	name    string
	epoch   uint64
	store   *Store
	members []*member
	session uint64
	enc     *wire.Encoder
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu          sync.Mutex
	work        sync.Cond // for the sender
	changed     sync.Cond // for everybody else
	dial        Dialer
	mode        string
	limits      Limits
	tracker     *changes.Tracker
	link        *groupLink
	connections uint64
	breaks      uint64 // counts lost links
	base        uint64
	known       bool // base is
	wanted      uint64
	pause       time.Duration // between epochs that nobody waits for, at least
	pace        pace
	keeps       []*keep // cuts to be named
	firstWrite  time.Time
	written     int64      // bytes since the last cut, as often as they were written
	cuts        []cutEpoch // on their way, oldest first
	downSince   time.Time
	overflown   bool
	waiting     bool   // writers and flushes wait as the mode says
	waitingFrom uint64 // … and everything before that epoch is there once it is committed
	catchUp     uint64 // until that epoch is committed, nobody is slowed
	throttled   int
	slowed      time.Duration
	point       pointAt
	verifying   *verification
	arena       *arena // what was put aside in memory
	lost        map[asideBlock]struct{}
	copied      int64
	repaired    int64
	shipped     int64
	rate        meter
	stopped     bool
	refused     error
	trouble     error
}

// cutEpoch is an epoch that was cut and not confirmed.
type cutEpoch struct {
	number uint64
	first  time.Time // its first write
	cut    time.Time
	bytes  int64
}

type pointAt struct {
	number uint64 // the standby's
	at     time.Time
}

// keep is a cut that the standby is to name, and has not confirmed.
type keep struct {
	seconds uint64
	name    string
	link    *groupLink // that it was sent over, as that frame; nil for not yet
	seq     uint64
	tries   int
	err     error // the standby does not
}

// keepTries is how many links may break over a cut: the standby may have no better way to refuse it.
const keepTries = 3

// Protect replicates a group of volumes to the standby that dial leads to ([Standby.Serve]), until Unprotect or Close. Repeated
// for the same epoch it takes over the newest dial, mode and limits; a newer epoch replaces an older one's. It returns at once:
// [Group.SetMode] waits for the mode to be reached. After a restart of the process it must be called again; what was written
// meanwhile is known.
func (s *Store) Protect(ctx context.Context, spec GroupSpec, dial Dialer) (*Group, error) {
	g, err := s.protect(ctx, spec, dial)
	if err != nil {
		return nil, fmt.Errorf("protect group %s: %w", spec.Name, err)
	}
	return g, nil
}

func (s *Store) protect(ctx context.Context, spec GroupSpec, dial Dialer) (*Group, error) {
	if err := errors.Join(Spec{Name: spec.Name, Size: 512}.check(), checkMode(spec.Mode), ctx.Err()); err != nil {
		return nil, err
	}
	if len(spec.Volumes) == 0 {
		return nil, errors.New("it has no volumes")
	}
	s.grouping.Lock()
	defer s.grouping.Unlock()
	s.mu.Lock()
	old := s.groups[spec.Name]
	s.mu.Unlock()
	if old != nil {
		switch {
		case old.epoch > spec.Epoch:
			return nil, fmt.Errorf("%w: it runs at epoch %d", ErrStale, old.epoch)
		case old.epoch == spec.Epoch && old.adopt(spec, dial):
			return old, nil
		}
		if err := s.unprotect(old); err != nil {
			return nil, err
		}
	}
	g, err := s.newGroup(spec, dial)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(ErrClosed, g.close())
	}
	s.groups[spec.Name] = g
	g.wg.Go(g.run)
	return g, nil
}

func checkMode(mode string) error {
	switch mode {
	case ModeLocal, ModeAsync, ModeFlush, ModeSync:
		return nil
	}
	return fmt.Errorf("mode %q: use %s, %s, %s or %s", mode, ModeLocal, ModeAsync, ModeFlush, ModeSync)
}

func (l Limits) filled() Limits {
	l.Bytes = cmp.Or(l.Bytes, 256<<20)
	l.Lag = cmp.Or(l.Lag, 30*time.Second)
	l.Interval = cmp.Or(l.Interval, 100*time.Millisecond)
	l.Overflow = cmp.Or(l.Overflow, 30*time.Second)
	return l
}

func (s *Store) newGroup(spec GroupSpec, dial Dialer) (*Group, error) {
	enc, err := wire.NewEncoder()
	if err != nil {
		return nil, err
	}
	g := &Group{
		name: spec.Name, epoch: spec.Epoch, store: s, session: rand.Uint64(), enc: enc, dial: dial, arena: &arena{taken: &s.aside},
		mode: spec.Mode, limits: spec.Limits.filled(), downSince: time.Now(),
	}
	g.work.L, g.changed.L = &g.mu, &g.mu
	g.ctx, g.cancel = context.WithCancel(context.Background())
	var sizes []int64
	var marks []changes.Marks
	for i, name := range spec.Volumes {
		v, err := s.Volume(name)
		if err != nil {
			return nil, errors.Join(err, g.close())
		}
		m, err := v.join(g, i)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("volume %s: %w", name, err), g.close())
		}
		g.members = append(g.members, m)
		sizes, marks = append(sizes, v.size), append(marks, m.marks)
	}
	g.tracker = changes.NewTracker(1, sizes, marks)
	for _, m := range g.members {
		m.attach()
	}
	return g, nil
}

// join makes a volume ready for a group.
func (v *Volume) join(g *Group, index int) (*member, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.closed:
		return nil, ErrClosed
	case v.meta.Role != RolePrimary:
		return nil, fmt.Errorf("%w: %s", ErrRole, v.meta.Role)
	}
	var marks *regions
	if old := v.member.Load(); old != nil {
		if old.group != nil {
			return nil, fmt.Errorf("%w: it is in group %s", ErrBusy, old.group.name)
		}
		marks = old.marks
	}
	if marks == nil {
		var err error
		if marks, err = openRegions(v.dir, v.size, v.bootID, true); err != nil {
			return nil, err
		}
	}
	return newMember(g, v, index, marks)
}

// attach has every change told to the group from now on, and tells it what was marked before.
func (m *member) attach() {
	v := m.v
	v.member.Store(m)
	v.ranges.unlock(v.ranges.lock(0, v.size))
	g := m.group
	g.mu.Lock()
	defer g.mu.Unlock()
	m.marks.each(v.size, func(off, length int64) { g.tracker.Doubt(m.index, off, length) })
}

// adopt gives a live group the newest wishes; false if it is over, or of other volumes.
func (g *Group) adopt(spec GroupSpec, dial Dialer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused != nil || g.stopped || len(spec.Volumes) != len(g.members) {
		return false
	}
	for i, m := range g.members {
		if m.v.name != spec.Volumes[i] {
			return false
		}
	}
	g.dial, g.limits = dial, spec.Limits.filled()
	g.modeLocked(spec.Mode)
	return true
}

// Group returns the running group of that name, or [ErrNotFound].
func (s *Store) Group(name string) (*Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[name]; g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("group %s: %w", name, ErrNotFound)
}

// Unprotect ends a group's replication; its volumes go on unreplicated and forget what the standby lacks. A group that is not
// there is a success.
func (s *Store) Unprotect(_ context.Context, name string, epoch uint64) error {
	s.grouping.Lock()
	defer s.grouping.Unlock()
	g, err := s.Group(name)
	if err != nil {
		return nil
	}
	if epoch < g.epoch {
		return fmt.Errorf("unprotect group %s: %w: it runs at epoch %d", name, ErrStale, g.epoch)
	}
	if err := s.unprotect(g); err != nil {
		return fmt.Errorf("unprotect group %s: %w", name, err)
	}
	for _, m := range g.members {
		if err := m.v.unmark(); err != nil {
			return fmt.Errorf("unprotect group %s: %w", name, err)
		}
	}
	return nil
}

func (s *Store) unprotect(g *Group) error {
	s.mu.Lock()
	delete(s.groups, g.name)
	s.mu.Unlock()
	return g.close()
}

// close ends the group; its volumes go on to mark what is written.
func (g *Group) close() error {
	g.mu.Lock()
	g.stopped = true
	g.breakLocked(g.link, ErrClosed)
	g.waiting = false
	g.work.Broadcast()
	g.changed.Broadcast()
	g.mu.Unlock()
	g.cancel()
	g.wg.Wait()
	var errs []error
	for _, m := range g.members {
		m.v.member.CompareAndSwap(m, &member{v: m.v, marks: m.marks})
		m.v.ranges.unlock(m.v.ranges.lock(0, m.v.size)) // no change is told to the group any more
		errs = append(errs, m.aside.Close())
	}
	g.mu.Lock()
	g.arena.release()
	g.mu.Unlock()
	return errors.Join(errs...)
}
