package wan

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const record = 16 << 10

// sends lets one writer of each of these classes send flat out for ten seconds of a budget of 80 Mbit/s, and returns the
// share of the 100 MB that each class got.
func sends(t *testing.T, classes ...Class) map[Class]float64 {
	t.Helper()
	got := map[Class]float64{}
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(80_000_000)
		end := time.Now().Add(10 * time.Second)
		sent := make(chan struct {
			class Class
			bytes int
		})
		for _, c := range classes {
			go func() {
				own, bytes := turn{ready: make(chan struct{}, 1)}, 0
				for time.Now().Before(end) {
					b.take(c, record, &own)
					bytes += record
				}
				sent <- struct {
					class Class
					bytes int
				}{c, bytes}
			}()
		}
		for range classes {
			s := <-sent
			got[s.class] += float64(s.bytes) / 100e6
		}
	})
	return got
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if got < want-0.02 || got > want+0.02 {
		t.Errorf("%s got %.3f of the line, want %.3f", what, got, want)
	}
}

func TestABudgetIsSharedByUrgency(t *testing.T) {
	near(t, "bulk alone", sends(t, Bulk)[Bulk], 1)
	two := sends(t, Bulk, Sync)
	near(t, "sync beside bulk", two[Sync], 7./8)
	near(t, "bulk beside sync", two[Bulk], 1./8)
	all := sends(t, Bulk, Async, Sync, Handover)
	near(t, "a handover beside all", all[Handover], 7./8)
	for _, c := range []Class{Sync, Async, Bulk} {
		near(t, "another beside a handover", all[c], 1./24)
	}
	near(t, "three of a class", sends(t, Async, Async, Async)[Async], 1)
	near(t, "one of a later release", sends(t, 9, Handover)[Handover], 7./8)
}

// What is urgent now does not stand behind what was not.
func TestAnUrgentPieceGoesNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(8_000_000) // a record takes 16 ms
		end := time.Now().Add(time.Second)
		var others sync.WaitGroup
		defer others.Wait()
		for range 20 {
			others.Go(func() {
				own := turn{ready: make(chan struct{}, 1)}
				for time.Now().Before(end) {
					b.take(Bulk, record, &own)
				}
			})
		}
		own := turn{ready: make(chan struct{}, 1)}
		for range 20 {
			time.Sleep(30 * time.Millisecond)
			start := time.Now()
			b.take(Handover, record, &own)
			if took := time.Since(start); took > 34*time.Millisecond { // the piece under way, and perhaps one that had waited longest
				t.Errorf("it waited %v", took)
			}
		}
		if b.Waited(Bulk) == 0 || b.Waited(Handover) == 0 {
			t.Error("nobody is said to have waited")
		}
	})
}

func TestNoBudgetIsNoLimit(t *testing.T) {
	b := NewBudget(0)
	b.take(Bulk, 1<<40, nil)
	if b.Waited(Bulk) != 0 {
		t.Error("somebody waited")
	}
}

func BenchmarkTake(b *testing.B) {
	budget := NewBudget(1 << 60)
	own := turn{ready: make(chan struct{}, 1)}
	b.ReportAllocs()
	for b.Loop() {
		budget.take(Sync, record, &own)
	}
}

func TestStreamsKeepToTheirBudget(t *testing.T) {
	p := newPair(t, echo)
	p.dialer.Budget = NewBudget(16_000_000)
	s, err := p.dialer.Dial(t.Context(), p.addr, Hello{Kind: "memory", Service: "shop", Epoch: 7, Class: Async})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	go func() { _, _ = io.Copy(io.Discard, s) }()
	if _, err := s.Write(make([]byte, 512<<10)); err != nil {
		t.Fatal(err)
	}
	if p.dialer.Budget.Waited(Async) == 0 {
		t.Error("half a megabyte at 2 MB/s waited for nothing")
	}
}
