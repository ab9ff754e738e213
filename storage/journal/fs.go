package journal

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FS is the folder that a journal lives in. Names have no separators.
type FS interface {
	// Open opens a file for reading and writing, making it if create is set; else it must be there.
	Open(name string, create bool) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	List() ([]string, error)
	// Sync makes the names of the folder durable.
	Sync() error
}

// File is one file of it.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	// Sync makes the content durable.
	Sync() error
}

// Disk is the replica of one volume. ReadAt and WriteAt are within its size.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
	// Zero makes the range read as zeroes.
	Zero(off, length int64) error
	Sync() error
}

// Salvager is what a [Disk] offers besides, if its ReadAt refuses content that is not what was written.
type Salvager interface {
	// Salvage reads what is there, right or wrong.
	Salvage(p []byte, off int64) error
}

// Starter is what a [File] or [Disk] offers besides, if it can begin to make durable what was written, so that the next Sync waits
// for less.
type Starter interface {
	StartSync()
}

// startEvery is how much is written before that is begun, in bytes.
const startEvery = 8 << 20

// startSync begins it where that can be done.
func startSync(f any) {
	if s, ok := f.(Starter); ok {
		s.StartSync()
	}
}

// Condemner is what a [Disk] offers besides, if it can refuse to be read where it has no right content.
type Condemner interface {
	// Condemn makes reading a range of whole blocks fail until it is written.
	Condemn(off, length int64) error
}

// Dir is the FS of a folder of the system.
type Dir string

// Open implements FS.
func (d Dir) Open(name string, create bool) (File, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(filepath.Join(string(d), name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements FS.
func (d Dir) Rename(from, to string) error {
	return os.Rename(filepath.Join(string(d), from), filepath.Join(string(d), to))
}

// Remove implements FS; a file that is not there is a success.
func (d Dir) Remove(name string) error {
	if err := os.Remove(filepath.Join(string(d), name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// List implements FS.
func (d Dir) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// Sync implements FS.
func (d Dir) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type osFile struct{ *os.File }

// Sync is fdatasync: sizes are durable with it, times need not be.
func (f osFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// StartSync implements Starter; what fails here, Sync says.
func (f osFile) StartSync() {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}

// readFull reads like ReadAt, taking what lies beyond the end of the file for zeroes.
func readFull(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return err
}
