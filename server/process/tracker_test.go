package process

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// What the kernel says of written pages leaves none out, however memory is written and looked at.
func TestNoWrittenPageIsMissed(t *testing.T) {
	kernel, err := newTracker()
	if errors.Is(err, errTracker) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.close()
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		l, err := newLinear(64<<20, kernel)
		if err != nil {
			t.Fatal(err)
		}
		if l.tracker == nil {
			t.Fatal("the memory is not watched")
		}
		var seen table
		size := uint64(1 << 16)
		for range 200 {
			memory := l.Reallocate(size)
			for range random.IntN(20) {
				memory[random.IntN(len(memory))] = byte(random.Uint32())
			}
			seen.look(memory, l.written())
			for i, p := range seen.pages {
				if !same((*page)(memory[i*PageSize:]), p) {
					t.Fatalf("seed %d: page %d of %d was written, and is missed", seed, i, len(seen.pages))
				}
			}
			switch random.IntN(40) {
			case 0:
				size = min(size+uint64(random.IntN(16))<<16, 8<<20)
			case 1:
				if err := l.clear(); err != nil {
					t.Fatal(err)
				}
			}
		}
		l.Free()
	}
}

// BenchmarkLook is a look at so many MiB of which 16 pages were written, with the kernel's help and without.
func BenchmarkLook(b *testing.B) {
	kernel, err := newTracker()
	if err != nil {
		b.Skip(err)
	}
	defer kernel.close()
	for _, size := range []int{1, 16, 64} {
		for _, t := range []*tracker{kernel, nil} {
			b.Run(fmt.Sprintf("%dMiB/kernel=%v", size, t != nil), func(b *testing.B) {
				l, err := newLinear(64<<20, t)
				if err != nil {
					b.Fatal(err)
				}
				defer l.Free()
				memory := l.Reallocate(uint64(size) << 20)
				for i := 0; i < len(memory); i += PageSize {
					memory[i] = 1
				}
				var seen table
				seen.look(memory, l.written())
				for b.Loop() {
					for i := range 16 {
						memory[i*len(memory)/16]++
					}
					seen.look(memory, l.written())
				}
			})
		}
	}
}
