package storage

import (
	"io"
	"math/rand/v2"
	"testing"

	"github.com/godwit-project/godwit/storage/wire"
)

func newTestReader(t *testing.T, r io.Reader) (*wire.Reader, error) {
	t.Helper()
	rd, err := wire.NewReader(r)
	if err == nil {
		t.Cleanup(rd.Close)
	}
	return rd, err
}

// TestTheBitmapAgreesWithItsSlowTwin compares it with a slice of bools.
func TestTheBitmapAgreesWithItsSlowTwin(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		size := 512 * (1 + rng.Int64N(4000))
		b := newBitmap(size)
		twin := make([]bool, b.blocks)
		for range 200 {
			off := rng.Int64N(size)
			length := rng.Int64N(min(size-off, 1<<uint(rng.IntN(22))) + 1)
			on := rng.IntN(2) == 0
			b.change(off, length, on)
			for i := off / blockSize; length > 0 && i <= (off+length-1)/blockSize; i++ {
				twin[i] = on
			}
			from, most := rng.Int64N(size), int64(blockSize*(1+rng.IntN(8)))
			gotOff, gotLength := b.next(from, most)
			wantOff, wantLength, count := slowNext(twin, from/blockSize, most/blockSize)
			if gotOff != wantOff*blockSize && wantLength > 0 || gotLength != wantLength*blockSize || b.count != count {
				t.Fatalf("seed %d: next(%d) is %d+%d with %d set, want blocks %d+%d with %d", seed, from, gotOff, gotLength, b.count, wantOff, wantLength, count)
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

func TestIsZero(t *testing.T) {
	p := make([]byte, 4096)
	if !isZero(p) || !isZero(nil) {
		t.Error("zeroes are not seen")
	}
	for _, i := range []int{0, 1, 4095} {
		p[i] = 1
		if isZero(p) {
			t.Errorf("a one at %d is not seen", i)
		}
		p[i] = 0
	}
}
