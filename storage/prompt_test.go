package storage

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/storage/disk"
)

// TestWhatIsDoneAtOnceIsOrderedAndReplicatedToo writes through the quick path in every mode that has it.
func TestWhatIsDoneAtOnceIsOrderedAndReplicatedToo(t *testing.T) {
	west, east, g, b := group(t, ModeAsync, Limits{Interval: time.Millisecond})
	ctx := within(t, time.Minute)
	v := west.volume("shop.root")
	must(t, g.Drain(ctx))
	c := client{v}
	must(t, c.WriteAt(ctx, noise(64<<10, 1), 0, false)) // the region's mark is made
	for i := range 400 {
		p := noise(4096, uint64(i))
		off := int64(i%16) * 4096
		if done, err := c.TryWriteAt(p, off); err != nil {
			t.Fatal(err)
		} else if !done {
			must(t, c.WriteAt(ctx, p, off, false))
		}
		got := make([]byte, len(p))
		if done, err := c.TryReadAt(got, off); err != nil || done && !bytes.Equal(got, p) {
			t.Fatalf("write %d reads otherwise: %v", i, err)
		}
	}
	must(t, g.Drain(ctx), b.journal.Settle())
	if !bytes.Equal(image(t, v), image(t, east.volume("shop.root"))) {
		t.Error("the standby lacks what was done at once")
	}
	must(t, g.SetMode(ctx, ModeSync))
	if done, _ := c.TryWriteAt(noise(4096, 1), 0); done {
		t.Error("in sync mode a write was answered at once")
	}
	if done, _ := (client{east.volume("shop.root")}).TryWriteAt(noise(4096, 1), 0); done {
		t.Error("a replica took a write")
	}
	v.gate.shut()
	if done, _ := c.TryReadAt(make([]byte, 4096), 0); done {
		t.Error("a shut gate let a read in")
	}
	v.gate.open()
}

// TestAVolumeWithoutChecksumsGetsThem opens one that was made before there were any.
func TestAVolumeWithoutChecksumsGetsThem(t *testing.T) {
	s := newSite(t, quick)
	v, err := s.get().Create(background, Spec{Name: "old", Size: 2<<20 + 512}, 1)
	must(t, err)
	content := noise(100<<10, 3)
	must(t, client{v}.WriteAt(background, content, 1<<20, true))
	path := v.Status().Path
	must(t, s.get().Close(), os.Remove(path+".sums"))
	s.open()
	v = s.volume("old")
	got := make([]byte, len(content))
	must(t, client{v}.ReadAt(background, got, 1<<20))
	if !bytes.Equal(got, content) {
		t.Fatal("the content is another")
	}
	for ctx := within(t, time.Minute); ; runtime.Gosched() { // until upkeep has summed what there was
		if _, unverified := v.disk.Marked(); unverified == 0 {
			break
		}
		must(t, ctx.Err())
	}
	rot(t, v, 1<<20+5000)
	err = client{v}.ReadAt(background, got, 1<<20)
	if !errors.Is(err, disk.ErrCorrupt) || !errors.Is(err, syscall.EIO) {
		t.Errorf("a flipped bit: %v", err)
	}
	if v.Status().Err == "" {
		t.Error("the status keeps quiet about it")
	}
}
