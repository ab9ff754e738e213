package disk

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/godwit-project/godwit/storage/disk/crashfs"
	"github.com/godwit-project/godwit/storage/disk/vfs"
)

// events collects what a disk reports.
type events struct {
	mu  sync.Mutex
	all []Event
}

func (e *events) add(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, event)
}

func (e *events) kinds() (kinds []EventKind) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, event := range e.all {
		if !slices.Contains(kinds, event.Kind) {
			kinds = append(kinds, event.Kind)
		}
	}
	return kinds
}

// onFile makes a disk with checksums in a real file, without upkeep of its own.
func onFile(t *testing.T, size int64) (*Disk, *events) {
	t.Helper()
	seen := &events{}
	opts := Options{Checksums: true, Upkeep: -1, Notify: seen.add}
	path := filepath.Join(t.TempDir(), "base.raw")
	if err := Create(path, size, opts); err != nil {
		t.Fatal(err)
	}
	return reopen(t, path, opts), seen
}

func reopen(t *testing.T, path string, opts Options) *Disk {
	t.Helper()
	d, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.file != nil {
			_ = d.closeFiles()
		}
	})
	return d
}

func close1(t *testing.T, d *Disk) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d.file = nil
}

func mustWrite(t *testing.T, d *Disk, off int64, p []byte) {
	t.Helper()
	if n, err := d.WriteAt(p, off); err != nil || n != len(p) {
		t.Fatalf("write %d bytes at %d: %d, %v", len(p), off, n, err)
	}
}

func mustRead(t *testing.T, d *Disk, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, off); err != nil {
		t.Fatalf("read %d bytes at %d: %v", len(want), off, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("read at %d: not what was written", off)
	}
}

func fill(seed uint64, n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = rng.Read(p)
	return p
}

func TestADiskHoldsWhatWasWrittenAtAnyAlignment(t *testing.T) {
	const size = 1<<20 + 1536 // the last block is short
	d, _ := onFile(t, size)
	twin := make([]byte, size)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		off := rng.Int64N(size)
		n := min(size-off, 1+rng.Int64N(20000))
		switch rng.IntN(6) {
		case 0:
			if err := d.Zero(off, n, rng.IntN(2) == 0); err != nil {
				t.Fatal(err)
			}
			clear(twin[off : off+n])
		case 1, 2:
			p := fill(uint64(i), int(n))
			mustWrite(t, d, off, p)
			copy(twin[off:], p)
		case 3:
			off, n = off/BlockSize*BlockSize, BlockSize
			if off+n > size {
				continue
			}
			p := fill(uint64(i), int(n))
			if done, err := d.TryWriteAt(p, off); err != nil {
				t.Fatal(err)
			} else if done {
				copy(twin[off:], p)
			}
		default:
			mustRead(t, d, off, twin[off:off+n])
		}
	}
	for _, last := range []int64{size, 700000, 700000 + 9000, 2 << 20} {
		if err := d.Resize(last); err != nil {
			t.Fatal(err)
		}
		twin = append(twin[:min(int64(len(twin)), last)], make([]byte, max(0, last-int64(len(twin))))...)
		mustRead(t, d, 0, twin)
	}
	report, err := d.Verify(context.Background(), 0, d.Size(), nil)
	if err != nil || len(report.Bad)+len(report.Unverified) != 0 || report.Checked != 2<<20 {
		t.Fatalf("a sound disk: %+v, %v", report, err)
	}
	path, opts := d.path, d.opts
	close1(t, d)
	d = reopen(t, path, opts)
	mustRead(t, d, 0, twin)
}

