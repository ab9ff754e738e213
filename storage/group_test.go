package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

var twoVolumes = []Spec{{Name: "shop.root", Size: 1 << 20}, {Name: "shop.log", Size: 300 << 10}}

// group is a primary in the west and its standby in the east.
func group(t *testing.T, mode string, limits Limits) (west, east *site, g *Group, b *Standby) {
	t.Helper()
	return groupWith(t, quick, mode, limits)
}

func groupWith(t *testing.T, opts Options, mode string, limits Limits) (west, east *site, g *Group, b *Standby) {
	t.Helper()
	west, east = newSite(t, opts), newSite(t, opts)
	for _, v := range twoVolumes {
		_, err := west.get().Create(background, v, 1)
		must(t, err)
	}
	b, err := east.get().CreateStandby(background, "shop", twoVolumes, 1)
	must(t, err)
	g, err = west.get().Protect(background, groupSpec(mode, limits), east.standbyDialer("shop", nil))
	must(t, err)
	return west, east, g, b
}

func groupSpec(mode string, limits Limits) GroupSpec {
	return GroupSpec{Name: "shop", Volumes: []string{"shop.root", "shop.log"}, Epoch: 1, Mode: mode, Limits: limits}
}

func write(t *testing.T, v *Volume, off int64, content string) {
	t.Helper()
	must(t, client{v}.WriteAt(background, []byte(content), off, false))
}

// noise does not compress.
func noise(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 9))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

func TestTheModeChangesUnderLoadWithoutAnError(t *testing.T) {
	west, east, g, _ := group(t, ModeAsync, Limits{Interval: time.Millisecond})
	ctx, stop := context.WithCancel(within(t, time.Minute))
	var wg sync.WaitGroup
	for k := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 1))
			for ctx.Err() == nil {
				v := west.volume(twoVolumes[rng.IntN(2)].Name)
				err := client{v}.WriteAt(background, noise(1+rng.IntN(9000), rng.Uint64()), rng.Int64N(v.size-9000), rng.IntN(9) == 0)
				if err == nil && rng.IntN(9) == 0 {
					err = client{v}.Flush(background)
				}
				if err != nil {
					t.Errorf("a request failed: %v", err)
					return
				}
			}
		})
	}
	for _, mode := range []string{ModeFlush, ModeSync, ModeAsync, ModeSync, ModeFlush, ModeLocal, ModeSync, ModeLocal, ModeFlush, ModeAsync} {
		if err := g.SetMode(ctx, mode); err != nil {
			t.Fatal(err)
		}
		if mode != ModeLocal {
			must(t, g.Drain(ctx))
		}
	}
	stop()
	wg.Wait()
	must(t, g.Drain(background), east.standbyOf(t).journal.Settle())
	for _, v := range twoVolumes {
		if !bytes.Equal(image(t, west.volume(v.Name)), image(t, east.volume(v.Name))) {
			t.Errorf("volume %s differs", v.Name)
		}
	}
}

func (s *site) standbyOf(t *testing.T) *Standby {
	t.Helper()
	b, err := s.get().Standby("shop")
	must(t, err)
	return b
}

func TestTheSameOperationsInAllModesGiveTheSameDisk(t *testing.T) {
	var want []byte
	for _, mode := range []string{ModeLocal, ModeAsync, ModeFlush, ModeSync} {
		west, east, g, b := group(t, mode, Limits{Interval: time.Millisecond})
		if mode != ModeLocal {
			must(t, g.SetMode(within(t, time.Minute), mode))
		}
		rng := rand.New(rand.NewPCG(5, 5))
		for range 150 {
			v := west.volume(twoVolumes[rng.IntN(2)].Name)
			c, off, n := client{v}, rng.Int64N(v.size-20000), 1+rng.Int64N(20000)
			switch rng.IntN(6) {
			case 0:
				must(t, c.Trim(background, off, n, false))
			case 1:
				must(t, c.Zero(background, off, n, true, rng.IntN(2) == 0))
			case 2:
				must(t, c.Flush(background))
			default:
				must(t, c.WriteAt(background, noise(int(n), rng.Uint64()), off, rng.IntN(5) == 0))
			}
		}
		ends := []*site{west}
		if mode != ModeLocal {
			must(t, g.Drain(within(t, time.Minute)), b.journal.Settle())
			ends = append(ends, east)
		}
		for _, end := range ends {
			got := append(image(t, end.volume("shop.root")), image(t, end.volume("shop.log"))...)
			if want == nil {
				want = got
			}
			if !bytes.Equal(got, want) {
				t.Errorf("in mode %s it is another disk", mode)
			}
		}
	}
}

