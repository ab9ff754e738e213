package changes

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

var runs = flag.Int("changes.runs", 300, "how many random histories to run")

// coarse is a Marks in memory.
type coarse struct {
	grain int64
	on    map[int64]bool
}

func (c coarse) Grain() int64 { return c.grain }
func (c coarse) Mark(off, length int64) {
	for r := off / c.grain; r <= (off+length-1)/c.grain; r++ {
		c.on[r] = true
	}
}

func (c coarse) Clear(off, length int64) {
	for r := off / c.grain; r <= (off+length-1)/c.grain; r++ {
		delete(c.on, r)
	}
}

// image is the blocks of a group's volumes, each a number.
type image [][]int

func (m image) clone() image {
	out := make(image, len(m))
	for i := range m {
		out[i] = slices.Clone(m[i])
	}
	return out
}

func (m image) equal(o image) bool { return slices.EqualFunc(m, o, slices.Equal) }

// world is a primary and a replica that are nothing but slices.
type world struct {
	rng     *rand.Rand
	t       *Tracker
	sizes   []int64
	marks   []coarse
	primary image
	aside   image
	number  int

	cuts     map[uint64]image // what the primary was at each cut
	staged   image            // the replica with the epoch that is coming in
	epochs   []delivered      // handed over entirely, on their way
	replica  image
	replicas uint64 // the epoch that the replica has
}

type delivered struct {
	number uint64
	image  image
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 7)), cuts: map[uint64]image{}}
	for range 1 + w.rng.IntN(3) {
		size := int64(1+w.rng.IntN(60))*BlockSize - int64(w.rng.IntN(2))*512
		w.sizes = append(w.sizes, size)
		w.marks = append(w.marks, coarse{BlockSize * int64(1+w.rng.IntN(16)), map[int64]bool{}})
		w.primary = append(w.primary, make([]int, (size+BlockSize-1)/BlockSize))
	}
	w.aside, w.replica, w.staged = w.primary.clone(), w.primary.clone(), w.primary.clone()
	w.cuts[0] = w.primary.clone()
	w.restart(1)
	return w
}

func (w *world) restart(first uint64) {
	marks := make([]Marks, len(w.marks))
	for i := range marks {
		marks[i] = w.marks[i]
	}
	w.t = NewTracker(first, w.sizes, marks)
}

func (w *world) write() {
	vol := w.rng.IntN(len(w.sizes))
	off := w.rng.Int64N(w.sizes[vol])
	length := 1 + w.rng.Int64N(min(w.sizes[vol]-off, 5*BlockSize))
	w.number++
	w.t.Mark(vol, off, length)
	for _, s := range w.t.Owed(vol, off, length, nil) {
		for b := s.Off / BlockSize; b <= (s.Off+s.Length-1)/BlockSize; b++ {
			w.aside[vol][b] = w.primary[vol][b]
		}
		w.t.Aside(vol, s.Off, s.Length)
	}
	for b := off / BlockSize; b <= (off+length-1)/BlockSize; b++ {
		w.primary[vol][b] = w.number
	}
}

// hand hands over one run, comparing what is in doubt.
func (w *world) hand() {
	for vol := range w.sizes {
		from := w.rng.Int64N(w.sizes[vol])
		off, n := w.t.Next(vol, from, BlockSize*int64(1+w.rng.IntN(4)), false)
		if w.rng.IntN(3) == 0 {
			if o, k := w.t.Next(vol, 0, 8*BlockSize, true); k > 0 {
				for b := o; b < o+k; b += BlockSize {
					if w.staged[vol][b/BlockSize] == w.owed(vol, b) {
						w.t.Handed(vol, b, BlockSize)
					}
				}
				w.t.Compared(vol, o, k)
				return
			}
		}
		if n == 0 {
			continue
		}
		for b := off; b < off+n; b += BlockSize {
			w.staged[vol][b/BlockSize] = w.owed(vol, b)
		}
		w.t.Handed(vol, off, n)
		return
	}
}

func (w *world) owed(vol int, off int64) int {
	if w.t.IsAside(vol, off) {
		return w.aside[vol][off/BlockSize]
	}
	return w.primary[vol][off/BlockSize]
}

