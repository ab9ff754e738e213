package storage

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/storage/disk"
)

func TestWhatRotsBeforeItsEpochIsShippedIsLostAtBothEndsAndTheGroupGoesOn(t *testing.T) {
	west, east, g, b, content, log := replicated(t)
	ctx := within(t, time.Minute)
	root := west.volume("shop.root")
	must(t, g.SetMode(ctx, ModeLocal)) // nothing is shipped meanwhile
	must(t, client{root}.WriteAt(ctx, noise(3*4096, 2), 8192, false))
	rot(t, root, 12288+5)
	write(t, west.volume("shop.log"), 0, "of the same epoch")
	must(t, g.SetMode(ctx, ModeAsync), g.Drain(ctx), b.journal.Settle())

	st := g.Status()
	if !st.Connected || st.Lost != 4096 || !strings.Contains(st.Err, "the first at 12288 of volume shop.root") {
		t.Errorf("status %+v", st)
	}
	if !log.says("has rotted before the standby had it") {
		t.Error("nobody was told")
	}
	p := make([]byte, 4096)
	for _, v := range []*Volume{root, east.volume("shop.root")} {
		if _, err := v.disk.ReadAt(p, 12288); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("the block that is lost is read: %v", err)
		}
	}
	for _, off := range []int64{8192, 16384} {
		want, err := read(root, off, 4096)
		must(t, err)
		if _, err := b.volumes[0].disk.ReadAt(p, off); err != nil || !bytes.Equal(p, want) {
			t.Errorf("its neighbour at %d: %v", off, err)
		}
	}
	if _, err := b.volumes[1].disk.ReadAt(p, 0); err != nil || !strings.HasPrefix(string(p), "of the same epoch") {
		t.Errorf("the other volume of its epoch: %v", err)
	}

	must(t, client{root}.WriteAt(ctx, content[12288:16384], 12288, false), g.Drain(ctx), b.journal.Settle())
	if st := g.Status(); st.Lost != 0 || st.Err != "" {
		t.Errorf("after it was written anew: %+v", st)
	}
	if _, err := b.volumes[0].disk.ReadAt(p, 12288); err != nil || !bytes.Equal(p, content[12288:16384]) {
		t.Errorf("what was written anew: %v", err)
	}
}

// TestWhatIsLostIsFoundOutByComparisonsToo has the block in doubt, because the agent restarts.
func TestWhatIsLostIsFoundOutByComparisonsToo(t *testing.T) {
	west, east, g, b, _, _ := replicated(t)
	ctx := within(t, time.Minute)
	must(t, g.SetMode(ctx, ModeLocal))
	root := west.volume("shop.root")
	must(t, client{root}.WriteAt(ctx, noise(4096, 2), 8192, false))
	rot(t, root, 8192)
	west.restart()
	root = west.volume("shop.root")
	g, err := west.get().Protect(background, groupSpec(ModeAsync, Limits{}), east.standbyDialer("shop", nil))
	must(t, err, g.Drain(ctx), b.journal.Settle())
	if st := g.Status(); st.Lost != 4096 || !st.Connected {
		t.Errorf("status %+v", st)
	}
	// What is lost at the standby is no zeroes either, also where it never had anything.
	must(t, client{root}.Zero(ctx, 8192, 4096, false, false), g.Drain(ctx), b.journal.Settle())
	p := make([]byte, 4096)
	if _, err := b.volumes[0].disk.ReadAt(p, 8192); err != nil || !isZero(p) {
		t.Errorf("after zeroes: %v", err)
	}
}

// TestAGroupLosesNoMoreThanRotMayExplain has so many blocks wrong that it must be the checksums which are.
func TestAGroupLosesNoMoreThanRotMayExplain(t *testing.T) {
	west, _, g, b, content, _ := replicated(t)
	ctx := within(t, time.Minute)
	must(t, g.SetMode(ctx, ModeLocal))
	log := west.volume("shop.log")
	const blocks = maxLost + 6
	must(t, client{log}.WriteAt(ctx, noise(blocks*4096, 3), 0, false))
	for i := range int64(blocks) {
		rot(t, log, i*4096)
	}
	point := b.Status().Point
	must(t, g.SetMode(ctx, ModeAsync))
	for !strings.Contains(g.Status().Err, "replication waits") {
		must(t, ctx.Err())
		time.Sleep(time.Millisecond)
	}
	if b.Status().Point != point {
		t.Error("an epoch came to be without what it owes")
	}
	if got, err := read(west.volume("shop.root"), 0, 4096); err != nil || !bytes.Equal(got, content[:4096]) {
		t.Errorf("the rest: %v", err)
	}
	must(t, client{log}.WriteAt(ctx, noise(blocks*4096, 4), 0, false), g.Drain(ctx))
	if st := g.Status(); st.Lost != 0 || st.Err != "" {
		t.Errorf("after they were written anew: %+v", st)
	}
}

