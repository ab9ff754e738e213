// Package vfs is the little of a file system that volumes need, as an interface: the machine's own is [OS]; package crashfs has
// one that loses what was not synced, for tests.
//
// What may not enter: buffering, retries, paths' meaning. A call is one system call, or few, and its errors are the kernel's.
package vfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// ErrLocked means that another process, or another handle, has the file.
var ErrLocked = errors.New("file is in use")

// FS opens files and changes the names of them. Names are durable only after [FS.SyncDir] of their folder.
type FS interface {
	// Open takes the flags of package os. New files are readable by their owner alone.
	Open(path string, flag int) (File, error)
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(dir string) error
}

// File is an open file or block device. Methods may be called from several goroutines at once; none after Close.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Name() string
	Info() (Info, error)
	// Lock takes the file for this handle until it is closed, alone or together with other sharers, or fails with [ErrLocked].
	Lock(shared bool) error
	Truncate(size int64) error
	// Reserve gives the first size bytes their place on the disk, so that no write there meets a full one. Bytes that are not
	// written yet read as zeroes.
	Reserve(size int64) error
	// Zero makes the range read as zeroes: as a hole, or with its place kept. It fails with an error that wraps
	// [errors.ErrUnsupported] where that would mean to write them.
	Zero(off, length int64, keep bool) error
	// NextData finds the first run of data at or after off; ok is false when the rest is a hole. What cannot tell has no holes.
	NextData(off int64) (start, end int64, ok bool, err error)
	// Sync returns when content and size are on stable storage. After an error, what was written before may be lost, and another
	// Sync will not say so again.
	Sync() error
	// Map returns the first length bytes as memory, good until the file is closed, also across growth. Stores to it are like
	// writes: they outlive the process, and Sync makes them durable. A store where the file has no place on the disk may kill
	// the process: Reserve first.
	Map(length int64) ([]byte, error)
}

// Prompt is what a [File] offers besides, if it can tell what is in memory from what must be fetched.
type Prompt interface {
	// TryReadAt reads if all of the range is in memory; else done is false.
	TryReadAt(p []byte, off int64) (done bool, err error)
}

// Starter is what a [File] offers besides, if it can begin to make durable what was written, so that the next Sync waits for less.
type Starter interface {
	StartSync()
}

// Splicer is what a [File] offers besides, if its content can come and go by way of pipes, without being copied into this process.
type Splicer interface {
	// SpliceAt puts n bytes from off on into a pipe, or as many as it takes.
	SpliceAt(pipe, n int, off int64) (int, error)
	// SpliceFrom writes n bytes, which the pipe holds; if it fails, some of them may still be there.
	SpliceFrom(pipe, n int, off int64) error
}

// Info is what is known of a file.
type Info struct {
	Size int64
	// Allocated is its place on the disk, in bytes.
	Allocated int64
	// Changed is when the content was changed last, ns since 1970; 0 where that is not kept.
	Changed int64
	// Device says that it is a block device: of fixed size, without names for its holes.
	Device bool
}

// ReadFile returns the content of a small file.
func ReadFile(fsys FS, path string) ([]byte, error) {
	f, err := fsys.Open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	info, err := f.Info()
	b := make([]byte, info.Size)
	if err == nil {
		_, err = f.ReadAt(b, 0)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, errors.Join(err, f.Close())
}

// Replace gives the file at path a new content in one step: after a crash it has the old one or the new.
func Replace(fsys FS, path string, content []byte) error {
	return ReplaceWith(fsys, path, func(f File) error {
		_, err := f.WriteAt(content, 0)
		return err
	})
}

// ReplaceWith is [Replace] with a content that fill writes.
func ReplaceWith(fsys FS, path string, fill func(File) error) error {
	tmp := path + ".new"
	f, err := fsys.Open(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = fsys.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(fsys, tmp))
	}
	return fsys.SyncDir(filepath.Dir(path))
}

func removeIfThere(fsys FS, path string) error {
	if err := fsys.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