func TestAFlippedBitIsFoundNamedAndRepaired(t *testing.T) {
	d, seen := onFile(t, 1<<20)
	want := fill(1, 1<<20)
	mustWrite(t, d, 0, want)
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	path, opts := d.path, d.opts
	close1(t, d)
	flip(t, path, 5*BlockSize+17)
	d = reopen(t, path, opts)
	p := make([]byte, 100)
	if _, err := d.ReadAt(p, 5*BlockSize+1000); !errors.Is(err, ErrCorrupt) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("reading beside the bit: %v", err)
	}
	if done, err := d.TryReadAt(make([]byte, BlockSize), 5*BlockSize); done || err != nil {
		t.Fatalf("a quick read took it: %v", err)
	}
	if _, err := d.WriteAt(p, 5*BlockSize); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a partial write would hide it: %v", err)
	}
	mustRead(t, d, 6*BlockSize, want[6*BlockSize:])
	report, err := d.Verify(context.Background(), 0, d.Size(), nil)
	if err != nil || !slices.Equal(report.Bad, []Range{{5 * BlockSize, BlockSize}}) {
		t.Fatalf("%+v, %v", report, err)
	}
	wrong := func(_ context.Context, p []byte, _ int64) error { clear(p); return nil }
	if n, err := d.Repair(context.Background(), report.Bad[0], wrong); n != 0 || !errors.Is(err, ErrCorrupt) {
		t.Fatalf("repaired with the wrong content: %d, %v", n, err)
	}
	right := func(_ context.Context, p []byte, off int64) error { copy(p, want[off:]); return nil }
	if n, err := d.Repair(context.Background(), Range{0, d.Size()}, right); n != BlockSize || err != nil {
		t.Fatalf("repair: %d, %v", n, err)
	}
	mustRead(t, d, 0, want)
	if kinds := seen.kinds(); !slices.Contains(kinds, EventCorrupt) || !slices.Contains(kinds, EventRepaired) {
		t.Fatalf("events: %v", kinds)
	}
}

