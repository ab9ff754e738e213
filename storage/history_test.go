package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	runs = flag.Int("storage.runs", 12, "how many random histories to run")
	seed = flag.Uint64("storage.seed", 0, "run this one history alone")
)

const sector = 512

// event is one write of a client, in sectors. begin and end are taken from one counter; end 0 means never acknowledged.
type event struct {
	number       uint64
	first, count int64
	zero         bool
	begin, end   uint64
}

// history is what clients did to a volume.
type history struct {
	mu     sync.Mutex
	clock  atomic.Uint64
	events []*event
}

func (h *history) add(e *event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// check says which sector of the image no order of the writes can explain. A sector is explained by a write of its content
// after whose end no acknowledged write of that sector began; or by zeroes, if none was acknowledged at all.
func (h *history) check(image []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	sectors := make([][]*event, len(image)/sector)
	for _, e := range h.events {
		for s := e.first; s < e.first+e.count; s++ {
			sectors[s] = append(sectors[s], e)
		}
	}
	for s, events := range sectors {
		content := image[s*sector : (s+1)*sector]
		lastBegin := uint64(0)
		for _, e := range events {
			if e.end != 0 {
				lastBegin = max(lastBegin, e.begin)
			}
		}
		ok := lastBegin == 0 && isZero(content)
		for _, e := range events {
			if bytes.Equal(content, e.content(int64(s))) && (e.end == 0 || e.end > lastBegin || e.begin == lastBegin) {
				ok = true
			}
		}
		if !ok {
			return fmt.Errorf("sector %d holds write %d at %d, which %d later writes should have replaced",
				s, binary.BigEndian.Uint64(content), binary.BigEndian.Uint64(content[8:]), len(events))
		}
	}
	return nil
}

// content of a sector: the number of its write and its place, then a pattern.
func (e *event) content(s int64) []byte {
	b := make([]byte, sector)
	if e.zero {
		return b
	}
	binary.BigEndian.PutUint64(b, e.number)
	binary.BigEndian.PutUint64(b[8:], uint64(s))
	for i := 16; i < sector; i++ {
		b[i] = byte(e.number * uint64(i))
	}
	return b
}

// guest writes at random until its context ends: mostly small, some large, most in a hot region so that writes overlap.
func (h *history) guest(ctx context.Context, t *testing.T, v *Volume, rng *rand.Rand) {
	c := client{v}
	for ctx.Err() == nil {
		total := v.size / sector
		e := &event{first: rng.Int64N(total), count: 1 + rng.Int64N(16)}
		if rng.IntN(3) > 0 {
			e.first = rng.Int64N(min(total, 256))
		}
		if rng.IntN(20) == 0 {
			e.count = 1 + rng.Int64N(512)
		}
		e.count = min(e.count, total-e.first)
		e.zero = rng.IntN(8) == 0
		e.begin = h.clock.Add(1)
		e.number = e.begin
		h.add(e)
		off, length := e.first*sector, e.count*sector
		var err error
		switch {
		case e.zero && rng.IntN(2) == 0:
			err = c.Trim(ctx, off, length, false)
		case e.zero:
			err = c.Zero(ctx, off, length, rng.IntN(2) == 0, rng.IntN(8) == 0)
		default:
			p := make([]byte, 0, length)
			for s := e.first; s < e.first+e.count; s++ {
				p = append(p, e.content(s)...)
			}
			err = c.WriteAt(ctx, p, off, rng.IntN(8) == 0)
		}
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("write %d failed: %v", e.number, err) // no fault of the link may reach the guest
			}
			return
		}
		end := h.clock.Add(1)
		h.mu.Lock()
		e.end = end
		h.mu.Unlock()
	}
}

// guests runs several and returns a function that ends them, parked ones too.
func (h *history) guests(t *testing.T, v *Volume, rng *rand.Rand, n int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range n {
		own := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
		wg.Go(func() { h.guest(ctx, t, v, own) })
	}
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func image(t *testing.T, v *Volume) []byte {
	t.Helper()
	b, err := os.ReadFile(v.Status().Path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhateverHappensToTheLinkTheReplicaHoldsEveryAcknowledgedWrite(t *testing.T) {
	if *seed != 0 {
		runHistory(t, *seed)
		return
	}
	for i := range *runs {
		s := uint64(i + 1)
		t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
			t.Parallel()
			runHistory(t, s)
		})
	}
}

// runHistory moves a volume that is being written to, with faults on the way; everything random comes from the seed (the
// schedule of goroutines does not).
func runHistory(t *testing.T, seed uint64) {
	t.Logf("replay with -storage.seed=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	opts := Options{SyncTimeout: 50 * time.Millisecond, LinkTimeout: 200 * time.Millisecond, Backoff: time.Millisecond}
	west, east := newSite(t, opts), newSite(t, opts)
	ctx := within(t, time.Minute)
	spec := Spec{Name: "shop.root", Size: 512 * (512 + rng.Int64N(8192))}
	a, err := west.get().Create(ctx, spec, 1)
	if err != nil {
		t.Fatal(err)
	}
	h := &history{}
	stop := h.guests(t, a, rng, 1+rng.IntN(4))
	epoch := uint64(2)
	for attempts := rng.IntN(3); ; attempts-- {
		if _, err := east.get().CreateReplica(ctx, spec, epoch); err != nil {
			t.Fatal(err)
		}
		last := attempts <= 0
		move(t, ctx, rng, west, east, a, epoch, last)
		if last {
			break
		}
		if err := a.Unfence(ctx, epoch); err != nil {
			t.Fatal(err)
		}
		if err := east.get().Delete(ctx, spec.Name, epoch); err != nil {
			t.Fatal(err)
		}
		epoch++
	}
	stop()
	b := east.volume(spec.Name)
	if err := b.Drained(ctx, epoch); err != nil {
		t.Fatal(err)
	}
	if err := b.Promote(ctx, epoch); err != nil {
		t.Fatal(err)
	}
	imageA, imageB := image(t, a), image(t, b)
	if !bytes.Equal(imageA, imageB) {
		for i := range imageA {
			if imageA[i] != imageB[i] {
				t.Fatalf("the replica differs from the primary from byte %d on (sector %d)", i, i/sector)
			}
		}
	}
	if err := h.check(imageB); err != nil {
		t.Fatal(err)
	}
}

// move drives one attempt as far as its fence, or, if it is to be aborted, to a random point on the way.
func move(t *testing.T, ctx context.Context, rng *rand.Rand, west, east *site, a *Volume, epoch uint64, last bool) {
	t.Helper()
	upTo := 4
	if !last {
		upTo = rng.IntN(5)
	}
	var quiet atomic.Bool
	dial := east.dialer(a.name, faults(rng, &quiet))
	retry := func(what string, verb func() error) {
		t.Helper()
		for {
			err := verb()
			if err == nil {
				return
			}
			if ctx.Err() != nil || !errors.Is(err, ErrLink) {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	maybeRestart := func() {
		if rng.IntN(4) == 0 {
			east.restart()
		}
	}
	retry("replicate", func() error { return a.Replicate(ctx, epoch, dial) })
	maybeRestart()
	if upTo > 0 {
		retry("converge", func() error { return a.Converged(ctx, nil) })
		maybeRestart()
	}
	if upTo > 1 && rng.IntN(4) > 0 {
		retry("synchronize", func() error { return a.Synchronize(ctx, epoch) })
		maybeRestart()
	}
	if upTo > 2 {
		quiet.Store(rng.IntN(2) == 0)
		retry("fence", func() error { return a.Fence(ctx, epoch) })
		maybeRestart()
	}
}
