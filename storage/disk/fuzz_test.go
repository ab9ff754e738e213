package disk

import (
	"context"
	"os"
	"testing"

	"github.com/godwit-project/godwit/storage/disk/crashfs"
)

// FuzzSidecar opens a disk with any sidecar: it is refused or used, and nothing else.
func FuzzSidecar(f *testing.F) {
	const size = 64 << 10
	fresh := crashfs.New(1)
	opts := Options{FS: fresh, Checksums: true, Upkeep: -1, Boot: 1, Region: 16 << 10}
	if err := Create("d", size, opts); err != nil {
		f.Fatal(err)
	}
	head := make([]byte, marksAt+8)
	good, err := fresh.Open("d.sums", os.O_RDONLY)
	if err == nil {
		_, err = good.ReadAt(head, 0)
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Add(head[:56], head[slotsAt:slotsAt+64], head[marksAt:], int64(sumsAt+size/BlockSize*sumSize))
	f.Fuzz(func(t *testing.T, head, slots, marks []byte, length int64) {
		if length < 0 || length > 512<<10 || len(slots) > maxHolds*16 || len(head) > slotsAt || len(marks) > maxRegions {
			return
		}
		opts := opts
		fsys := crashfs.New(1)
		opts.FS = fsys
		if err := Create("d", size, Options{FS: fsys}); err != nil {
			t.Fatal(err)
		}
		s, err := fsys.Open("d.sums", os.O_CREATE|os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		for off, p := range map[int64][]byte{0: head, slotsAt: slots, marksAt: marks} {
			if _, err := s.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Truncate(length); err != nil {
			t.Fatal(err)
		}
		d, err := Open("d", opts)
		if err != nil {
			return
		}
		_, _ = d.ReadAt(make([]byte, size), 0)
		_, _ = d.WriteAt(make([]byte, 5000), 3000)
		_ = d.Zero(100, 30000, false)
		_ = d.Upkeep(context.Background())
		_, _ = d.Verify(context.Background(), 0, size, nil)
		_ = d.Resize(2 * size)
		_ = d.Close()
	})
}