func TestACutIsThereWhenKeepReturns(t *testing.T) {
	west, _, g, b := group(t, ModeAsync, Limits{Interval: time.Millisecond})
	ctx := within(t, time.Minute)
	must(t, g.Drain(ctx))
	for i, name := range []string{"a", "b", "c", "d", "e"} {
		write(t, west.volume("shop.root"), int64(i)*4096, name)
		must(t, g.Keep(ctx, name, 0))
		if cuts, err := b.Cuts(); err != nil || len(cuts) != i+1 || cuts[i].Name != name {
			t.Fatalf("cut %s: %v, %v", name, cuts, err)
		}
	}
	must(t, g.SetMode(ctx, ModeLocal))
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := g.Keep(short, "never", 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a link: %v", err)
	}
	must(t, g.SetMode(ctx, ModeAsync), g.Drain(ctx), g.Keep(ctx, "a", 0))
	if cuts, err := b.Cuts(); err != nil || len(cuts) != 5 {
		t.Errorf("a cut that was given up, or made twice: %v, %v", cuts, err)
	}
	if err := g.Keep(ctx, "", 0); err == nil || errors.Is(err, ctx.Err()) && ctx.Err() != nil {
		t.Errorf("a cut without a name: %v", err)
	}
	must(t, g.Drain(ctx))
}

// TestHashesAreOfWhatTheStandbyHasPromised compares a block that is as the standby's disk has it, but not as its journal does: what is
// there is yet to be applied.
func TestHashesAreOfWhatTheStandbyHasPromised(t *testing.T) {
	west, _, g, b, content, _ := replicated(t)
	ctx := within(t, time.Minute)
	root := west.volume("shop.root")
	must(t, g.Keep(ctx, "before", 0), b.journal.Settle())
	// Whoever applies saves for the cut first, and has to wait for the first block, which is being repaired.
	rot(t, b.volumes[0], 0)
	holding, release := make(chan struct{}), make(chan struct{})
	repaired := make(chan error, 1)
	go func() {
		_, err := b.volumes[0].disk.Repair(ctx, disk.Range{Length: 4096}, func(_ context.Context, p []byte, _ int64) error {
			close(holding)
			<-release
			copy(p, content)
			return nil
		})
		repaired <- err
	}()
	<-holding
	must(t, client{root}.WriteAt(ctx, noise(8*4096, 5), 0, false), g.Drain(ctx))
	must(t, g.SetMode(ctx, ModeLocal))
	must(t, client{root}.WriteAt(ctx, content[:8*4096], 0, false)) // as it was before
	// … and it has to be compared, as after a lost link.
	g.mu.Lock()
	g.tracker.Doubt(0, 4096, 7*4096)
	g.mu.Unlock()
	drained := make(chan error, 1)
	must(t, g.SetMode(ctx, ModeAsync))
	go func() { drained <- g.Drain(ctx) }()
	for waits := 0; waits < 50; { // until it is asked for hashes, and has to apply before; or has answered already
		select {
		case err := <-drained:
			drained <- err
			waits = 50
		case <-time.After(time.Millisecond):
			b.mu.Lock()
			if b.incoming != nil && b.incoming.busy.Load() {
				waits++
			}
			b.mu.Unlock()
		}
		must(t, ctx.Err())
	}
	close(release)
	must(t, <-repaired, <-drained, b.journal.Settle())
	if !bytes.Equal(image(t, root), image(t, b.volumes[0])) {
		t.Error("the standby took something for equal that was not")
	}
	if _, err := read(root, 0, 4096); errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
}

// TestACutOfALostBlockCannotBeRead keeps a cut while a block is lost, and has the block written anew: what the cut had there must fail as
// the volume did, and neither be what was there before nor zeroes nor what came later.
func TestACutOfALostBlockCannotBeRead(t *testing.T) {
	west, east, g, b, content, _ := replicated(t)
	ctx := within(t, time.Minute)
	root := west.volume("shop.root")
	must(t, g.Keep(ctx, "right", 0), g.SetMode(ctx, ModeLocal))
	must(t, client{root}.WriteAt(ctx, noise(3*4096, 2), 8192, false))
	rot(t, root, 12288+5)
	must(t, g.SetMode(ctx, ModeAsync), g.Drain(ctx), g.Keep(ctx, "lost", 0), b.journal.Settle())
	if st := g.Status(); st.Lost != 4096 {
		t.Fatalf("status %+v", st)
	}
	around, err := read(root, 8192, 4096)
	must(t, err)
	check := func(when string) {
		t.Helper()
		b, err := east.get().Standby("shop")
		must(t, err)
		cut, err := b.OpenCut("lost", "shop.root")
		must(t, err)
		defer cut.Close()
		p := make([]byte, 4096)
		if err := cut.ReadAt(ctx, p, 12288); !errors.Is(err, syscall.EIO) && !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("%s: what was lost is read: %v", when, err)
		}
		if err := cut.ReadAt(ctx, make([]byte, 3*4096), 8192); err == nil {
			t.Errorf("%s: what was lost is read with its neighbours", when)
		}
		if err := cut.ReadAt(ctx, p, 8192); err != nil || !bytes.Equal(p, around) {
			t.Errorf("%s: its neighbour: %v", when, err)
		}
		before, err := b.OpenCut("right", "shop.root")
		must(t, err)
		defer before.Close()
		if err := before.ReadAt(ctx, p, 12288); err != nil || !bytes.Equal(p, content[12288:16384]) {
			t.Errorf("%s: the cut from before: %v", when, err)
		}
	}
	check("while it is lost")
	must(t, client{root}.WriteAt(ctx, noise(4*4096, 8), 8192, false), g.Drain(ctx), b.journal.Settle())
	check("after it was written anew")
	east.restart()
	check("after a restart")
}
