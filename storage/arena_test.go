package storage

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-project/godwit/storage/changes"
)

func TestAnArenaIsBoundedAndItsMemoryIsUsedAgainWhenNobodyIsAtIt(t *testing.T) {
	var taken atomic.Int64
	a := &arena{taken: &taken}
	spans := []changes.Span{{Off: 4096, Length: 8192}, {Off: 40960, Length: 100}}
	first, ok := a.reserve(spans)
	if !ok || first != 0 || a.used != 3 {
		t.Fatalf("three blocks: %d, %v, %d used", first, ok, a.used)
	}
	for i := range 3 {
		a.block(first + i)[0] = byte(i + 1)
	}
	if a.find(7, 4096) != nil {
		t.Error("a block was found before it was kept")
	}
	a.saving--
	a.keep(7, first, spans)
	for i, off := range []int64{4096, 8192, 40960} {
		if p := a.find(7, off); p == nil || p[0] != byte(i+1) {
			t.Errorf("the block at %d: %v", off, p != nil)
		}
	}
	if a.find(6, 4096) != nil || a.find(7, 0) != nil {
		t.Error("blocks were found that are not there")
	}
	if a.emptied() != a || a.used != 0 || a.find(7, 4096) != nil || a.grown != 1 || a.chunks[0] == nil || taken.Load() != 1 {
		t.Error("it was not emptied, or its memory not kept")
	}
	if a.emptied(); a.grown != 0 || a.chunks[0] != nil || taken.Load() != 0 {
		t.Error("memory that the last epoch did not need was kept")
	}
}

func TestTheArenasOfAStoreShareABound(t *testing.T) {
	var taken atomic.Int64
	a, b := &arena{taken: &taken}, &arena{taken: &taken}
	all := []changes.Span{{Length: arenaMost * arenaChunk * changes.BlockSize}}
	one := []changes.Span{{Length: changes.BlockSize}}
	if _, ok := b.reserve(one); !ok {
		t.Fatal("no memory is left at the beginning")
	}
	if _, ok := a.reserve(all); ok || a.saving != 0 || taken.Load() != 1 {
		t.Error("more was taken than there is, or a part of it")
	}
	next := b.emptied()
	if next == b {
		t.Error("memory that a writer is at was given away")
	}
	if len(b.block(0)) != changes.BlockSize || taken.Load() != 0 {
		t.Error("what was given back is still counted, or no longer there for who is at it")
	}
	if _, ok := a.reserve(all); !ok {
		t.Error("what another arena gave back cannot be had")
	}
	if _, ok := next.reserve(one); ok {
		t.Error("more was taken than there is")
	}
	a.release()
	if _, ok := a.reserve(one); ok || taken.Load() != 0 {
		t.Error("memory was taken by an arena that is over")
	}
	if _, ok := next.reserve(one); !ok {
		t.Error("what was released cannot be had")
	}
}

// Under the race detector.
func TestWritersAreAtTheirBlocksWhileOthersReserve(t *testing.T) {
	var taken atomic.Int64
	a := &arena{taken: &taken}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for writer := range byte(4) {
		wg.Go(func() {
			for range 8 * arenaChunk {
				mu.Lock()
				first, ok := a.reserve([]changes.Span{{Length: changes.BlockSize}})
				mu.Unlock()
				if !ok {
					t.Error("no memory is left")
					return
				}
				a.block(first)[0] = writer
			}
		})
	}
	wg.Wait()
	if a.used != 4*8*arenaChunk || taken.Load() != 4*8 {
		t.Errorf("%d blocks are used, %d chunks taken", a.used, taken.Load())
	}
}

func TestWhatIsPutAsideForAnEpochThatIsGivenUpIsForgotten(t *testing.T) {
	west, _, g, _, _, _ := replicated(t)
	must(t, g.SetMode(within(t, time.Minute), ModeLocal))
	m := west.volume("shop.root").member.Load()
	spans := []changes.Span{{Off: 4096, Length: 4096}}
	for _, given := range []bool{false, true} {
		g.mu.Lock()
		breaks, into := g.breaks, g.arena // the sender, done with its epoch, may take another one
		first, ok := into.reserve(spans)
		g.mu.Unlock()
		if given {
			breaks--
		}
		read := func(p []byte, off int64) (bool, error) {
			_, err := m.v.disk.ReadAt(p, off)
			return true, err
		}
		if !ok || !m.remember(into, first, spans, breaks, read) {
			t.Fatal("it could not be put aside")
		}
		g.mu.Lock()
		if kept := g.tracker.IsAside(0, 4096); kept == given {
			t.Errorf("given up %v, kept %v", given, kept)
		}
		g.tracker.Broken()
		g.mu.Unlock()
	}
}

func TestAWriteThatIsDoneAtOnceKeepsWhatIsOwed(t *testing.T) {
	for name, taken := range map[string]int64{"in memory": 0, "in the file": arenaMost} {
		t.Run(name, func(t *testing.T) { keepsWhatIsOwed(t, taken) })
	}
}

// keepsWhatIsOwed has so many chunks of the memory taken.
func keepsWhatIsOwed(t *testing.T, taken int64) {
	s := newSiteIn(t, t.TempDir(), quick)
	for _, v := range twoVolumes {
		_, err := s.get().Create(background, v, 1)
		must(t, err)
	}
	g, err := s.get().Protect(background, groupSpec(ModeLocal, Limits{}), nil)
	must(t, err)
	root := s.volume("shop.root")
	c, before, after := client{root}, noise(8192, 1), noise(8192, 2)
	must(t, c.WriteAt(background, before, 4096, false))
	s.get().aside.Add(taken)
	g.mu.Lock()
	g.tracker.Cut()
	g.mu.Unlock()
	done, err := c.TryWriteAt(after, 4096)
	must(t, err)
	if !done {
		t.Skip("this file system does not tell what is in the page cache")
	}
	got := make([]byte, 8192)
	must(t, g.readOwed(&groupLink{}, g.members[0], got, 4096))
	if !bytes.Equal(got, before) {
		t.Error("what the epoch owes was replaced")
	}
	if inFile := g.members[0].spilt == 8192; inFile != (taken > 0) {
		t.Errorf("%d bytes are in the file", g.members[0].spilt)
	}
	_, err = root.disk.ReadAt(got, 4096)
	must(t, err)
	if !bytes.Equal(got, after) {
		t.Error("it was not written")
	}
	must(t, s.get().Unprotect(background, g.name, g.epoch))
	if left := s.get().aside.Load(); left != taken {
		t.Errorf("%d chunks are taken after the group ended, %d before it began", left, taken)
	}
}
