package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// rotting is a disk that knows which of its blocks are not what was written.
type rotting struct {
	*memFile
	bad map[int64]bool
}

func (d rotting) ReadAt(p []byte, off int64) (int, error) {
	for b := off / block; b*block < off+int64(len(p)); b++ {
		if d.bad[b] {
			return 0, syscall.EIO
		}
	}
	return d.memFile.ReadAt(p, off)
}

func (d rotting) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.memFile.WriteAt(p, off)
	if err == nil {
		d.heal(off, int64(len(p)))
	}
	return n, err
}

func (d rotting) Zero(off, length int64) error {
	err := d.memFile.Zero(off, length)
	if err == nil {
		d.heal(off, length)
	}
	return err
}

func (d rotting) heal(off, length int64) {
	for b := off / block; b < (off+length)/block; b++ {
		delete(d.bad, b)
	}
}

func (d rotting) Salvage(p []byte, off int64) error { return readFull(d.memFile, p, off) }

func (d rotting) Condemn(off, length int64) error {
	for b := off / block; b*block < off+length; b++ {
		d.bad[b] = true
	}
	return nil
}

// hold puts content into a block behind everybody's back.
func (d rotting) hold(b int64, fill byte) {
	copy(d.content[b*block:], blockOf(fill))
	copy(d.durable[b*block:], blockOf(fill))
}

const rotBlocks = 12

func newRotting(fs *memFS) rotting {
	return rotting{&memFile{fs: fs, content: make([]byte, rotBlocks*block), durable: make([]byte, rotBlocks*block)}, map[int64]bool{}}
}

func blockOf(fill byte) []byte { return bytes.Repeat([]byte{fill}, block) }

func epoch(t *testing.T, j *Journal, number uint64, put func()) {
	t.Helper()
	must(t, j.Begin(number))
	put()
	must(t, j.Commit(number, time.Unix(int64(number), 0)), j.Settle())
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// wants reads blocks of a cut: 0 stands for one that cannot be read.
func wants(t *testing.T, j *Journal, cut string, want ...byte) {
	t.Helper()
	v, err := j.OpenCut(cut)
	must(t, err)
	defer v.Close()
	for b, fill := range want {
		p := make([]byte, block)
		err := v.ReadAt(0, p, int64(b)*block)
		switch {
		case fill == 0 && !errors.Is(err, syscall.EIO):
			t.Errorf("block %d of cut %s is read, as %d: %v", b, cut, p[0], err)
		case fill != 0 && (err != nil || !bytes.Equal(p, blockOf(fill))):
			t.Errorf("block %d of cut %s: %d instead of %d, %v", b, cut, p[0], fill, err)
		}
	}
	if err := v.ReadAt(0, make([]byte, len(want)*block), 0); (err == nil) != (bytes.IndexByte(want, 0) < 0) {
		t.Errorf("all of cut %s at once: %v", cut, err)
	}
}

func TestACutCannotBeReadWhereTheVolumeHadNoRightContent(t *testing.T) {
	fs := newMemFS(rand.New(rand.NewPCG(1, 1)))
	d := newRotting(fs)
	j, err := Open(fs, []Disk{d}, false)
	must(t, err)
	epoch(t, j, 1, func() {
		for b := range int64(4) {
			must(t, j.Put(0, b*block, block, blockOf(byte(10+b))))
		}
	})
	keep := func(name string) {
		_, err := j.Cut(name, time.Time{})
		must(t, err)
	}
	keep("a")
	d.bad[0] = true                                             // rots, and is kept so when it is overwritten
	epoch(t, j, 2, func() { must(t, j.Lose(0, block, block)) }) // its old content is in cut a
	keep("b")                                                   // which has two blocks without right content
	epoch(t, j, 3, func() {
		for b := range int64(3) {
			must(t, j.Put(0, b*block, block, blockOf(byte(20+b))))
		}
	})
	check := func() {
		t.Helper()
		wants(t, j, "b", 0, 0, 12, 13)
		wants(t, j, "a", 0, 11, 12, 13)
	}
	check()
	must(t, j.Close())
	j, err = Open(fs, []Disk{d}, false)
	must(t, err)
	check()
	// What an older cut needs of a newer one goes over to it with its want of content.
	must(t, j.DeleteCut("b"))
	wants(t, j, "a", 0, 11, 12, 13)
	// Going back to it makes the block lost, and nothing else.
	must(t, j.Restore("a"), j.Settle())
	p := make([]byte, block)
	if _, err := d.ReadAt(p, 0); err == nil {
		t.Error("what the cut had not is read after going back to it")
	}
	for b := int64(1); b < 4; b++ {
		if _, err := d.ReadAt(p, b*block); err != nil || p[0] != byte(10+b) {
			t.Errorf("block %d after going back: %d, %v", b, p[0], err)
		}
	}
	must(t, j.Close())
}

// TestAKilledSaveNeverMakesRotReadable kills what saves for a cut at each of its operations, and cuts the power.
func TestAKilledSaveNeverMakesRotReadable(t *testing.T) {
	for kill := range 60 {
		fs := newMemFS(rand.New(rand.NewPCG(uint64(kill), 2)))
		d := newRotting(fs)
		j, err := Open(fs, []Disk{d}, false)
		must(t, err)
		epoch(t, j, 1, func() {
			for b := range int64(rotBlocks) {
				must(t, j.Put(0, b*block, block, blockOf(byte(10+b))))
			}
		})
		_, err = j.Cut("a", time.Time{})
		must(t, err, j.Checkpoint())
		rotten := map[int64]bool{2: true, 3: true, 7: true}
		for b := range rotten {
			d.hold(b, 200)
			d.bad[b] = true
		}
		must(t, j.Begin(2))
		for b := range int64(rotBlocks) {
			must(t, j.Put(0, b*block, block, blockOf(byte(40+b))))
		}
		must(t, j.Commit(2, time.Unix(2, 0)))
		fs.ops = kill
		_ = j.Settle() // which is killed somewhere
		fs.ops = -1
		fs.powerCut([]*memFile{d.memFile})
		for b := range rotten {
			d.bad[b] = !bytes.Equal(d.content[b*block:(b+1)*block], blockOf(byte(40+b)))
		}
		if kill%2 == 0 && bytes.Equal(d.content[7*block:8*block], blockOf(200)) {
			d.hold(7, 17) // one is put right before it is saved, or again
			d.bad[7] = false
		}
		j, err = Open(fs, []Disk{d}, false)
		must(t, err, j.Settle())
		v, err := j.OpenCut("a")
		must(t, err)
		for b := range int64(rotBlocks) {
			p := make([]byte, block)
			err := v.ReadAt(0, p, b*block)
			if right := bytes.Equal(p, blockOf(byte(10+b))); !right && !rotten[b] || !right && err == nil {
				t.Errorf("killed at operation %d: block %d: %d, %v", kill, b, p[0], err)
			}
		}
		v.Close()
	}
}
