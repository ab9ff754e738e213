//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	filesRoot   = "/data"
	recordsName = "records"
	keptName    = "kept"
	// recordSlots is how many records the ring has; keptWindow is how many kept files there are at a time.
	recordSlots = 256
	keptWindow  = 100
)

// files are a client's writes on a file system, in both ways that a program can be told that something is written. They are of
// numbers that the client chooses, counted from 1, so that what was acknowledged is known where this machine's end does not matter.
//
//   - A record overwrites a block of its own in a file whose blocks are there already, past the page cache: it is acknowledged
//     when the virtual disk has answered.
//   - A kept file is new, and acknowledged after fsync of it and of its folder: the virtual disk has flushed, and the file
//     system has written its journal. The one that leaves the window is removed, so that the file system has all kinds of work.
type files struct {
	root    string
	records *os.File
	folder  *os.File // of the kept files
	table   *crc32.Table
	mu      sync.Mutex // one write, or one look at all of them, at a time
}

// mountFiles mounts the disk, which has to have an ext4, and opens the files there. Its journal is replayed by the kernel.
func mountFiles(device string) (*files, error) {
	if err := os.MkdirAll(filesRoot, 0o755); err != nil {
		return nil, fmt.Errorf("make mount point %s: %w", filesRoot, err)
	}
	if err := unix.Mount(device, filesRoot, "ext4", unix.MS_NOATIME, ""); err != nil {
		return nil, fmt.Errorf("mount %s: %w", device, err)
	}
	f, err := openFiles(filesRoot)
	if err != nil {
		return nil, errors.Join(err, unix.Unmount(filesRoot, 0))
	}
	return f, nil
}

// openFiles opens what lies under root, and makes it the first time.
func openFiles(root string) (_ *files, err error) {
	f := &files{root: root, table: crc32.MakeTable(crc32.Castagnoli)}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if err := f.prepare(); err != nil {
		return nil, fmt.Errorf("make the files: %w", err)
	}
	if f.records, err = os.OpenFile(filepath.Join(root, recordsName), os.O_RDWR|unix.O_DIRECT, 0); err != nil {
		return nil, err
	}
	f.folder, err = os.Open(filepath.Join(root, keptName))
	return f, err
}

func (f *files) close() {
	for _, open := range []*os.File{f.records, f.folder} {
		if open != nil {
			open.Close()
		}
	}
}

// prepare makes the ring of records, of blocks that are written: a later overwrite changes nothing of the file system's own.
func (f *files) prepare() error {
	path := filepath.Join(f.root, recordsName)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Mkdir(filepath.Join(f.root, keptName), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	partial := path + ".partial"
	if err := writeDurably(partial, bytes.Repeat([]byte{0xff}, recordSlots*blockSize)); err != nil {
		return err
	}
	if err := os.Rename(partial, path); err != nil {
		return err
	}
	return syncFolder(f.root)
}

// writeRecord is acknowledged by the virtual disk, and not flushed.
func (f *files) writeRecord(n uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	buffer, err := alignedBlock()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(buffer) }()
	slot := n % recordSlots
	stamp{sequence: n, block: slot}.encode(buffer, f.table)
	_, err = f.records.WriteAt(buffer, int64(slot*blockSize))
	return err
}

// keep makes a file that is acknowledged when it, its name, and all that was written before are flushed.
func (f *files) keep(n uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := writeDurably(f.keptPath(n), keptContent(n)); err != nil {
		return err
	}
	if n > keptWindow {
		if err := os.Remove(f.keptPath(n - keptWindow)); err != nil {
			return err
		}
	}
	return f.folder.Sync()
}

func (f *files) keptPath(n uint64) string {
	return filepath.Join(f.root, keptName, strconv.FormatUint(n, 10))
}

// keptContent follows from the number: from nothing to some twenty KiB.
func keptContent(n uint64) []byte {
	content := make([]byte, n*2654435761%2560*8)
	fill(content, n*sequenceMix+1)
	return content
}

// found is the answer to check.
type found struct {
	Records        uint64 `json:"records"`         // the highest number of a record
	MissingRecords uint64 `json:"missing_records"` // below it, and within the ring
	Kept           uint64 `json:"kept"`            // the highest number of a kept file
	MissingKept    uint64 `json:"missing_kept"`    // below it, and within the window; or with another content
	FirstMissing   string `json:"first_missing"`
}

// check reads everything back.
func (f *files) check() (found, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var r found
	if err := f.checkRecords(&r); err != nil {
		return r, fmt.Errorf("check the records: %w", err)
	}
	if err := f.checkKept(&r); err != nil {
		return r, fmt.Errorf("check the kept files: %w", err)
	}
	return r, nil
}

func (r *found) missing(count *uint64, format string, args ...any) {
	if *count++; r.FirstMissing == "" {
		r.FirstMissing = fmt.Sprintf(format, args...)
	}
}

func (f *files) checkRecords(r *found) error {
	buffer, err := alignedBlock()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(buffer) }()
	var slots [recordSlots]uint64
	for slot := range slots {
		if _, err := f.records.ReadAt(buffer, int64(slot)*blockSize); err != nil {
			return err
		}
		if s, err := decode(buffer, f.table); err == nil && s.block == uint64(slot) {
			slots[slot] = s.sequence
			r.Records = max(r.Records, s.sequence)
		}
	}
	for n := oldest(r.Records, recordSlots); n <= r.Records; n++ {
		if was := slots[n%recordSlots]; was != n {
			r.missing(&r.MissingRecords, "record %d: found %d", n, was)
		}
	}
	return nil
}

func (f *files) checkKept(r *found) error {
	entries, err := os.ReadDir(filepath.Join(f.root, keptName))
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil {
			return err
		}
		// The last one may be half written, and its folder not: then it was not acknowledged.
		if content, err := os.ReadFile(f.keptPath(n)); err == nil && bytes.Equal(content, keptContent(n)) {
			r.Kept = max(r.Kept, n)
		}
	}
	for n := oldest(r.Kept, keptWindow); n <= r.Kept; n++ {
		if content, err := os.ReadFile(f.keptPath(n)); err != nil || !bytes.Equal(content, keptContent(n)) {
			r.missing(&r.MissingKept, "kept file %d: %d bytes, %v", n, len(content), err)
		}
	}
	return nil
}

// oldest is the first number of those up to the last that still has to be there.
func oldest(last, room uint64) uint64 {
	if last <= room {
		return 1
	}
	return last - room + 1
}

func writeDurably(path string, content []byte) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
