package storage

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var (
	background = context.Background()
	small      = Spec{Name: "shop.root", Size: 1 << 20}
	quick      = Options{SyncTimeout: 200 * time.Millisecond, LinkTimeout: 500 * time.Millisecond, Backoff: time.Millisecond}
)

// must ends the test on the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// wants says that the error must be of that kind.
func wants(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// pair is a primary at epoch 1 in the west and its replica at epoch 2 in the east.
func pair(t *testing.T) (west, east *site, a, b *Volume) {
	t.Helper()
	west, east = newSite(t, quick), newSite(t, quick)
	a, err := west.get().Create(background, small, 1)
	must(t, err)
	b, err = east.get().CreateReplica(background, small, 2)
	must(t, err)
	return west, east, a, b
}

// fenced is a pair whose primary holds "old" and is fenced for epoch 2.
func fenced(t *testing.T) (west, east *site, a, b *Volume) {
	t.Helper()
	west, east, a, b = pair(t)
	must(t, client{a}.WriteAt(background, []byte("old"), 0, false))
	must(t, a.Replicate(background, 2, east.dialer(a.name, nil)), a.Converged(background, nil), a.Synchronize(background, 2), a.Fence(background, 2))
	return west, east, a, b
}

func TestCreationIsIdempotentAndRefusesWhatDiffers(t *testing.T) {
	s := newSite(t, quick).get()
	v, err := s.Create(background, small, 3)
	must(t, err)
	again, err := s.Create(background, small, 3)
	must(t, err)
	if again != v {
		t.Error("the second Create made another volume")
	}
	for name, do := range map[string]func() error{
		"older epoch":             func() error { _, err := s.Create(background, small, 2); return err },
		"newer epoch":             func() error { _, err := s.Create(background, small, 4); return err },
		"other size":              func() error { _, err := s.Create(background, Spec{Name: small.Name, Size: 512}, 3); return err },
		"replica over a primary":  func() error { _, err := s.CreateReplica(background, small, 3); return err },
		"later replica over that": func() error { _, err := s.CreateReplica(background, small, 9); return err },
	} {
		wants(t, name, do(), ErrExists)
	}
	for _, bad := range []Spec{{Name: "", Size: 512}, {Name: "../x", Size: 512}, {Name: ".x", Size: 512}, {Name: "A", Size: 512}, {Name: "a", Size: 0}, {Name: "a", Size: 513}, {Name: "a", Size: -512}} {
		if _, err := s.Create(background, bad, 1); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	_, err = s.CreateReplica(background, Spec{Name: "huge", Size: 1 << 60}, 1)
	wants(t, "a replica larger than the disk", err, ErrNoSpace)
	_, err = s.Volume("huge")
	wants(t, "a volume that is not there", err, ErrNotFound)
}

func TestDeletionRespectsEpochs(t *testing.T) {
	west, east, a, _ := fenced(t)
	wants(t, "delete the fenced source at its old epoch", west.get().Delete(background, a.name, 1), ErrStale)
	wants(t, "delete the replica at an older epoch", east.get().Delete(background, a.name, 1), ErrStale)
	must(t, a.Unfence(background, 2))
	wants(t, "release of an aborted attempt", west.get().Delete(background, a.name, 2), ErrStale)
	must(t, west.get().Delete(background, a.name, 1), west.get().Delete(background, a.name, 1))
	must(t, east.get().Delete(background, a.name, 2))
	if left := len(west.get().Volumes()) + len(east.get().Volumes()); left != 0 {
		t.Errorf("%d volumes are left", left)
	}
	if entries, _ := os.ReadDir(west.dir); len(entries) != 1 {
		t.Errorf("the folder still has %v", entries)
	}
}

func TestOnlyOneProcessOpensAStore(t *testing.T) {
	s := newSite(t, quick)
	_, err := Open(s.dir, quick)
	wants(t, "a second Open", err, ErrLocked)
}

func TestAMoveEndToEnd(t *testing.T) {
	west, east, a, b := fenced(t)
	must(t, b.Drained(background, 2), b.Promote(background, 2), b.Promote(background, 2), b.Drained(background, 2))
	must(t, client{b}.WriteAt(background, []byte("new"), 512, true), b.Forget(background, 2))
	must(t, west.get().Delete(background, a.name, 2))
	east.restart()
	b = east.volume(a.name)
	if st := b.Status(); st.Role != RolePrimary || st.Epoch != 2 {
		t.Errorf("after a restart it is %+v", st)
	}
	if got := image(t, b)[:515]; !bytes.Equal(got[:3], []byte("old")) || !bytes.Equal(got[512:], []byte("new")) {
		t.Error("content is lost")
	}
	// … and back again, under a later epoch.
	_, err := west.get().CreateReplica(background, small, 3)
	must(t, err)
	must(t, b.Replicate(background, 3, west.dialer(a.name, nil)), b.Fence(background, 3))
	a = west.volume(a.name)
	must(t, a.Promote(background, 3))
	if !bytes.Equal(image(t, a), image(t, b)) {
		t.Error("the way back lost something")
	}
}

func TestStaleEpochsAreRefused(t *testing.T) {
	_, east, a, b := pair(t)
	dial := east.dialer(a.name, nil)
	must(t, a.Replicate(background, 2, dial))
	wants(t, "replicate for an older attempt", a.Replicate(background, 1, dial), ErrStale)
	wants(t, "synchronize for an older attempt", a.Synchronize(background, 1), ErrStale)
	wants(t, "synchronize for another attempt", a.Synchronize(background, 3), ErrNoSession)
	wants(t, "fence for an older attempt", a.Fence(background, 1), ErrStale)
	wants(t, "unfence for an older attempt", a.Unfence(background, 1), ErrStale)
	wants(t, "promote an incomplete replica", b.Promote(background, 2), ErrIncomplete)
	wants(t, "promote at an older epoch", b.Promote(background, 1), ErrStale)
	wants(t, "promote at another epoch", b.Promote(background, 3), ErrRole)
	must(t, a.Unfence(background, 2), a.Unfence(background, 2))
	for what, err := range map[string]error{
		"replicate": a.Replicate(background, 2, dial), "synchronize": a.Synchronize(background, 2), "fence": a.Fence(background, 2),
	} {
		wants(t, what+" for an aborted attempt", err, ErrStale)
	}
	wants(t, "a session of an epoch that the replica does not have", a.Replicate(background, 3, dial), ErrRefused)
	must(t, east.get().Delete(background, a.name, 2))
	_, err := east.get().CreateReplica(background, small, 4)
	must(t, err)
	wants(t, "an older session than the replica", a.Replicate(background, 3, dial), ErrRefused)
	must(t, a.Replicate(background, 4, dial))
	wants(t, "a delayed abort", a.Unfence(background, 3), ErrStale)
	if st := a.Status(); st.Mode != ModeAsync {
		t.Errorf("the delayed abort stopped the session: %+v", st)
	}
}

// parks says whether a write waits, by the only means there is: giving up after a while.
func parks(t *testing.T, v *Volume) {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, 20*time.Millisecond)
	defer cancel()
	before := image(t, v)
	if err := (client{v}).WriteAt(ctx, []byte("intruder"), 0, false); ctx.Err() == nil {
		t.Fatalf("the write came back with %v", err)
	}
	if !bytes.Equal(before, image(t, v)) {
		t.Fatal("the write got through")
	}
}

func TestAFencedPrimaryParksAlsoAfterARestart(t *testing.T) {
	west, _, a, _ := fenced(t)
	parks(t, a)
	west.restart()
	a = west.volume(a.name)
	if st := a.Status(); st.Role != RoleFenced || st.Epoch != 2 {
		t.Fatalf("after a restart it is %+v", st)
	}
	parks(t, a)
	must(t, client{a}.Flush(background), a.Fence(background, 2))
	wants(t, "another attempt while fenced", a.Fence(background, 3), ErrRole)
	wants(t, "abort of another attempt", a.Unfence(background, 3), ErrRole)
	must(t, a.Unfence(background, 2))
	must(t, client{a}.WriteAt(background, []byte("back"), 0, false))
	if st := a.Status(); st.Role != RolePrimary || st.Epoch != 1 {
		t.Fatalf("after the abort it is %+v", st)
	}
}

func TestAnAbortLetsParkedWritesGoOn(t *testing.T) {
	_, _, a, _ := fenced(t)
	done := make(chan error, 1)
	go func() { done <- client{a}.WriteAt(background, []byte("parked"), 0, false) }()
	parks(t, a)
	must(t, a.Unfence(background, 2), <-done)
	if got := image(t, a)[:6]; string(got) != "parked" {
		t.Errorf("the volume holds %q", got)
	}
}

func TestFenceFailsWithoutALinkAndAnAbortHeals(t *testing.T) {
	_, east, a, b := pair(t)
	must(t, a.Replicate(background, 2, east.dialer(a.name, nil)), a.Synchronize(background, 2))
	must(t, east.get().Close())
	must(t, client{a}.WriteAt(background, []byte("alone"), 0, true)) // falls back, does not hang
	if st := a.Status(); st.Mode != ModeAsync || st.Dirty == 0 || st.Err == "" {
		t.Errorf("the fallback does not show: %+v", st)
	}
	wants(t, "fence without a link", a.Fence(background, 2), ErrLink)
	parks(t, a)
	must(t, a.Unfence(background, 2), client{a}.WriteAt(background, []byte("again"), 0, true))
	east.open()
	b = east.volume(b.name)
	wants(t, "promote what was never completed", b.Promote(background, 2), ErrIncomplete)
}

func TestSyncComesBackByItselfAfterTheLinkDoes(t *testing.T) {
	_, east, a, _ := pair(t)
	must(t, a.Replicate(background, 2, east.dialer(a.name, nil)), a.Synchronize(background, 2))
	east.restart()
	ctx := within(t, 20*time.Second)
	src := a.source.Load()
	must(t, src.await(ctx, func() (bool, error) { return src.connections > 1 && src.inSync, nil }))
	must(t, client{a}.WriteAt(background, []byte("both"), 4096, false))
	if got := image(t, east.volume(a.name))[4096:4100]; string(got) != "both" {
		t.Errorf("the replica holds %q", got)
	}
}

func TestAFenceInterruptedByARestartCanGoOn(t *testing.T) {
	west, east, a, _ := pair(t)
	must(t, client{a}.WriteAt(background, bytes.Repeat([]byte("x"), 1<<20), 0, false))
	must(t, a.Replicate(background, 2, east.dialer(a.name, nil)))
	ctx, cancel := context.WithCancel(background)
	cancel()
	if err := a.Fence(ctx, 2); err == nil {
		t.Log("the fence was quicker than its end")
	}
	west.restart()
	a = west.volume(a.name)
	parks(t, a)
	must(t, a.Replicate(background, 2, east.dialer(a.name, nil)), a.Fence(background, 2))
	b := east.volume(a.name)
	must(t, b.Promote(background, 2))
	if !bytes.Equal(image(t, a), image(t, b)) {
		t.Error("the replica differs")
	}
}

func TestAReplicaThatWasMadeAnewGetsEverythingAgain(t *testing.T) {
	_, east, a, _ := pair(t)
	must(t, client{a}.WriteAt(background, []byte("first"), 0, false))
	must(t, a.Replicate(background, 2, east.dialer(a.name, nil)), a.Synchronize(background, 2))
	must(t, east.get().Delete(background, a.name, 2))
	_, err := east.get().CreateReplica(background, small, 2)
	must(t, err)
	must(t, a.Fence(background, 2))
	if got := image(t, east.volume(a.name))[:5]; string(got) != "first" {
		t.Errorf("the new replica holds %q", got)
	}
}

func TestWhatTheSourceTrimmedWhileAwayIsZeroAtTheReplica(t *testing.T) {
	west, east, a, _ := pair(t)
	must(t, client{a}.WriteAt(background, bytes.Repeat([]byte("x"), 1<<19), 1000, false))
	must(t, a.Replicate(background, 2, east.dialer(a.name, nil)), a.Synchronize(background, 2))
	west.restart()
	a = west.volume(a.name)
	must(t, client{a}.Trim(background, 4096, 1<<18, false))
	must(t, a.Replicate(background, 2, east.dialer(a.name, nil)), a.Fence(background, 2))
	if !bytes.Equal(image(t, a), image(t, east.volume(a.name))) {
		t.Error("the replica still has what was trimmed")
	}
}

func TestZeroesAndHolesCostNextToNothing(t *testing.T) {
	west, east := newSite(t, quick), newSite(t, quick)
	spec := Spec{Name: "big", Size: 8 << 30}
	a, err := west.get().Create(background, spec, 1)
	must(t, err)
	must(t, client{a}.WriteAt(background, []byte("a"), 0, false), client{a}.WriteAt(background, make([]byte, 1<<20), 4<<30, false))
	must(t, client{a}.WriteAt(background, []byte("z"), spec.Size-1, false))
	if free, err := east.get().Free(); err != nil || free < spec.Size {
		t.Skipf("%d bytes free for a replica of %d (%v)", free, spec.Size, err)
	}
	b, err := east.get().CreateReplica(background, spec, 2)
	must(t, err)
	for range 2 { // the second session finds a replica that is not fresh and goes over every hole
		must(t, a.Replicate(background, 2, east.dialer(a.name, nil)), a.Synchronize(background, 2))
		if shipped := a.Status().Shipped; shipped > 64<<10 {
			t.Errorf("%d bytes were shipped", shipped)
		}
		west.restart()
		a = west.volume("big")
	}
	if st := b.Status(); st.Allocated > 1<<20 {
		t.Errorf("the replica occupies %d bytes", st.Allocated)
	}
}

func TestImportKeepsHolesAndRefusesWhatDoesNotFit(t *testing.T) {
	s := newSite(t, quick)
	v, err := s.get().Create(background, Spec{Name: "root", Size: 64 << 20}, 1)
	must(t, err)
	must(t, client{v}.WriteAt(background, []byte("old"), 50<<20, false))
	path := filepath.Join(fastDir(t), "image")
	f, err := os.Create(path)
	must(t, err)
	_, err1 := f.WriteAt([]byte("boot"), 0)
	_, err2 := f.WriteAt([]byte("tail"), 40<<20)
	must(t, err1, err2)
	var last, total int64
	must(t, v.Import(background, path, func(d, t int64) { last, total = d, t }))
	if last != total || total == 0 || total > 1<<20 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	got := image(t, v)
	if string(got[:4]) != "boot" || string(got[40<<20:40<<20+4]) != "tail" || !isZero(got[50<<20:]) {
		t.Error("the content is wrong")
	}
	if st := v.Status(); st.Allocated > 1<<20 {
		t.Errorf("holes were filled: %d bytes", st.Allocated)
	}
	must(t, f.Truncate(65<<20), f.Close())
	if err := v.Import(background, path, nil); err == nil {
		t.Error("an image larger than the volume was accepted")
	}
}

func TestALaterConnectionReplacesTheOneBefore(t *testing.T) {
	_, east, a, b := pair(t)
	_ = a
	x, err := east.dialer(b.name, nil)(background)
	must(t, err)
	defer x.Close()
	src, err := newSource(a, 2, nil)
	must(t, err)
	hello := func(c net.Conn, number uint64) error {
		r, err := newTestReader(t, c)
		must(t, err)
		_, err = src.greet(c, r, number)
		return err
	}
	must(t, hello(x, 2))
	y, err := east.dialer(b.name, nil)(background)
	must(t, err)
	defer y.Close()
	must(t, hello(y, 3))
	if _, err := x.Read(make([]byte, 1)); err == nil {
		t.Error("the old connection is still served")
	}
	z, err := east.dialer(b.name, nil)(background)
	must(t, err)
	defer z.Close()
	wants(t, "a connection from before", hello(z, 1), ErrRefused)
}

func TestADamagedVolumeDoesNotKeepTheOthersFromBeingServed(t *testing.T) {
	s := newSite(t, quick)
	for _, name := range []string{"good", "bad", "unborn"} {
		_, err := s.get().Create(background, Spec{Name: name, Size: 512}, 1)
		must(t, err)
	}
	must(t, s.get().Close())
	must(t, os.WriteFile(filepath.Join(s.dir, "bad", metaName), []byte("{"), 0o600), os.Remove(filepath.Join(s.dir, "unborn", metaName)))
	s.open()
	all := s.get().Volumes()
	if len(all) != 2 || all[0].Name != "bad" || all[0].Err == "" || all[1].Role != RolePrimary {
		t.Errorf("the store has %+v", all)
	}
	_, err := s.get().Create(background, Spec{Name: "bad", Size: 512}, 1)
	wants(t, "create over a damaged volume", err, ErrExists)
	if err := s.get().Delete(background, "bad", 9); err == nil {
		t.Error("a damaged volume was deleted")
	}
}

func TestASpoiledReplicaIsNeverPromoted(t *testing.T) {
	_, east, a, b := fenced(t)
	_ = b.spoil(errors.New("the disk is on fire"))
	wants(t, "promote", b.Promote(background, 2), ErrIncomplete)
	east.restart()
	b = east.volume(a.name)
	wants(t, "promote after a restart", b.Promote(background, 2), ErrIncomplete)
	must(t, a.Unfence(background, 2))
}

func TestInSyncModeAnAcknowledgedWriteIsAtTheReplicaAlready(t *testing.T) {
	_, east, a, b := pair(t)
	h := &history{}
	stop := h.guests(t, a, rand.New(rand.NewPCG(1, 1)), 3)
	must(t, a.Replicate(background, 2, east.dialer(a.name, nil)), a.Synchronize(background, 2))
	stop()
	for i := range 50 {
		p := []byte{1, byte(i)}
		must(t, client{a}.WriteAt(background, p, int64(i*1000), false))
		got := make([]byte, 2)
		_, err := b.disk.ReadAt(got, int64(i*1000))
		must(t, err)
		if a.Status().Mode == ModeSync && !bytes.Equal(got, p) {
			t.Fatalf("write %d is not at the replica", i)
		}
	}
	if a.Status().Mode == ModeSync && !bytes.Equal(image(t, a), image(t, b)) {
		t.Error("in sync mode and at rest, the two differ")
	}
}
