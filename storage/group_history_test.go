package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/storage/disk"
)

// groupEvent is a write to one volume of a group, or a flush.
type groupEvent struct {
	event
	vol      int
	over     uint64 // when the call returned, also if it failed: nothing of it happens later
	promised bool   // acknowledged while the mode promised that it is at the standby
}

// groupHistory is what clients did to the volumes of a group; one clock orders all of it.
type groupHistory struct {
	seed    uint64 // repeats the choices, though not the scheduler's
	mu      sync.Mutex
	clock   atomic.Uint64
	events  []*groupEvent
	flushed uint64                    // everything that ended before was promised
	rotten  map[place]bool            // blocks that ever rotted at the primary
	kept    map[string]map[place]bool // of the standby's cuts, what had rotted when each was made: the rest of it must be right
}

// place is a block of a volume, by its number.
type place struct {
	vol   int
	block int64
}

const perBlock = 4096 / sector

// rot has a block of the primary rot.
func (h *groupHistory) rot(t *testing.T, west *site, names []string, rng *rand.Rand) {
	t.Helper()
	vol := rng.IntN(len(names))
	v := west.volume(names[vol])
	off := rng.Int64N(min(v.size, 64*sector))
	h.mu.Lock()
	if h.rotten == nil {
		h.rotten = map[place]bool{}
	}
	h.rotten[place{vol, off / 4096}] = true
	h.mu.Unlock()
	rot(t, v, off)
}

// look reads the disks of a site, and which of their blocks are wrong by what the disks themselves say. That comes first: what is
// repaired meanwhile, since a group goes on to ship what it owes, is right in the images then; the other way round, it would be wrong
// in the images, and nobody would have said so.
func (h *groupHistory) look(t *testing.T, s *site, names []string) (images [][]byte, wrong map[place]bool) {
	t.Helper()
	wrong = h.unreadable(t, s, names)
	for _, n := range names {
		images = append(images, image(t, s.volume(n)))
	}
	return images, wrong
}

// unreadable are the blocks that the disks themselves say are wrong; those must have rotted.
func (h *groupHistory) unreadable(t *testing.T, s *site, names []string) map[place]bool {
	t.Helper()
	out := map[place]bool{}
	for vol, name := range names {
		v := s.volume(name)
		report, err := v.disk.Verify(background, 0, v.size, nil)
		must(t, err)
		for _, r := range report.Bad {
			for off := r.Off; off < r.Off+r.Length; off += 4096 {
				p := place{vol, off / 4096}
				if out[p] = true; !h.rotten[p] {
					t.Fatalf("block %d of volume %s cannot be read, and never rotted", off/4096, name)
				}
			}
		}
	}
	return out
}

// guest writes and flushes at random. volumes may be replaced when the site restarts, so it asks for them each time.
func (h *groupHistory) guest(ctx context.Context, t *testing.T, west *site, names []string, rng *rand.Rand) {
	for ctx.Err() == nil {
		vol := rng.IntN(len(names))
		v, err := west.get().Volume(names[vol])
		if err != nil {
			time.Sleep(time.Millisecond) // the agent is being restarted
			continue
		}
		c := client{v}
		waiting := func(sync bool) bool {
			m := v.member.Load()
			if m == nil || m.group == nil {
				return false
			}
			m.group.mu.Lock()
			defer m.group.mu.Unlock()
			return m.group.waiting && (m.group.mode == ModeSync || !sync && m.group.mode == ModeFlush)
		}
		if rng.IntN(12) == 0 {
			begin, promised := h.clock.Add(1), waiting(false)
			if err := c.Flush(ctx); err == nil && promised && waiting(false) {
				h.mu.Lock()
				h.flushed = max(h.flushed, begin)
				h.mu.Unlock()
			}
			continue
		}
		total := v.size / sector
		e := &groupEvent{vol: vol, event: event{first: rng.Int64N(total), count: 1 + rng.Int64N(12)}}
		if rng.IntN(3) > 0 {
			e.first = rng.Int64N(min(total, 64))
		}
		whole := rng.IntN(3) == 0
		if whole {
			e.first, e.count = e.first/perBlock*perBlock, (1+rng.Int64N(3))*perBlock
		}
		if rng.IntN(30) == 0 {
			e.count = 1 + rng.Int64N(600)
		}
		e.count = min(e.count, total-e.first)
		e.zero = rng.IntN(9) == 0
		promised := waiting(true)
		h.mu.Lock()
		e.begin = h.clock.Add(1)
		e.number = e.begin
		h.events = append(h.events, e)
		h.mu.Unlock()
		off, length := e.first*sector, e.count*sector
		switch {
		case e.zero && rng.IntN(2) == 0:
			err = c.Trim(ctx, off, length, false)
		case e.zero:
			err = c.Zero(ctx, off, length, rng.IntN(2) == 0, false)
		default:
			p := make([]byte, 0, length)
			for s := e.first; s < e.first+e.count; s++ {
				p = append(p, e.content(s)...)
			}
			done := false
			if whole { // as the NBD server does
				done, err = c.TryWriteAt(p, off)
			}
			if !done {
				err = c.WriteAt(ctx, p, off, rng.IntN(8) == 0)
			}
		}
		promised = promised && waiting(true)
		over := h.clock.Add(1)
		h.mu.Lock()
		e.over = over
		if err == nil { // else it was killed: it may have happened or not
			e.end, e.promised = over, promised
		}
		h.mu.Unlock()
	}
}

