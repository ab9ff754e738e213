//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// disk is the write load and its bookkeeping. A write counts as acknowledged when pwrite with O_DIRECT has returned, which is
// when the virtual disk has answered; every so many-th only after fdatasync too.
type disk struct {
	file   *os.File
	blocks uint64
	boot   uint64
	fsync  uint64
	table  *crc32.Table

	rate         atomic.Int64 // writes a second
	issued       atomic.Uint64
	acknowledged atomic.Uint64
	fsyncs       atomic.Uint64
	errors       atomic.Uint64
	longest      atomic.Int64 // nanoseconds

	// mu is held around one write or one comparison, so that verify sees each block and what is known of it together,
	// and delays the writer by one read at most.
	mu sync.Mutex
	// known maps a block to what may be on it.
	known map[uint64]expectation
	// lastAcked is the sequence number of the last acknowledged write.
	lastAcked atomic.Uint64
}

// expectation of a block: the last acknowledged write, and the last attempted one. They differ after attempts that failed: then
// the disk may hold any of these, and none is a loss.
type expectation struct {
	acknowledged, attempted uint64
}

// openDisk returns nil without an error when the machine has no disk.
func openDisk(path string, o options) (*disk, error) {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open disk %s: %w", path, err)
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("size of disk %s: %w", path, err), file.Close())
	}
	if size < blockSize {
		return nil, errors.Join(fmt.Errorf("disk %s has %d bytes, less than one block", path, size), file.Close())
	}
	d := &disk{
		file: file, blocks: uint64(size) / blockSize, boot: rand.Uint64() ^ uint64(time.Now().UnixNano()), fsync: uint64(o.fsync),
		table: crc32.MakeTable(crc32.Castagnoli), known: make(map[uint64]expectation),
	}
	d.rate.Store(int64(o.writes))
	return d, nil
}

// run writes at the set rate until ctx ends. A write that fails is counted and the load goes on: the count is the finding.
func (d *disk) run(ctx context.Context) error {
	buffer, err := alignedBlock()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(buffer) }()
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	ticker := time.NewTicker(loadTick)
	defer ticker.Stop()
	owed, last := 0.0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			owed += float64(d.rate.Load()) * min(now.Sub(last), longestDebt).Seconds()
			last = now
		}
		for ; owed >= 1; owed-- {
			d.write(random.Uint64N(d.blocks), buffer)
		}
	}
}

func (d *disk) write(block uint64, buffer []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sequence := d.issued.Add(1)
	e := d.known[block]
	e.attempted = sequence
	d.known[block] = e

	stamp{d.boot, sequence, block}.encode(buffer, d.table)
	began := time.Now()
	_, err := d.file.WriteAt(buffer, int64(block*blockSize))
	if err == nil && d.fsync > 0 && sequence%d.fsync == 0 {
		d.fsyncs.Add(1)
		err = unix.Fdatasync(int(d.file.Fd()))
	}
	d.longest.Store(max(d.longest.Load(), int64(time.Since(began))))
	if err != nil {
		d.errors.Add(1)
		return
	}
	e.acknowledged = sequence
	d.known[block] = e
	d.acknowledged.Add(1)
	d.lastAcked.Store(sequence)
}

// verdict is the answer to verify.
type verdict struct {
	Acknowledged uint64 `json:"acknowledged"` // writes acknowledged so far
	Checked      uint64 `json:"checked"`      // blocks read back
	Lost         uint64 `json:"lost"`         // blocks that hold neither the last acknowledged write nor a later attempt
	FirstLost    string `json:"first_lost"`   // what was found there, empty when nothing is lost
	IOErrors     uint64 `json:"io_errors"`
}

// verify reads back, past the page cache, every block that has an acknowledged write. The writer goes on meanwhile.
func (d *disk) verify() (verdict, error) {
	buffer, err := alignedBlock()
	if err != nil {
		return verdict{}, err
	}
	defer func() { _ = unix.Munmap(buffer) }()
	blocks, acknowledged := d.written()
	v := verdict{Acknowledged: acknowledged}
	for _, block := range blocks {
		found, err := d.compare(block, buffer)
		v.Checked++
		switch {
		case err != nil:
			v.IOErrors++
		case found != "":
			v.Lost++
			if v.FirstLost == "" {
				v.FirstLost = found
			}
		}
	}
	return v, nil
}

// written lists the blocks with an acknowledged write in ascending order, and the number of such writes.
func (d *disk) written() (blocks []uint64, acknowledged uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for block, e := range d.known {
		if e.acknowledged != 0 {
			blocks = append(blocks, block)
		}
	}
	slices.Sort(blocks)
	return blocks, d.acknowledged.Load()
}

// compare returns a description of the difference, or "" when the block is as it should be.
func (d *disk) compare(block uint64, buffer []byte) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.known[block]
	if _, err := d.file.ReadAt(buffer, int64(block*blockSize)); err != nil {
		return "", err
	}
	s, err := decode(buffer, d.table)
	if err != nil {
		return fmt.Sprintf("block %d: want write %d, found: %v", block, e.acknowledged, err), nil
	}
	if s.boot != d.boot || s.block != block || s.sequence < e.acknowledged || s.sequence > e.attempted {
		return fmt.Sprintf("block %d: want write %d of boot %x, found write %d of boot %x for block %d",
			block, e.acknowledged, d.boot, s.sequence, s.boot, s.block), nil
	}
	return "", nil
}

// alignedBlock returns one page outside the Go heap: O_DIRECT demands alignment. The caller unmaps it.
func alignedBlock() ([]byte, error) {
	b, err := unix.Mmap(-1, 0, blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map a block buffer: %w", err)
	}
	return b, nil
}
