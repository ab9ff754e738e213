package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// OS is the machine's file system.
type OS struct{}

var (
	_ FS     = OS{}
	_ File   = (*osFile)(nil)
	_ Prompt = (*osFile)(nil)

	_ Starter = (*osFile)(nil)
	_ Splicer = (*osFile)(nil)
)

// osFile is a file or block device of the machine, used by its descriptor: os.File would lock it for every call.
type osFile struct {
	file   *os.File
	fd     int
	device bool
	// patient: the file system cannot tell what is in memory.
	patient atomic.Bool
	maps    [][]byte
}

// Open opens a file, or a block device; that one only if it is not mounted or otherwise taken.
func (OS) Open(path string, flag int) (File, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0 && flag&os.O_RDWR != 0 {
		flag |= os.O_EXCL
		flag &^= os.O_CREATE
	}
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	mode := info.Mode()
	device := mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0
	if !mode.IsRegular() && !device {
		return nil, errors.Join(fmt.Errorf("open %s: it is neither a file nor a block device", path), f.Close())
	}
	return &osFile{file: f, fd: int(f.Fd()), device: device}, nil
}

// Rename gives a file another name, in place of what has it now.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove removes a file.
func (OS) Remove(path string) error { return os.Remove(path) }

// SyncDir makes the names in a folder durable.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *osFile) Name() string { return f.file.Name() }

// again repeats a system call that a signal interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (f *osFile) fault(op string, off, length int64, err error) error {
	return fmt.Errorf("%s %d bytes at %d of %s: %w", op, length, off, f.Name(), err)
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; ; {
		n, err := unix.Pread(f.fd, p[done:], off+int64(done))
		done += max(n, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return done, f.fault("read", off, int64(len(p)), err)
		case done == len(p):
			return done, nil
		case n == 0:
			return done, io.EOF
		}
	}
}

// TryReadAt reads what the page cache has.
func (f *osFile) TryReadAt(p []byte, off int64) (bool, error) {
	if f.patient.Load() {
		return false, nil
	}
	n, err := unix.Preadv2(f.fd, [][]byte{p}, off, unix.RWF_NOWAIT)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		f.patient.Store(true)
	}
	return err == nil && n == len(p), nil // whatever it was: ReadAt will say it
}

// SpliceAt implements Splicer.
func (f *osFile) SpliceAt(pipe, n int, off int64) (int, error) {
	for done := 0; ; {
		got, err := unix.Splice(f.fd, &off, pipe, nil, n-done, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK) // of the pipe, not of the file
		done += int(max(got, 0))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil && !errors.Is(err, unix.EAGAIN):
			return done, f.fault("read", off, int64(n-done), err)
		case got == 0, err != nil, done == n:
			return done, nil
		}
	}
}

// SpliceFrom implements Splicer.
func (f *osFile) SpliceFrom(pipe, n int, off int64) error {
	for n > 0 {
		got, err := unix.Splice(pipe, nil, f.fd, &off, min(n, writeRun), unix.SPLICE_F_MOVE)
		n -= int(max(got, 0))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return f.fault("write", off, int64(n), err)
		case got == 0:
			return f.fault("write", off, int64(n), unix.ENOSPC)
		}
	}
	return nil
}

// writeRun is how much is written at once, in bytes. What ext4 is given in larger pieces it keeps in as large folios, and each small
// write into one goes over all of its blocks: 4 KiB took 28 µs instead of 5.
const writeRun = 64 << 10

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	for done := 0; ; {
		n, err := unix.Pwrite(f.fd, p[done:min(done+writeRun, len(p))], off+int64(done))
		done += max(n, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return done, f.fault("write", off, int64(len(p)), err)
		case done == len(p):
			return done, nil
		case n == 0:
			return done, f.fault("write", off, int64(len(p)), unix.ENOSPC)
		}
	}
}

func (f *osFile) Info() (Info, error) {
	var st unix.Stat_t
	if err := again(func() error { return unix.Fstat(f.fd, &st) }); err != nil {
		return Info{}, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	info := Info{Size: st.Size, Allocated: st.Blocks * 512, Changed: st.Mtim.Nano(), Device: f.device}
	if f.device {
		size, err := unix.Seek(f.fd, 0, io.SeekEnd)
		if err != nil {
			return info, fmt.Errorf("size of %s: %w", f.Name(), err)
		}
		info.Size, info.Allocated, info.Changed = size, size, 0
	}
	return info, nil
}

func (f *osFile) Lock(shared bool) error {
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	err := again(func() error { return unix.Flock(f.fd, how|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock %s: %w", f.Name(), ErrLocked)
	}
	return err
}

func (f *osFile) Truncate(size int64) error { return f.file.Truncate(size) }

func (f *osFile) Reserve(size int64) error {
	err := again(func() error { return unix.Fallocate(f.fd, 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return f.fillTo(size)
	}
	if err != nil {
		return fmt.Errorf("reserve %d bytes for %s: %w", size, f.Name(), err)
	}
	return nil
}

// fillTo reserves by writing zeroes behind the end.
func (f *osFile) fillTo(size int64) error {
	info, err := f.Info()
	zeroes := make([]byte, 1<<20)
	for off := info.Size; err == nil && off < size; off += int64(len(zeroes)) {
		_, err = f.WriteAt(zeroes[:min(size-off, int64(len(zeroes)))], off)
	}
	return err
}

func (f *osFile) Zero(off, length int64, keep bool) error {
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	if keep {
		mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	}
	err := again(func() error { return unix.Fallocate(f.fd, mode, off, length) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), f.device && errors.Is(err, unix.EINVAL): // not whole sectors
		return f.fault("zero", off, length, errors.ErrUnsupported)
	default:
		return f.fault("zero", off, length, err)
	}
}

func (f *osFile) NextData(off int64) (start, end int64, ok bool, err error) {
	info, err := f.Info()
	if err != nil || off >= info.Size {
		return info.Size, info.Size, false, err
	}
	if f.device {
		return off, info.Size, true, nil
	}
	start, err = unix.Seek(f.fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return info.Size, info.Size, false, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return off, info.Size, true, nil
	case err != nil:
		return 0, 0, false, fmt.Errorf("look for data in %s: %w", f.Name(), err)
	}
	end, err = unix.Seek(f.fd, start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, false, fmt.Errorf("look for a hole in %s: %w", f.Name(), err)
	}
	return start, end, true, nil
}

func (f *osFile) Sync() error {
	if err := again(func() error { return unix.Fdatasync(f.fd) }); err != nil {
		return fmt.Errorf("fdatasync %s: %w", f.Name(), err)
	}
	return nil
}

// StartSync implements Starter. What fails here, Sync says.
func (f *osFile) StartSync() { _ = unix.SyncFileRange(f.fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) }

func (f *osFile) Map(length int64) ([]byte, error) {
	b, err := unix.Mmap(f.fd, 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	f.maps = append(f.maps, b)
	return b, nil
}

func (f *osFile) Close() error {
	var errs []error
	for _, b := range f.maps {
		errs = append(errs, unix.Munmap(b))
	}
	f.maps = nil
	return errors.Join(append(errs, f.file.Close())...)
}