// check says whether the images are what the volumes were at one instant: no write may be missing that ended before another began
// that is there; and nothing may be missing that was promised. No write may be under way. Zeroes do not tell which write they are
// from: of those that may have made them, it is taken to be the one that was over last, which another may have begun after.
// Blocks that are known to be wrong are left out.
func (h *groupHistory) check(images [][]byte, promises bool, wrong map[place]bool) error {
	if err := h.compare(images, promises, wrong); err != nil {
		return fmt.Errorf("history of -storage.seed=%d: %w", h.seed, err)
	}
	return nil
}

func (h *groupHistory) compare(images [][]byte, promises bool, wrong map[place]bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	newest := uint64(0) // when the last write that is there began
	sectors := make([]map[int64][]*groupEvent, len(images))
	byNumber := map[uint64]*groupEvent{}
	for i := range sectors {
		sectors[i] = map[int64][]*groupEvent{}
	}
	for _, e := range h.events {
		byNumber[e.number] = e
		for s := e.first; s < e.first+e.count; s++ {
			sectors[e.vol][s] = append(sectors[e.vol][s], e)
		}
	}
	there := func(vol int, s int64) (*groupEvent, error) {
		content := images[vol][s*sector : (s+1)*sector]
		if isZero(content) {
			var last *groupEvent
			for _, e := range sectors[vol][s] {
				if e.zero && (last == nil || e.over > last.over) {
					last = e
				}
			}
			return last, nil
		}
		e := byNumber[binary.BigEndian.Uint64(content)]
		if e == nil || e.vol != vol || !bytes.Equal(content, e.content(s)) {
			return nil, fmt.Errorf("sector %d of volume %d holds what nobody wrote there: %s", s, vol, h.nearestLocked(vol, s, content))
		}
		if !e.zero {
			newest = max(newest, e.begin)
		}
		return e, nil
	}
	for vol, image := range images {
		for s := range int64(len(image) / sector) {
			if wrong[place{vol, s / perBlock}] {
				continue
			}
			if _, err := there(vol, s); err != nil {
				return err
			}
		}
	}
	for vol := range images {
		for s, events := range sectors[vol] {
			if wrong[place{vol, s / perBlock}] {
				continue
			}
			seen, _ := there(vol, s)
			for _, e := range events {
				if e.end == 0 || seen != nil && e.begin <= seen.over {
					continue
				}
				// e is missing: what is there was over before it began.
				switch {
				case e.end < newest:
					return fmt.Errorf("write %d (ended at %d) to sector %d of volume %d is missing, but one that began at %d is there", e.number, e.end, s, vol, newest)
				case promises && e.promised:
					return fmt.Errorf("write %d to sector %d of volume %d was promised in sync mode and is missing", e.number, s, vol)
				case promises && e.end < h.flushed:
					return fmt.Errorf("write %d (ended at %d) to sector %d of volume %d is missing after a flush that began at %d", e.number, e.end, s, vol, h.flushed)
				}
			}
		}
	}
	return nil
}