func TestARestartAndAReturnShipOnlyWhatChanged(t *testing.T) {
	west, east, g, _ := group(t, ModeAsync, Limits{})
	root := west.volume("shop.root")
	must(t, client{root}.WriteAt(background, noise(1<<20, 1), 0, false), g.Drain(within(t, time.Minute)))
	west.restart()
	write(t, west.volume("shop.root"), 5000, "written while nobody replicated")
	g, err := west.get().Protect(background, groupSpec(ModeSync, Limits{}), east.standbyDialer("shop", nil))
	must(t, err, g.Drain(within(t, time.Minute)))
	if shipped := g.Status().Shipped; shipped > 20<<10 {
		t.Errorf("after a restart %d bytes were shipped for one block", shipped)
	}
	must(t, g.SetMode(within(t, time.Minute), ModeSync), g.Fence(within(t, time.Minute), 2))
	parks(t, west.volume("shop.root"))
	must(t, east.standbyOf(t).Promote(background, 2), east.standbyOfErr())
	if !bytes.Equal(image(t, west.volume("shop.root")), image(t, east.volume("shop.root"))) {
		t.Error("a planned move lost something")
	}
	b, err := west.get().Demote(background, "shop", []string{"shop.root", "shop.log"}, 2, "before", time.Hour)
	must(t, err)
	if tail := b.Status().Tail; tail != 0 {
		t.Errorf("%d bytes are said to be lost", tail)
	}
	write(t, east.volume("shop.root"), 0, "changed")
	back := groupSpec(ModeAsync, Limits{})
	back.Epoch = 2
	g, err = east.get().Protect(background, back, west.standbyDialer("shop", nil))
	must(t, err, g.Drain(within(t, time.Minute)))
	if shipped := g.Status().Shipped; shipped > 20<<10 {
		t.Errorf("the way back shipped %d bytes for one block", shipped)
	}
}

// standbyOfErr says that the standby should be gone.
func (s *site) standbyOfErr() error {
	if _, err := s.get().Standby("shop"); !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("the standby is still there: %w", err)
	}
	return nil
}

func TestVerifyNamesAFlippedBlockAndRepairsIt(t *testing.T) {
	west, east, g, b := group(t, ModeAsync, Limits{})
	ctx := within(t, time.Minute)
	must(t, client{west.volume("shop.log")}.WriteAt(background, noise(200<<10, 1), 0, false), g.Drain(ctx), b.journal.Settle())
	found, err := g.Verify(ctx, nil)
	must(t, err)
	if len(found) != 0 {
		t.Fatalf("equal volumes differ at %v", found)
	}
	rot(t, east.volume("shop.log"), 9000)
	found, err = g.Verify(ctx, nil)
	must(t, err, b.journal.Settle())
	if len(found) != 1 || found[0] != (Difference{"shop.log", 8192, 4096}) {
		t.Errorf("it found %v", found)
	}
	if !bytes.Equal(image(t, west.volume("shop.log")), image(t, east.volume("shop.log"))) {
		t.Error("it was not repaired")
	}
}

func TestWritersAreSlowedAtTheBoundsAndLetGoWhenTheLinkStaysDown(t *testing.T) {
	west, east, g, _ := group(t, ModeAsync, Limits{Bytes: 64 << 10, Overflow: 200 * time.Millisecond})
	ctx := within(t, time.Minute)
	root := west.volume("shop.root")
	write(t, root, 0, "a point")
	must(t, g.Drain(ctx), east.get().Close())
	for i := range int64(60) {
		must(t, client{root}.WriteAt(ctx, noise(4096, uint64(i)), i*8192, false))
	}
	st := g.Status()
	if st.Slowed == 0 || !st.Overflow || st.Lag < 60*4096 || st.LagTime == 0 {
		t.Errorf("while the link was down: %+v", st)
	}
	east.open()
	b := east.standbyOf(t)
	if p := b.Status(); !p.Complete || p.Point != g.Status().Point {
		t.Errorf("the standby lost its point: %+v", p)
	}
	must(t, g.Drain(ctx), b.journal.Settle())
	if st := g.Status(); st.Overflow || st.Lag != 0 || st.Resyncing {
		t.Errorf("after the resynchronisation: %+v", st)
	}
	if !bytes.Equal(image(t, root), image(t, east.volume("shop.root"))) {
		t.Error("the standby differs")
	}
}

