package journal

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"
)

// BenchmarkEpoch is what the far end does for each byte that comes, but for taking it from the link: into the log, then to the disk.
// With TMPDIR in memory it is processor time alone.
func BenchmarkEpoch(b *testing.B) {
	const size, epoch = 128 << 20, 96 << 20
	for _, length := range []int64{4 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("records of %d KiB", length>>10), func(b *testing.B) {
			dir := b.TempDir()
			base, err := os.Create(dir + "/base")
			if err == nil {
				err = base.Truncate(size)
			}
			if err != nil {
				b.Fatal(err)
			}
			j, err := Open(Dir(dir), []Disk{fileDisk{osFile{base}, size}}, true)
			if err != nil {
				b.Fatal(err)
			}
			data := bytes.Repeat([]byte("epoch "), int(length/6+1))[:length]
			b.SetBytes(epoch)
			number := uint64(0)
			one := func() {
				number++
				err := j.Begin(number)
				for off := int64(0); off < epoch && err == nil; off += length {
					err = j.Put(0, off, length, data)
				}
				if err == nil {
					err = j.Commit(number, time.Unix(0, 0))
				}
				if err == nil {
					err = j.Settle()
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			for range 3 { // until files are written again
				one()
			}
			for b.Loop() {
				one()
			}
			if err := j.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

// fileDisk is a file of that size, full of zeroes at first.
type fileDisk struct {
	osFile
	size int64
}

func (d fileDisk) Size() int64 { return d.size }

func (d fileDisk) Zero(off, length int64) error {
	_, err := d.WriteAt(make([]byte, length), off)
	return err
}