func (w *world) breakLink() {
	k := w.rng.IntN(len(w.epochs) + 1) // so many arrive
	for _, e := range w.epochs[:k] {
		w.replica, w.replicas = e.image, e.number
	}
	w.epochs = nil
	w.staged = w.replica.clone()
	if w.rng.IntN(3) == 0 { // the primary's process is killed: only the marks are left
		w.restart(w.replicas + 1)
		for vol, m := range w.marks {
			for r := range m.on {
				w.t.Doubt(vol, r*m.grain, min(m.grain, w.sizes[vol]-r*m.grain))
			}
		}
		return
	}
	w.t.Broken()
	w.t.Committed(w.replicas)
}

func (w *world) check() error {
	if !w.replica.equal(w.cuts[w.replicas]) {
		return fmt.Errorf("the replica is not what the primary was at the end of epoch %d:\n%v\n%v", w.replicas, w.replica, w.cuts[w.replicas])
	}
	for vol, m := range w.marks {
		v := w.t.volumes[vol]
		for b := int64(0); b*BlockSize < v.size; b++ {
			in := v.current.Any(b*BlockSize, 1) || v.owed.Any(b*BlockSize, 1) || v.handed[0].Any(b*BlockSize, 1) || v.handed[1].Any(b*BlockSize, 1)
			if in != v.lacked.Any(b*BlockSize, 1) {
				return fmt.Errorf("block %d of volume %d is lacking: %v, counted as such: %v", b, vol, in, !in)
			}
		}
		for b, x := range w.primary[vol] {
			if x != w.replica[vol][b] && !m.on[int64(b)*BlockSize/m.grain] {
				return fmt.Errorf("block %d of volume %d differs and is not marked", b, vol)
			}
		}
	}
	return nil
}

func TestTheReplicaIsAlwaysAtTheEndOfAnEpoch(t *testing.T) {
	for seed := range uint64(*runs) {
		w := newWorld(seed)
		open := false // an epoch is being handed over
		for step := range 400 {
			switch k := w.rng.IntN(24); {
			case k < 9:
				w.write()
			case k < 18 && open:
				if w.t.Owing() == 0 {
					w.epochs = append(w.epochs, delivered{w.t.cut, w.staged.clone()})
					open = false
				} else {
					w.hand()
				}
			case k < 20 && !open:
				w.cuts[w.t.Cut()] = w.primary.clone()
				open = true
			case k < 23 && len(w.epochs) > 0:
				w.replica, w.replicas = w.epochs[0].image, w.epochs[0].number
				w.epochs = w.epochs[1:]
				w.t.Committed(w.replicas)
			case k == 23 && w.rng.IntN(4) == 0:
				w.breakLink()
				open = false
			}
			if err := w.check(); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
		}
		if !open {
			w.cuts[w.t.Cut()] = w.primary.clone()
		}
		for w.t.Owing() > 0 {
			w.hand()
		}
		w.replica, w.replicas = w.staged, w.t.cut
		w.t.Committed(w.replicas)
		if err := w.check(); err != nil {
			t.Fatalf("seed %d, at the end: %v", seed, err)
		}
		if _, written := w.t.Current(); !written && w.t.Pending() != 0 {
			t.Fatalf("seed %d: %d bytes are pending after everything was committed", seed, w.t.Pending())
		}
	}
}

func TestAnEmptyOtherEndGetsAllAndIsNotCompared(t *testing.T) {
	tr := NewTracker(1, []int64{10 * BlockSize}, []Marks{coarse{BlockSize, map[int64]bool{}}})
	tr.Doubt(0, 0, 10*BlockSize)
	tr.Empty(0)
	tr.Cut()
	if off, n := tr.Next(0, 0, 1<<20, true); n != 0 {
		t.Errorf("%d bytes at %d are compared", n, off)
	}
	if off, n := tr.Next(0, 0, 1<<20, false); off != 0 || n != 10*BlockSize {
		t.Errorf("%d bytes at %d are owed", n, off)
	}
	tr.Handed(0, 0, BlockSize)
	tr.Broken()
	tr.Cut()
	if off, n := tr.Next(0, 0, 1<<20, true); off != 0 || n != BlockSize {
		t.Errorf("what may have arrived is not compared, but %d bytes at %d", n, off)
	}
}