// standbyDialer connects to a standby; choose picks each connection's fault.
func (s *site) standbyDialer(name string, choose func() (fault, int64)) Dialer {
	return func(context.Context) (net.Conn, error) {
		b, err := s.get().Standby(name)
		if err != nil {
			return nil, err
		}
		return s.connect(choose, func(c net.Conn) { _ = b.Serve(context.Background(), c) })
	}
}

func specs(t *testing.T, names []string, rng *rand.Rand) []Spec {
	t.Helper()
	out := make([]Spec, 0, len(names))
	for _, n := range names {
		out = append(out, Spec{Name: n, Size: 512 * (64 + rng.Int64N(4096))})
	}
	return out
}

func TestWhateverHappensAStandbyIsAtOneInstantOfItsGroup(t *testing.T) {
	if *seed != 0 {
		runGroupHistory(t, *seed)
		return
	}
	for i := range *runs {
		s := uint64(i + 1)
		t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
			t.Parallel()
			runGroupHistory(t, s)
		})
	}
}

// runGroupHistory writes to a group while the link fails, agents are replaced and the mode changes; then the site is lost and the
// standby takes over; then the old primary comes back as the new one's standby.
func runGroupHistory(t *testing.T, seed uint64) {
	t.Logf("replay with -storage.seed=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	opts := Options{SyncTimeout: 50 * time.Millisecond, LinkTimeout: 300 * time.Millisecond, Backoff: time.Millisecond}
	dir := fastDir(t)
	if seed%4 == 0 {
		dir = t.TempDir()
	}
	west, east := newSiteIn(t, dir, opts), newSite(t, opts)
	ctx := within(t, 3*time.Minute) // on a machine that has much else to do
	names := []string{"shop.root", "shop.log", "shop.data"}[:1+rng.IntN(3)]
	volumes := specs(t, names, rng)
	for _, v := range volumes {
		_, err := west.get().Create(ctx, v, 1)
		must(t, err)
	}
	h := &groupHistory{seed: seed}
	guests, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for range 1 + rng.IntN(3) {
		own := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
		wg.Go(func() { h.guest(guests, t, west, names, own) })
	}
	_, err := east.get().CreateStandby(ctx, "shop", volumes, 1)
	must(t, err)
	var quiet atomic.Bool
	dial := east.standbyDialer("shop", faults(rng, &quiet))
	spec := GroupSpec{
		Name: "shop", Volumes: names, Epoch: 1, Mode: ModeAsync,
		Limits: Limits{Interval: time.Duration(1+rng.IntN(10)) * time.Millisecond, Strict: true, Bytes: int64(1+rng.IntN(64)) << 16},
	}
	g, err := west.get().Protect(ctx, spec, dial)
	must(t, err)
	rots := rng.IntN(3) == 0
	for range 3 + rng.IntN(8) {
		if rots && rng.IntN(2) == 0 {
			h.rot(t, west, names, rng)
		}
		switch rng.IntN(7) {
		case 0:
			east.restart()
		case 1:
			west.restart()
			g, err = west.get().Protect(ctx, spec, dial)
			must(t, err)
		case 2:
			if b, err := east.get().Standby("shop"); err == nil && b.Status().Complete {
				h.keep(t, b, fmt.Sprint("cut", rng.IntN(5)))
			}
		case 3, 4:
			spec.Mode = []string{ModeAsync, ModeFlush, ModeSync, ModeLocal}[rng.IntN(4)]
			short, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(100))*time.Millisecond)
			_ = g.SetMode(short, spec.Mode)
			cancel()
		default:
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond) // let it run on; nothing is waited for
		}
	}
	if rng.IntN(2) == 0 {
		quiet.Store(true)
		if spec.Mode != ModeLocal {
			must(t, g.Drain(ctx))
		}
	}
	if rng.IntN(2) == 0 { // promises are made until the end
		quiet.Store(true)
		must(t, g.SetMode(ctx, []string{ModeFlush, ModeSync}[rng.IntN(2)]))
		time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond) // let it run on; nothing is waited for
	}
	lost := rng.IntN(2) == 0
	if lost { // the site is lost with everything under way
		must(t, west.get().Close())
	}
	stop()
	wg.Wait()
	if lost {
		west.open()
	}
	seen, wrong := h.look(t, west, names)
	if err := h.check(seen, true, wrong); err != nil {
		t.Fatalf("the primary's own disks fail the check, which is wrong then: %v", err)
	}
	if rng.IntN(2) == 0 {
		east.restart()
	}
	b, err := east.get().Standby("shop")
	must(t, err)
	complete := b.Status().Complete
	cuts, err := b.Cuts()
	must(t, err)
	for _, c := range cuts {
		must(t, h.checkCut(b, c.Name, volumes))
	}
	err = b.Promote(ctx, 2)
	if !complete && err != nil { // it may have become so meanwhile
		wants(t, "promotion without a consistent point", err, ErrIncomplete)
		return
	}
	must(t, err)
	if rng.IntN(2) == 0 {
		east.restart()
	}
	seen, wrong = h.look(t, east, names)
	must(t, h.check(seen, true, wrong))
	for p := range wrong { // restored from elsewhere
		v := east.volume(names[p.vol])
		must(t, client{v}.WriteAt(ctx, noise(int(min(4096, v.size-p.block*4096)), 7), p.block*4096, false))
	}
	for p := range h.unreadable(t, west, names) { // an operator takes them as they are
		must(t, west.volume(names[p.vol]).disk.Accept(disk.Range{Off: p.block * 4096, Length: 1}))
	}
	h.comeBack(t, ctx, rng, west, east, names)
}

