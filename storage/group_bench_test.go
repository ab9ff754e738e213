package storage

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// delayed is a connection whose far end gets everything later, in order.
type delayed struct {
	net.Conn
	delay time.Duration
	queue chan delivery
}

type delivery struct {
	at time.Time
	p  []byte
}

func newDelayed(c net.Conn, delay time.Duration) *delayed {
	d := &delayed{Conn: c, delay: delay, queue: make(chan delivery, 1<<16)}
	go func() {
		for m := range d.queue {
			time.Sleep(time.Until(m.at))
			if _, err := c.Write(m.p); err != nil {
				return
			}
		}
	}()
	return d
}

func (d *delayed) Write(p []byte) (int, error) {
	d.queue <- delivery{time.Now().Add(d.delay), append([]byte(nil), p...)}
	return len(p), nil
}

// benchGroup is a group in that mode on the real file system (TMPDIR), its standby in memory, over a link with that round trip.
func benchGroup(b *testing.B, mode string, rtt time.Duration) *Volume {
	b.Helper()
	var stores [2]*Store
	for i := range stores {
		dir := fastDir(b) // the standby's disk is another machine's
		if i == 0 {
			var err error
			if dir, err = os.MkdirTemp("", "gw-bench-*"); err != nil {
				b.Fatal(err)
			}
		}
		s, err := Open(dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _, _ = s.Close(), os.RemoveAll(dir) })
		stores[i] = s
	}
	spec := Spec{Name: "v", Size: 64 << 20}
	v, err := stores[0].Create(background, spec, 1)
	if err != nil || mode == "" {
		return v
	}
	standby, err := stores[1].CreateStandby(background, "g", []Spec{spec}, 1)
	if err != nil {
		b.Fatal(err)
	}
	dial := func(context.Context) (net.Conn, error) {
		x, y, err := socketPair()
		if err != nil {
			return nil, err
		}
		near, far := x, y
		if rtt > 0 {
			near, far = newDelayed(x, rtt/2), newDelayed(y, rtt/2)
		}
		go func() { _ = standby.Serve(background, far) }()
		return near, nil
	}
	g, err := stores[0].Protect(background, GroupSpec{Name: "g", Volumes: []string{"v"}, Epoch: 1, Mode: mode}, dial)
	if err == nil {
		err = g.SetMode(background, mode)
	}
	if err == nil {
		err = g.Drain(background)
	}
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func benchGroupWrites(b *testing.B, mode string, rtt time.Duration, depth, flushEvery int) {
	v := benchGroup(b, mode, rtt)
	var wg sync.WaitGroup
	b.SetBytes(4096)
	b.ResetTimer()
	for k := range depth {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 1))
			p := noise(4096, uint64(k))
			for i := k; i < b.N; i += depth {
				p[0]++
				if err := (client{v}).WriteAt(background, p, rng.Int64N(64<<8)*4096, false); err != nil {
					b.Error(err)
				}
				if flushEvery > 0 && i%flushEvery == 0 {
					if err := (client{v}).Flush(background); err != nil {
						b.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkGroup(b *testing.B) {
	const rtt = 20 * time.Millisecond
	for _, c := range []struct {
		name, mode   string
		rtt          time.Duration
		depth, flush int
	}{
		{"local", "", 0, 1, 0},
		{"async", ModeAsync, 0, 1, 0},
		{"sync/20ms/depth1", ModeSync, rtt, 1, 0},
		{"sync/20ms/depth32", ModeSync, rtt, 32, 0},
		{"sync/20ms/flush32", ModeSync, rtt, 1, 32},
		{"flush/20ms/flush32", ModeFlush, rtt, 1, 32},
	} {
		b.Run(c.name, func(b *testing.B) { benchGroupWrites(b, c.mode, c.rtt, c.depth, c.flush) })
	}
}
