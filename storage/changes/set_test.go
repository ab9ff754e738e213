package changes

import (
	"math/rand/v2"
	"testing"
)

// TestTheSetAgreesWithItsSlowTwin compares it with a slice of bools.
func TestTheSetAgreesWithItsSlowTwin(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 0))
		size := 512 * (1 + rng.Int64N(4000))
		if seed%3 == 0 {
			size = 512 * (1 + rng.Int64N(400_000)) // several pages
		}
		s, other := NewSet(size), NewSet(size)
		twin, otherTwin := make([]bool, s.blocks), make([]bool, s.blocks)
		for range 200 {
			off := rng.Int64N(size)
			length := rng.Int64N(min(size-off, 1<<uint(rng.IntN(26))) + 1)
			change := func(s *Set, twin []bool, on bool) {
				if on {
					s.Mark(off, length)
				} else {
					s.Clear(off, length)
				}
				for i := off / BlockSize; length > 0 && i <= (off+length-1)/BlockSize; i++ {
					twin[i] = on
				}
			}
			switch rng.IntN(40) {
			case 0:
				s.Merge(other)
				for i, on := range otherTwin {
					twin[i] = twin[i] || on
				}
			case 1:
				s.Reset()
				clear(twin)
			case 2, 3, 4, 5:
				change(other, otherTwin, rng.IntN(2) == 0)
			default:
				change(s, twin, rng.IntN(2) == 0)
			}
			from, most := rng.Int64N(size), int64(BlockSize*(1+rng.IntN(8)))
			gotOff, gotLength := s.Next(from, most)
			wantOff, wantLength, count := slowNext(twin, from/BlockSize, most/BlockSize)
			if gotOff != wantOff*BlockSize && wantLength > 0 || gotLength != wantLength*BlockSize || s.Count() != count {
				t.Fatalf("seed %d: Next(%d) is %d+%d with %d set, want blocks %d+%d with %d", seed, from, gotOff, gotLength, s.Count(), wantOff, wantLength, count)
			}
			any, all := false, true
			for i := from / BlockSize; i <= (min(from+most, size)-1)/BlockSize; i++ {
				any, all = any || twin[i], all && twin[i]
			}
			if got := s.Any(from, min(most, size-from)); got != any {
				t.Fatalf("seed %d: Any(%d, %d) is %v", seed, from, most, got)
			}
			if got := s.All(from, min(most, size-from)); got != all {
				t.Fatalf("seed %d: All(%d, %d) is %v", seed, from, most, got)
			}
		}
	}
}

func slowNext(twin []bool, from, most int64) (first, length, count int64) {
	first = -1
	for i, on := range twin {
		if on {
			count++
			if first < 0 || first < from && int64(i) >= from {
				first = int64(i)
			}
		}
	}
	if first < 0 {
		return 0, 0, 0
	}
	for i := first; i < int64(len(twin)) && twin[i] && length < most; i++ {
		length++
	}
	return first, length, count
}

// BenchmarkMark is what a small write costs: while nothing is owed, and while the last blocks are.
func BenchmarkMark(b *testing.B) {
	const blocks = 1 << 18
	for name, owed := range map[string]int64{"nothing owed": 0, "64 blocks owed": 64} {
		b.Run(name, func(b *testing.B) {
			t := NewTracker(1, []int64{1 << 40}, []Marks{noMarks{}})
			for i := range owed {
				t.Mark(0, i*blocks/owed*BlockSize, BlockSize)
			}
			t.Cut()
			rng := rand.New(rand.NewPCG(1, 1))
			var few [8]Span
			b.ReportAllocs()
			for b.Loop() {
				off := rng.Int64N(blocks) * BlockSize
				t.Mark(0, off, BlockSize)
				t.Owed(0, off, BlockSize, few[:0])
			}
		})
	}
}

type noMarks struct{}

func (noMarks) Mark(_, _ int64)  {}
func (noMarks) Clear(_, _ int64) {}
func (noMarks) Grain() int64     { return 16 * BlockSize }
