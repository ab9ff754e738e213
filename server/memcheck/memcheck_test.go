package memcheck

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"testing"
)

// fake is memory of which some regions were never touched.
type fake struct {
	data    []byte
	touched []bool
}

func (f *fake) Bytes() []byte            { return f.data }
func (f *fake) Touched() ([]bool, error) { return f.touched, nil }

func newFake(regions int, r *rand.Rand) *fake {
	f := &fake{data: make([]byte, regions*Region), touched: make([]bool, regions)}
	for i := range f.touched {
		if f.touched[i] = r.IntN(3) > 0; f.touched[i] && r.IntN(4) > 0 {
			for at := i * Region; at < (i+1)*Region; at += 512 {
				f.data[at] = byte(r.Uint32())
			}
		}
	}
	return f
}

func (f *fake) clone() *fake {
	return &fake{data: bytes.Clone(f.data), touched: append([]bool(nil), f.touched...)}
}

func run(t *testing.T, source, destination Memory) (pages int, offered, repaired error) {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Offer(t.Context(), a, source) }()
	pages, repaired = Repair(t.Context(), b, destination)
	return pages, <-done, repaired
}

func TestWhatDiffersIsMendedAndCounted(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		source := newFake(40, r)
		destination := source.clone()
		changed := make(map[int]bool)
		for range r.IntN(12) {
			at := r.IntN(len(destination.data))
			destination.data[at]++
			destination.touched[at/Region] = true
			changed[at/page] = true
		}
		pages, offered, repaired := run(t, source, destination)
		if offered != nil || repaired != nil {
			t.Fatal(offered, repaired)
		}
		if !bytes.Equal(source.data, destination.data) || pages != len(changed) {
			t.Fatalf("%d pages mended, %d differed; equal now: %v", pages, len(changed), bytes.Equal(source.data, destination.data))
		}
	}
}

func TestAMemoryOfAnotherSizeIsRefused(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	_, offered, repaired := run(t, newFake(4, r), newFake(5, r))
	if offered == nil || !errors.Is(repaired, ErrProtocol) {
		t.Fatal(offered, repaired)
	}
}

func TestTheEndOfTheContextEndsBothEnds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ctx, cancel := context.WithCancel(t.Context())
	a, b := net.Pipe()
	defer b.Close()
	done := make(chan error, 1)
	go func() { done <- Offer(ctx, a, newFake(4, r)) }()
	cancel()
	if err := <-done; err == nil {
		t.Fatal("Offer ended well without a destination")
	}
}

func FuzzReadHashes(f *testing.F) {
	f.Add([]byte("GWC2\x00\x00\x00\x00\x00\x01\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08"))
	f.Add([]byte("GWC2"))
	f.Add([]byte("nonsense and more of it"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if all, err := readHashes(bytes.NewReader(in), 1); err == nil && len(all) != 1 {
			t.Fatal("a hash is missing")
		}
	})
}
