//go:build linux

package main

import (
	"context"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/quick"
)

func TestBlockSaysWhatItIsUntilOneByteChanges(t *testing.T) {
	table := crc32.MakeTable(crc32.Castagnoli)
	b := make([]byte, blockSize)
	err := quick.Check(func(boot, sequence, block uint64, at uint16) bool {
		s := stamp{boot, sequence, block}
		s.encode(b, table)
		got, err := decode(b, table)
		if err != nil || got != s {
			return false
		}
		b[int(at)%blockSize] ^= 1
		_, err = decode(b, table)
		return errors.Is(err, errCorrupt)
	}, nil)
	if err != nil {
		t.Error(err)
	}
	clear(b)
	if _, err := decode(b, table); !errors.Is(err, errBlank) {
		t.Errorf("an empty block: %v", err)
	}
}

// newDisk is a disk of a few blocks, so that every block is written many times.
func newDisk(t *testing.T, blocks int64) *disk {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, blocks*blockSize); err != nil {
		t.Fatal(err)
	}
	d, err := openDisk(path, options{fsync: 5})
	if err != nil {
		t.Skipf("this file system does not do O_DIRECT: %v", err)
	}
	t.Cleanup(func() { d.file.Close() })
	return d
}

func writeBlocks(t *testing.T, d *disk, blocks ...uint64) {
	t.Helper()
	buffer, err := alignedBlock()
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range blocks {
		d.write(block, buffer)
	}
}

func mustVerify(t *testing.T, d *disk) verdict {
	t.Helper()
	v, err := d.verify()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerifyPassesAnUndisturbedDisk(t *testing.T) {
	d := newDisk(t, 8)
	writeBlocks(t, d, 0, 3, 3, 7, 0)
	want := verdict{Acknowledged: 5, Checked: 3}
	if got := mustVerify(t, d); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if d.fsyncs.Load() != 1 || d.lastAcked.Load() != 5 {
		t.Errorf("%d fsyncs, last acknowledged %d; want 1 and 5", d.fsyncs.Load(), d.lastAcked.Load())
	}
}

func TestVerifyFindsALostWrite(t *testing.T) {
	for name, damage := range map[string]func(*testing.T, *disk){
		"the disk went back to an older write": func(t *testing.T, d *disk) {
			writeBlocks(t, d, 2)
			old := make([]byte, blockSize)
			stamp{d.boot, 1, 2}.encode(old, d.table)
			overwrite(t, d, 2, old)
		},
		"the block is blank":  func(t *testing.T, d *disk) { overwrite(t, d, 2, make([]byte, blockSize)) },
		"the block is broken": func(t *testing.T, d *disk) { overwrite(t, d, 2, []byte("x")) },
		"another block's content": func(t *testing.T, d *disk) {
			other := make([]byte, blockSize)
			stamp{d.boot, 1, 5}.encode(other, d.table)
			overwrite(t, d, 2, other)
		},
		"another boot's content": func(t *testing.T, d *disk) {
			other := make([]byte, blockSize)
			stamp{d.boot + 1, 1, 2}.encode(other, d.table)
			overwrite(t, d, 2, other)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t, 8)
			writeBlocks(t, d, 2, 4)
			damage(t, d)
			v := mustVerify(t, d)
			if v.Lost != 1 || !strings.HasPrefix(v.FirstLost, "block 2: ") || v.Checked != 2 {
				t.Errorf("got %+v, want block 2 lost", v)
			}
		})
	}
}

func TestWriteThatFailedMayOrMayNotBeOnTheDisk(t *testing.T) {
	d := newDisk(t, 8)
	writeBlocks(t, d, 2)
	d.known[2] = expectation{acknowledged: 1, attempted: 9}
	if v := mustVerify(t, d); v.Lost != 0 {
		t.Errorf("the acknowledged write is there: %+v", v)
	}
	for sequence, lost := range map[uint64]uint64{5: 0, 9: 0, 10: 1} {
		attempted := make([]byte, blockSize)
		stamp{d.boot, sequence, 2}.encode(attempted, d.table)
		overwrite(t, d, 2, attempted)
		if v := mustVerify(t, d); v.Lost != lost {
			t.Errorf("write %d is there: %+v, want %d lost", sequence, v, lost)
		}
	}
}

func TestVerifyAgreesWhileTheLoadRuns(t *testing.T) {
	d := newDisk(t, 64)
	d.rate.Store(2000)
	ctx, cancel := context.WithCancel(context.Background())
	var load sync.WaitGroup
	load.Go(func() {
		if err := d.run(ctx); err != nil {
			t.Error(err)
		}
	})
	for d.acknowledged.Load() < 100 {
		if v := mustVerify(t, d); v.Lost+v.IOErrors != 0 {
			t.Errorf("%+v", v)
		}
	}
	cancel()
	load.Wait()
}

// overwrite goes behind the disk's back, by way of the page cache.
func overwrite(t *testing.T, d *disk, block int64, content []byte) {
	t.Helper()
	f, err := os.OpenFile(d.file.Name(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, block*blockSize); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}
