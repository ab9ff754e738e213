package disk

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// What the checksums cost, the page cache holding everything: go test -bench . -benchmem ./storage/disk
func BenchmarkRequest(b *testing.B) {
	const size = 64 << 20
	for _, sums := range []bool{false, true} {
		opts := Options{Checksums: sums, Upkeep: -1}
		path := filepath.Join(b.TempDir(), "disk")
		if err := Create(path, size, opts); err != nil {
			b.Fatal(err)
		}
		d, err := Open(path, opts)
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		p := fill(1, 1<<20)
		for off := int64(0); off < size; off += int64(len(p)) {
			if _, err := d.WriteAt(p, off); err != nil {
				b.Fatal(err)
			}
		}
		for _, n := range []int{4096, 1 << 20} {
			rng := rand.New(rand.NewPCG(1, 1))
			kind := fmt.Sprintf("%dKiB/checksums=%v", n>>10, sums)
			p := p[:n]
			bench := func(name string, do func(off int64) error) {
				b.Run(name+"/"+kind, func(b *testing.B) {
					b.ReportAllocs()
					b.SetBytes(int64(n))
					for b.Loop() {
						if err := do(rng.Int64N(size/int64(n)) * int64(n)); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			bench("read", func(off int64) error { _, err := d.TryReadAt(p, off); return err })
			bench("write", func(off int64) error { _, err := d.TryWriteAt(p, off); return err })
		}
	}
}