// flip changes a bit of a file and nothing of its times, as a disk would.
func flip(t *testing.T, path string, off int64) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	b[0] ^= 4
	_, err2 := f.WriteAt(b, off)
	if err := errors.Join(err, err2, f.Sync(), f.Close(), os.Chtimes(path, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
}

func TestABlockInTheWrongPlaceIsFound(t *testing.T) {
	p := fill(3, BlockSize)
	if sumOf(p, 1) == sumOf(p, 2) {
		t.Fatal("a block has the same checksum everywhere")
	}
	if sumOf(make([]byte, BlockSize), 7) != 0 {
		t.Fatal("a block of zeroes has a checksum")
	}
}

func TestADiskThatWasChangedByOthersIsSummedAnew(t *testing.T) {
	d, seen := onFile(t, 1<<20)
	mustWrite(t, d, 0, fill(1, 1<<20))
	path, opts := d.path, d.opts
	close1(t, d)
	other := fill(2, 8192)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(other, 4096)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	d = reopen(t, path, opts)
	mustRead(t, d, 4096, other)
	if !slices.Contains(seen.kinds(), EventUnverified) {
		t.Fatal("nobody was told")
	}
	if err := d.Upkeep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, unverified := d.Marked(); unverified != 0 {
		t.Fatalf("%d bytes are still unverified", unverified)
	}
	mustRead(t, d, 4096, other)
}

func TestMarksGoWhenNobodyWrites(t *testing.T) {
	d, _ := onFile(t, 16<<20)
	mustWrite(t, d, 0, fill(1, 4096))
	mustWrite(t, d, 9<<20, fill(1, 4096))
	for round, want := range []int64{2 << 20, 2 << 20, 0} {
		if dirty, _ := d.Marked(); dirty != want {
			t.Fatalf("round %d: %d bytes are marked, want %d", round, dirty, want)
		}
		if err := d.Upkeep(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	mustWrite(t, d, 0, fill(2, 4096))
	if dirty, _ := d.Marked(); dirty != 1<<20 {
		t.Fatalf("%d bytes are marked after another write", dirty)
	}
}

func TestManyWritersAndReadersNeverSeeAFalseAlarm(t *testing.T) {
	d, seen := onFile(t, 1<<20)
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 9))
			p := fill(uint64(w), 16384)
			for range 400 {
				off := rng.Int64N(d.Size() - 16384)
				n := 1 + rng.IntN(16383)
				var err error
				switch rng.IntN(8) {
				case 0:
					err = d.Zero(off, int64(n), true)
				case 1:
					err = d.Upkeep(context.Background())
				case 2:
					_, err = d.TryReadAt(p[:4096], off/4096*4096)
				case 3, 4:
					_, err = d.ReadAt(make([]byte, n), off)
				case 5:
					_, err = d.TryWriteAt(p[:4096], off/4096*4096)
				default:
					_, err = d.WriteAt(p[:n], off)
				}
				if err != nil {
					t.Error(err)
					return
				}
				if w == 0 {
					if rng.IntN(20) != 0 {
						continue
					}
					if err := d.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	report, err := d.Verify(context.Background(), 0, d.Size(), nil)
	if err != nil || len(report.Bad)+len(report.Unverified) != 0 || len(seen.kinds()) != 0 {
		t.Fatalf("%+v, %v, %v", report, err, seen.kinds())
	}
}

func TestAFailedSyncEndsWritingForGood(t *testing.T) {
	fsys := crashfs.New(1)
	seen := &events{}
	opts := Options{FS: fsys, Checksums: true, Upkeep: -1, Notify: seen.add, Boot: 1}
	if err := Create("d", 64<<10, opts); err != nil {
		t.Fatal(err)
	}
	d := reopen(t, "d", opts)
	mustWrite(t, d, 0, fill(1, 4096))
	fsys.Fail(func(op crashfs.Op) error {
		if op.Name == "sync" && op.Path == "d" {
			return syscall.EIO
		}
		return nil
	})
	if err := d.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	fsys.Fail(nil)
	for range 2 {
		if _, err := d.WriteAt(fill(2, 4096), 0); !errors.Is(err, ErrFailed) {
			t.Fatalf("a failed disk took a write: %v", err)
		}
		if err := d.Sync(); !errors.Is(err, ErrFailed) || d.Failed() == nil {
			t.Fatalf("a failed disk can sync: %v", err)
		}
		if _, err := d.ReadAt(make([]byte, 4096), 8192); err != nil {
			t.Fatalf("a failed disk cannot be read: %v", err)
		}
		close1(t, d)
		opts.Boot++
		fsys = fsys.AfterPowerLoss()
		opts.FS = fsys
		d = reopen(t, "d", opts)
	}
	if !slices.Contains(seen.kinds(), EventFailed) {
		t.Fatal("nobody was told")
	}
	if err := d.ClearFailure(); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, d, 0, fill(2, 4096))
}

func TestAFullDiskFailsOneWriteAndNothingElse(t *testing.T) {
	fsys := crashfs.New(1)
	seen := &events{}
	opts := Options{FS: fsys, Checksums: true, Upkeep: -1, Notify: seen.add, Boot: 1}
	if err := Create("d", 64<<10, opts); err != nil {
		t.Fatal(err)
	}
	d := reopen(t, "d", opts)
	mustWrite(t, d, 0, fill(1, 4096))
	fsys.SetRoom(1024)
	if _, err := d.WriteAt(fill(2, 8192), 8192); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("on a full disk: %v", err)
	}
	if _, err := d.ReadAt(make([]byte, 64<<10), 0); err != nil {
		t.Fatalf("what is there now, or not, must be readable: %v", err)
	}
	mustWrite(t, d, 0, fill(3, 4096)) // has its place
	fsys.SetRoom(1 << 20)
	mustWrite(t, d, 8192, fill(2, 8192))
	if kinds := seen.kinds(); !slices.Equal(kinds, []EventKind{EventNoSpace}) {
		t.Fatalf("events: %v", kinds)
	}
}

func TestANewerLeaseFencesTheOldHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shared")
	if err := Create(path, 1<<20, Options{}); err != nil {
		t.Fatal(err)
	}
	seen := &events{}
	d := reopen(t, path, Options{Upkeep: -1, Lease: &Lease{Holder: "west", Epoch: 5}, Notify: seen.add})
	mustWrite(t, d, 0, []byte("x"))
	if _, err := Open(path, Options{Upkeep: -1, Lease: &Lease{Holder: "east", Epoch: 5}}); !errors.Is(err, ErrFenced) {
		t.Fatalf("two holders with one epoch: %v", err)
	}
	if err := (FileFencer{FS: vfs.OS{}, Path: path + ".lease"}).Take("east", 6); err != nil {
		t.Fatal(err)
	}
	if err := d.Upkeep(context.Background()); !errors.Is(err, ErrFenced) {
		t.Fatalf("the old holder did not notice: %v", err)
	}
	if _, err := d.WriteAt([]byte("y"), 0); !errors.Is(err, ErrFenced) {
		t.Fatalf("the old holder wrote: %v", err)
	}
	if !slices.Contains(seen.kinds(), EventFenced) {
		t.Fatal("nobody was told")
	}
	close1(t, d)
	if _, err := Open(path, Options{Upkeep: -1, Lease: &Lease{Holder: "west", Epoch: 5}}); !errors.Is(err, ErrFenced) {
		t.Fatalf("the old holder came back: %v", err)
	}
	close1(t, reopen(t, path, Options{Upkeep: -1, Lease: &Lease{Holder: "east", Epoch: 6}}))
}

func TestADiskIsOpenOnceForWritingAndOftenForReading(t *testing.T) {
	d, _ := onFile(t, 1<<20)
	if _, err := Open(d.path, Options{}); !errors.Is(err, vfs.ErrLocked) {
		t.Fatalf("opened twice: %v", err)
	}
	mustWrite(t, d, 0, fill(1, 4096))
	path := d.path
	close1(t, d)
	first := reopen(t, path, Options{ReadOnly: true, Checksums: true})
	second := reopen(t, path, Options{ReadOnly: true})
	mustRead(t, first, 0, fill(1, 4096))
	if _, err := second.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("wrote on a read-only disk: %v", err)
	}
	close1(t, first)
	close1(t, second)
}