// keep has the standby make a cut, if it is not there.
func (h *groupHistory) keep(t *testing.T, b *Standby, name string) {
	t.Helper()
	_, err := b.Keep(background, name, 0)
	must(t, err)
	if h.kept == nil {
		h.kept = map[string]map[place]bool{}
	}
	if _, again := h.kept[name]; !again {
		h.kept[name] = maps.Clone(h.rotten)
	}
}

// checkCut demands that a cut is an instant too. A block that had been lost when it was made has nothing there either.
func (h *groupHistory) checkCut(b *Standby, name string, volumes []Spec) error {
	var all [][]byte
	for vol, v := range volumes {
		view, err := b.OpenCut(name, v.Name)
		if err != nil {
			return err
		}
		p := make([]byte, v.Size)
		for off := int64(0); off < v.Size; off += 4096 {
			err := view.ReadAt(background, p[off:min(off+4096, v.Size)], off)
			if errors.Is(err, syscall.EIO) && h.kept[name][place{vol, off / 4096}] {
				err = nil
			}
			if err != nil {
				return err
			}
		}
		all = append(all, p)
		if err := view.Close(); err != nil {
			return err
		}
	}
	if err := h.check(all, false, h.kept[name]); err != nil {
		return fmt.Errorf("cut %s: %w", name, err)
	}
	return nil
}

// comeBack has the old primary become the standby of the new one, which is written to meanwhile.
func (h *groupHistory) comeBack(t *testing.T, ctx context.Context, rng *rand.Rand, west, east *site, names []string) {
	t.Helper()
	before, _ := h.look(t, west, names)
	b, err := west.get().Demote(ctx, "shop", names, 2, "demoted", 0)
	must(t, err)
	var quiet atomic.Bool
	g, err := east.get().Protect(ctx, GroupSpec{Name: "shop", Volumes: names, Epoch: 2, Mode: ModeAsync}, west.standbyDialer("shop", faults(rng, &quiet)))
	must(t, err)
	for range 50 {
		v := east.volume(names[rng.IntN(len(names))])
		must(t, client{v}.WriteAt(ctx, []byte("the other way"), rng.Int64N(v.size-16), false))
	}
	must(t, g.SetMode(ctx, ModeSync), g.Drain(ctx), b.journal.Settle())
	for i, name := range names {
		if !bytes.Equal(image(t, east.volume(name)), image(t, west.volume(name))) {
			t.Fatalf("on the way back volume %s differs", name)
		}
		view, err := b.OpenCut("demoted", name)
		must(t, err)
		p := make([]byte, len(before[i]))
		must(t, view.ReadAt(ctx, p, 0), view.Close())
		if !bytes.Equal(p, before[i]) {
			t.Fatalf("what volume %s held before it was demoted is lost", name)
		}
	}
}
