package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// startEndHere runs one end of a group in this process; say has it obey.
func startEndHere(t *testing.T, end groupEnd) (say func(order string) string) {
	t.Helper()
	argument, err := json.Marshal(end)
	if err != nil {
		t.Fatal(err)
	}
	orders, in := io.Pipe()
	out, answers := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		err := serveGroupEnd(string(argument), orders, answers)
		_ = answers.CloseWithError(fmt.Errorf("it has ended: %w", err))
		if err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		_ = in.Close()
		wg.Wait()
	})
	lines := bufio.NewScanner(out)
	answer := func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		return lines.Text()
	}
	if said := answer(); said != "ready" {
		t.Fatal(said)
	}
	return func(order string) string {
		t.Helper()
		if _, err := fmt.Fprintln(in, order); err != nil {
			t.Fatal(err)
		}
		return answer()
	}
}

func TestTheEndsOfAGroupObey(t *testing.T) {
	end := groupEnd{Dir: t.TempDir(), Link: filepath.Join(t.TempDir(), "link"), RTT: time.Millisecond, Rate: 100e6, Volumes: 2, Size: 1 << 20}
	far := startEndHere(t, end)
	end.Dir, end.Near = t.TempDir(), true
	near := startEndHere(t, end)
	for _, order := range []string{"async", "sync", "local", "flush", "none", "async"} {
		if said := near(order); said != "ok" {
			t.Errorf("%s: %s", order, said)
		}
	}
	for _, said := range []string{far("carried"), near("memory")} {
		if n, err := strconv.Atoi(said); err != nil || n <= 0 {
			t.Errorf("it said %q", said)
		}
	}
	c, err := net.Dial("unix", end.socket(1))
	if err != nil {
		t.Fatal(err)
	}
	greeting := make([]byte, 8)
	if _, err := io.ReadFull(c, greeting); err != nil || string(greeting) != "NBDMAGIC" || c.Close() != nil {
		t.Errorf("the volume's server says %q, %v", greeting, err)
	}
}

func TestTheLineIsNeitherTooQuickNorTooWide(t *testing.T) {
	const size = 300 << 10
	end := groupEnd{RTT: 40 * time.Millisecond, Rate: 10 << 20}
	near, in := net.Pipe()
	out, far := net.Pipe()
	var carried atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() { end.line(far, in, &carried) })
	began := time.Now()
	wg.Go(func() {
		_, _ = io.Copy(near, strings.NewReader(strings.Repeat("godwit..", size/8)))
		_ = near.Close()
	})
	got, err := io.ReadAll(out)
	if took := time.Since(began); err != nil || len(got) != size || carried.Load() != size || took < 40*time.Millisecond {
		t.Errorf("%d bytes, %d counted, in %v, %v", len(got), carried.Load(), took, err)
	}
	wg.Wait()
}

func TestNoReplicaAndAsyncAreMeasuredNextToEachOther(t *testing.T) {
	first := map[int]int{}
	for round := range pairRounds {
		turns := groupTurns(round)
		if pair := slices.Sorted(slices.Values(turns[:2])); !slices.Equal(pair, []int{groupNone, groupAsync}) {
			t.Errorf("round %d begins with the columns %v", round, turns[:2])
		}
		if all := len(turns) == groupColumns; all != (round < groupRounds) {
			t.Errorf("round %d has %d columns", round, len(turns))
		}
		first[turns[0]]++
	}
	if first[groupNone] != first[groupAsync] {
		t.Errorf("no replica is first %d times, async %d times", first[groupNone], first[groupAsync])
	}
}
