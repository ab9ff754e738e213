package storage

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"
)

// benchPair is a replicating pair on the real file system (TMPDIR), linked by a socket pair.
func benchPair(b *testing.B, size int64, fill bool) (a, r *Volume) {
	b.Helper()
	var stores [2]*Store
	for i := range stores {
		dir, err := os.MkdirTemp("", "gw-bench-*")
		if err != nil {
			b.Fatal(err)
		}
		s, err := Open(dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _, _ = s.Close(), os.RemoveAll(dir) })
		stores[i] = s
	}
	a, err := stores[0].Create(background, Spec{Name: "v", Size: size}, 1)
	if err == nil && fill {
		p := make([]byte, 1<<20)
		rng := rand.New(rand.NewPCG(1, 1))
		for off := int64(0); off < size && err == nil; off += int64(len(p)) {
			for i := range p[:len(p)/2] { // half of it does not compress
				p[i] = byte(rng.Uint32())
			}
			p[len(p)-1] = 1
			err = client{a}.WriteAt(background, p, off, false)
		}
	}
	if err == nil {
		r, err = stores[1].CreateReplica(background, Spec{Name: "v", Size: size}, 2)
	}
	if err == nil {
		err = a.Replicate(background, 2, func(context.Context) (net.Conn, error) {
			x, y, err := socketPair()
			if err == nil {
				go func() { _ = r.ServeReplica(background, y) }()
			}
			return x, err
		})
	}
	if err != nil {
		b.Fatal(err)
	}
	return a, r
}

func BenchmarkBulk(b *testing.B) {
	const size = 256 << 20
	b.SetBytes(size)
	for b.Loop() {
		b.StopTimer()
		a, _ := benchPair(b, size, true)
		b.StartTimer()
		if err := a.Synchronize(background, 2); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = a.Unfence(background, 2)
		b.StartTimer()
	}
}

func benchWrites(b *testing.B, sync bool) {
	a, _ := benchPair(b, 64<<20, false)
	if sync {
		if err := a.Synchronize(background, 2); err != nil {
			b.Fatal(err)
		}
	}
	p := make([]byte, 4096)
	for i := range p {
		p[i] = byte(i * i)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	b.SetBytes(4096)
	b.ReportAllocs()
	for b.Loop() {
		if err := (client{a}).WriteAt(background, p, rng.Int64N(64<<8)*4096, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAsyncWrite(b *testing.B) { benchWrites(b, false) }
func BenchmarkSyncWrite(b *testing.B)  { benchWrites(b, true) }

func BenchmarkFenceAndPromote(b *testing.B) {
	var fence, promote time.Duration
	for b.Loop() {
		b.StopTimer()
		a, r := benchPair(b, 16<<20, true)
		if err := a.Synchronize(background, 2); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		start := time.Now()
		if err := a.Fence(background, 2); err != nil {
			b.Fatal(err)
		}
		fence += time.Since(start)
		start = time.Now()
		if err := r.Promote(background, 2); err != nil {
			b.Fatal(err)
		}
		promote += time.Since(start)
	}
	b.ReportMetric(float64(fence.Microseconds())/float64(b.N)/1000, "ms/fence")
	b.ReportMetric(float64(promote.Microseconds())/float64(b.N)/1000, "ms/promote")
}
