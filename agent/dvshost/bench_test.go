package dvshost_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
)

// BenchmarkCall is a request to a process, through its endpoint, by a client of its node and by one of another node.
func BenchmarkCall(b *testing.B) {
	nodes := startNodes(b, nil, "a", "b")
	for _, c := range []struct {
		name, request string
		build         func() ([]byte, error)
	}{{"go", "get key", built.kv}, {"c", "1", built.counter}} {
		nodes["a"].run(b, "shop", c.name, module(b, c.build))
		for name, n := range nodes {
			b.Run(c.name+"/from-"+name, func(b *testing.B) {
				s := n.session(b, "shop")
				for b.Loop() {
					if _, err := s.SendRec(context.Background(), c.name, []byte(c.request)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkOutage is the longest call of a client while a process with so much state moves to and fro; it changes a page with every call. The
// nodes keep their decisions in directories, or in memory.
func BenchmarkOutage(b *testing.B) {
	for _, kib := range []int{64, 2500, 64 << 10} {
		for _, way := range []struct{ frozen, kept bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
			frozen := way.frozen
			b.Run(fmt.Sprintf("%dKiB/frozen=%v/kept=%v", kib, frozen, way.kept), func(b *testing.B) {
				nodes := startNodes(b, func(o *dvshost.NodeOptions) {
					if way.kept {
						o.State = b.TempDir()
					}
				}, "a", "b")
				nodes["a"].run(b, "shop", "counter", module(b, built.counter))
				if got := nodes["a"].ask(b, "shop", "counter", fmt.Sprint("fill ", kib<<10)); got != fmt.Sprint(kib<<10) {
					b.Fatalf("filled: %s", got)
				}
				ctx, cancel := context.WithCancel(context.Background())
				var (
					wg      sync.WaitGroup
					longest time.Duration
				)
				s := nodes["b"].session(b, "shop")
				wg.Go(func() {
					for ctx.Err() == nil {
						begin := time.Now()
						if _, err := s.SendRec(context.Background(), "counter", []byte("touch 4096")); err != nil {
							b.Error(err)
							return
						}
						longest = max(longest, time.Since(begin))
						time.Sleep(100 * time.Microsecond)
					}
				})
				held := 0.0
				for b.Loop() {
					for _, m := range [][2]string{{"a", "b"}, {"b", "a"}} {
						held += nodes[m[0]].move(b, "shop", "counter", m[1], frozen).HeldMs
					}
				}
				cancel()
				wg.Wait()
				b.ReportMetric(float64(longest.Microseconds())/1000, "ms-longest-call")
				b.ReportMetric(held/float64(2*b.N), "ms-held")
			})
		}
	}
}
