package storage

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// diary is a log that a test reads.
type diary struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.Write(p)
}

func (d *diary) says(what string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Contains(d.text.String(), what)
}

// replicated is a group whose first volume holds that noise at both ends.
func replicated(t *testing.T) (west, east *site, g *Group, b *Standby, content []byte, log *diary) {
	t.Helper()
	log = &diary{}
	opts := quick
	opts.Logger = slog.New(slog.NewTextHandler(log, nil))
	west, east, g, b = groupWith(t, opts, ModeAsync, Limits{Interval: time.Millisecond})
	content = noise(200<<10, 1)
	must(t, client{west.volume("shop.root")}.WriteAt(background, content, 0, false), g.Drain(within(t, time.Minute)))
	return west, east, g, b, content, log
}

func read(v *Volume, off, n int64) ([]byte, error) {
	p := make([]byte, n)
	return p, client{v}.ReadAt(background, p, off)
}

func TestAFlippedBitUnderARunningGroupIsPutRightFromTheStandby(t *testing.T) {
	west, _, g, _, content, log := replicated(t)
	root := west.volume("shop.root")
	rot(t, root, 9000)
	rot(t, root, 50000)
	if done, err := (client{root}).TryReadAt(make([]byte, 8192), 8192); done {
		t.Errorf("the rotten block was read at once: %v", err)
	}
	got, err := read(root, 100, 60000)
	must(t, err)
	if !bytes.Equal(got, content[100:60100]) {
		t.Error("what was read is not what was written")
	}
	if !bytes.Equal(image(t, root)[:len(content)], content) {
		t.Error("the disk was not put right")
	}
	if n := g.Status().Repaired; n != 2*4096 {
		t.Errorf("the status says that %d bytes were repaired", n)
	}
	if s := root.Status().Err; !strings.Contains(s, "repaired: 4096 bytes at 49152") {
		t.Errorf("the volume's status says %q", s)
	}
	if !log.says("corrupt: 4096 bytes at 8192") || !log.says("repaired: 4096 bytes at 8192") {
		t.Error("the log does not name the block")
	}
	if n, err := g.Repair(background, "shop.root", 0, root.size); n != 0 || err != nil {
		t.Errorf("a right volume was repaired: %d, %v", n, err)
	}
}

func TestAWriteIntoARottenBlockKeepsTheRestOfIt(t *testing.T) {
	west, _, g, b, content, _ := replicated(t)
	root := west.volume("shop.root")
	rot(t, root, 9000)
	write(t, root, 8200, "in the middle")
	copy(content[8200:], "in the middle")
	must(t, g.Drain(within(t, time.Minute)), b.journal.Settle())
	for _, v := range []*Volume{root, b.volumes[0]} {
		if !bytes.Equal(image(t, v)[:len(content)], content) {
			t.Errorf("%s is not what was written", v.disk.Path())
		}
	}
}

func TestTheSenderPutsRightWhatItOwes(t *testing.T) {
	west, east, _, b, content, _ := replicated(t)
	west.restart()
	root := west.volume("shop.root")
	write(t, root, 0, "in the same region as what rots")
	copy(content, "in the same region as what rots")
	rot(t, root, 9000)
	g, err := west.get().Protect(background, groupSpec(ModeAsync, Limits{}), east.standbyDialer("shop", nil))
	must(t, err, g.Drain(within(t, time.Minute)), b.journal.Settle())
	if st := g.Status(); st.Repaired != 4096 || st.Err != "" {
		t.Errorf("status %+v", st)
	}
	for _, v := range []*Volume{root, b.volumes[0]} {
		if !bytes.Equal(image(t, v)[:len(content)], content) {
			t.Errorf("%s is not what was written", v.disk.Path())
		}
	}
}

func TestWhatNobodyHasRightIsAnError(t *testing.T) {
	west, _, g, b, content, log := replicated(t)
	ctx := within(t, time.Minute)
	root := west.volume("shop.root")
	must(t, b.journal.Settle())
	rot(t, root, 9000)
	rot(t, b.volumes[0], 9000)
	if _, err := read(root, 8192, 4096); !errors.Is(err, syscall.EIO) {
		t.Errorf("rotten at both ends: %v", err)
	}
	if st := g.Status(); !st.Connected || st.Err != "" || !log.says("cannot be put right") {
		t.Errorf("an answer that there is none: %+v", st)
	}
	must(t, client{root}.WriteAt(ctx, content[8192:12288], 8192, false), g.Drain(ctx))

	must(t, g.SetMode(ctx, ModeLocal)) // the link is cut
	must(t, client{root}.WriteAt(ctx, noise(4096, 2), 20480, false))
	rot(t, root, 20480)
	rot(t, root, 40960)
	for _, off := range []int64{20480, 40960} {
		if _, err := read(root, off, 4096); !errors.Is(err, syscall.EIO) {
			t.Errorf("without a link: %v", err)
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = g.SetMode(ctx, ModeAsync) })
	for linked := false; !linked; { // the epoch that owes the new content cannot be had, but what is asked for between is answered
		got, err := read(root, 40960, 4096)
		linked = err == nil && bytes.Equal(got, content[40960:45056])
		if ctx.Err() != nil {
			t.Fatal("what the standby has was not fetched")
		}
	}
	if got, err := read(root, 20480, 4096); !errors.Is(err, syscall.EIO) {
		t.Errorf("what the standby has of before was taken: %v, %v", bytes.Equal(got, content[20480:24576]), err)
	}
	must(t, client{root}.WriteAt(ctx, content[20480:24576], 20480, false), g.Drain(ctx))
	if got, err := read(root, 0, int64(len(content))); err != nil || !bytes.Equal(got, content) {
		t.Errorf("in the end: %v", err)
	}
}