// hooked is a file system that calls during while a disk is being synced.
type hooked struct {
	vfs.FS
	during func()
}

type hookedFile struct {
	vfs.File
	fs *hooked
}

func (h *hooked) Open(path string, flag int) (vfs.File, error) {
	f, err := h.FS.Open(path, flag)
	return hookedFile{f, h}, err
}

func (f hookedFile) Sync() error {
	if during := f.fs.during; during != nil && f.Name() == "d" {
		f.fs.during = nil
		during()
	}
	return f.File.Sync()
}

func TestARegionThatIsWrittenWhileItsMarkIsTakenOffKeepsIt(t *testing.T) {
	fsys := &hooked{FS: crashfs.New(1)}
	opts := Options{FS: fsys, Checksums: true, Upkeep: -1, Boot: 1, Region: 16 << 10}
	if err := Create("d", 64<<10, opts); err != nil {
		t.Fatal(err)
	}
	d := reopen(t, "d", opts)
	mustWrite(t, d, 0, fill(1, 4096))
	mustWrite(t, d, 32<<10, fill(1, 4096))
	if err := d.Upkeep(context.Background()); err != nil {
		t.Fatal(err)
	}
	fsys.during = func() { mustWrite(t, d, 4096, fill(2, 4096)) }
	if err := d.Upkeep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if dirty, _ := d.Marked(); fsys.during != nil || dirty != 16<<10 {
		t.Fatalf("%d bytes are marked, want the region that was written", dirty)
	}
	if mark := d.sums.marks.onDisk; mark[0] != markDirty || mark[2] != markClean {
		t.Fatalf("marks on the disk are %v", mark[:4])
	}
}

func TestAWriterWhoGoesEverywhereDoesNotWaitForEachRegion(t *testing.T) {
	fsys := crashfs.New(1)
	opts := Options{FS: fsys, Checksums: true, Upkeep: -1, Boot: 1, Region: 4096}
	if err := Create("d", 512<<10, opts); err != nil {
		t.Fatal(err)
	}
	d := reopen(t, "d", opts)
	syncs := 0
	fsys.Fail(func(op crashfs.Op) error {
		if op.Name == "sync" {
			syncs++
		}
		return nil
	})
	for _, r := range rand.New(rand.NewPCG(1, 1)).Perm(128) {
		mustWrite(t, d, int64(r)*4096, fill(1, 4096))
	}
	if syncs == 0 || syncs > 32 {
		t.Fatalf("%d syncs for 128 regions", syncs)
	}
}

func TestASidecarThatCannotBeReadIsAnErrorAndNoCrash(t *testing.T) {
	d, _ := onFile(t, 16<<20)
	mustWrite(t, d, 8<<20, fill(1, 8192))
	if err := os.Truncate(d.path+sumsSuffix, sumsAt); err != nil { // as a medium would that cannot be read
		t.Fatal(err)
	}
	if _, err := d.ReadAt(make([]byte, 8192), 8<<20); !errors.Is(err, ErrSidecar) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("read: %v", err)
	}
	if _, err := d.WriteAt(fill(1, 8192), 8<<20); !errors.Is(err, ErrSidecar) {
		t.Fatalf("write: %v", err)
	}
}

func TestWhatIsZeroIsKnownFromTheChecksums(t *testing.T) {
	const size = 1<<20 + 1536 // the last block is short
	d, _ := onFile(t, size)
	path := d.Path()
	zero := func(off, most, want int64, wantKnown bool) {
		t.Helper()
		if n, known, err := d.Zeroes(off, most); n != want || known != wantKnown || err != nil {
			t.Errorf("at %d, of %d bytes %d are zeroes, known %v, %v; want %d, %v", off, most, n, known, err, want, wantKnown)
		}
	}
	zero(0, size, size, true)
	mustWrite(t, d, 40000, []byte{1})
	zero(0, size, 36864, true)
	zero(36864, 4096, 0, true)
	zero(40960, size-40960, size-40960, true)
	mustWrite(t, d, 40000, []byte{0})
	zero(0, size, size, true)
	close1(t, d)
	if err := os.Remove(path + ".sums"); err != nil {
		t.Fatal(err)
	}
	d = reopen(t, path, Options{Checksums: true, Upkeep: -1})
	zero(0, size, 0, false)
}
