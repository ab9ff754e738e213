package storage

import (
	"context"
	"fmt"

	"github.com/godwit-project/godwit/storage/disk"
)

// Scrub is what [Volume.Scrub] has found.
type Scrub struct {
	// Checked is how many bytes were compared, Unverified how many have no checksum.
	Checked, Unverified int64
	// Bad does not match its checksums, or cannot be read: whole blocks, in order.
	Bad []Difference
}

// scrubRun is how much of a volume is scrubbed between two calls of progress, in bytes.
const scrubRun = 16 << 20

// Scrub compares the volume's disk with its checksums, from the medium where possible, while it is in use. progress, which may be
// nil, is told the bytes done and to do. Nothing is repaired.
func (v *Volume) Scrub(ctx context.Context, progress func(done, total int64)) (Scrub, error) {
	var found Scrub
	for off := int64(0); off < v.size; off += scrubRun {
		n := min(scrubRun, v.size-off)
		var r disk.Report
		err := v.withDisk(func() (err error) {
			r, err = v.disk.Verify(ctx, off, n, nil)
			return err
		})
		if err != nil {
			return found, fmt.Errorf("scrub volume %s: %w", v.name, err)
		}
		found.Checked += r.Checked
		for _, u := range r.Unverified {
			found.Unverified += u.Length
		}
		for _, b := range r.Bad {
			found.Bad = joined(found.Bad, Difference{v.name, b.Off, b.Length})
		}
		if progress != nil {
			progress(off+n, v.size)
		}
	}
	return found, nil
}

// joined appends a range, to the one before where they touch.
func joined(all []Difference, d Difference) []Difference {
	if n := len(all); n > 0 && all[n-1].Off+all[n-1].Length == d.Off {
		all[n-1].Length += d.Length
		return all
	}
	return append(all, d)
}

// Size of the volume in bytes.
func (v *Volume) Size() int64 { return v.size }

// ReadAt fills p with what the volume holds. Of a volume in use, what is read piece by piece is not one moment of it.
func (v *Volume) ReadAt(_ context.Context, p []byte, off int64) error {
	return v.withDisk(func() error {
		_, err := v.disk.ReadAt(p, off)
		return err
	})
}

// NextData returns the first run of bytes at or after off that may be other than zero; ok is false when there is none.
func (v *Volume) NextData(off int64) (start, end int64, ok bool, err error) {
	err = v.withDisk(func() error {
		start, end, ok, err = v.disk.NextData(off)
		return err
	})
	return start, end, ok, err
}