func TestStandbysRefuseWhatIsNotTheirs(t *testing.T) {
	west, east, g, b := group(t, ModeAsync, Limits{})
	ctx := within(t, time.Minute)
	must(t, g.Drain(ctx))
	wants(t, "promotion at its own epoch", b.Promote(background, 1), ErrStale)
	wants(t, "deletion of a volume of it", east.get().Delete(background, "shop.root", 9), ErrBusy)
	wants(t, "promotion of a volume of it", east.volume("shop.root").Promote(background, 1), ErrRole)
	_, err := east.get().CreateStandby(background, "shop", twoVolumes, 5)
	must(t, err)
	write(t, west.volume("shop.log"), 0, "too late")
	wants(t, "an owner that was replaced", g.Drain(ctx), ErrRefused)
	_, err = east.get().CreateStandby(background, "shop", twoVolumes, 4)
	wants(t, "an older epoch", err, ErrStale)
	must(t, east.get().DeleteStandby(background, "shop", 5), east.get().DeleteStandby(background, "shop", 5))
	if n := len(east.get().Volumes()); n != 0 {
		t.Errorf("%d volumes are left", n)
	}
}

func TestACutIsKeptReadAndRestored(t *testing.T) {
	west, east, g, _ := group(t, ModeAsync, Limits{})
	ctx := within(t, time.Minute)
	write(t, west.volume("shop.root"), 0, "first")
	must(t, g.Keep(ctx, "noon", time.Hour), g.Drain(ctx))
	write(t, west.volume("shop.root"), 0, "later")
	must(t, g.Drain(ctx))
	east.restart()
	b := east.standbyOf(t)
	cuts, err := b.Cuts()
	must(t, err)
	if len(cuts) != 1 || cuts[0].Name != "noon" || cuts[0].Until.IsZero() {
		t.Fatalf("the cuts are %+v", cuts)
	}
	view, err := b.OpenCut("noon", "shop.root")
	must(t, err)
	p := make([]byte, 5)
	must(t, view.ReadAt(ctx, p, 0), view.Close())
	if string(p) != "first" {
		t.Errorf("the cut holds %q", p)
	}
	must(t, west.get().Close(), b.Restore(ctx, "noon"), b.Promote(ctx, 2))
	west.open()
	if got := image(t, east.volume("shop.root"))[:5]; string(got) != "first" {
		t.Errorf("after the restoration it is %q", got)
	}
}

func TestAnotherVersionIsRefusedWithAReason(t *testing.T) {
	_, east, _, _ := group(t, ModeLocal, Limits{})
	conn, err := east.standbyDialer("shop", nil)(background)
	must(t, err)
	defer conn.Close()
	got := make([]byte, 4096)
	f := oldOpen(t)
	_, err = conn.Write(f)
	must(t, err)
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := conn.Read(got)
	if err != nil || !bytes.Contains(got[:n], []byte("run the same release at both ends")) {
		t.Errorf("it answers %q (%v)", got[:n], err)
	}
}

func TestWhatAModePromisesWaitsForTheStandby(t *testing.T) {
	for _, mode := range []string{ModeFlush, ModeSync} {
		west, east, g, _ := group(t, mode, Limits{Strict: true})
		ctx := within(t, time.Minute)
		root := west.volume("shop.root")
		must(t, g.SetMode(ctx, mode), east.get().Close())
		done := make(chan error, 1)
		go func() {
			err := client{root}.WriteAt(ctx, []byte("promised"), 0, false)
			if err == nil && mode == ModeFlush {
				err = client{root}.Flush(ctx)
			}
			done <- err
		}()
		select {
		case err := <-done:
			t.Fatalf("in mode %s it was acknowledged without a standby (%v)", mode, err)
		case <-time.After(30 * time.Millisecond): // the only means there is
		}
		east.open()
		must(t, <-done, west.get().Close(), east.standbyOf(t).Promote(ctx, 2))
		west.open()
		if got := image(t, east.volume("shop.root"))[:8]; string(got) != "promised" {
			t.Errorf("in mode %s the standby holds %q", mode, got)
		}
	}
}
