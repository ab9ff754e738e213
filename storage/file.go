package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// groupSync makes many callers share one fdatasync: whoever comes while one runs waits for the next.
type groupSync struct {
	file     *os.File
	mu       sync.Mutex
	done     sync.Cond
	running  bool
	started  uint64
	finished uint64
	failedAt uint64
	err      error
}

func newGroupSync(f *os.File) *groupSync {
	g := &groupSync{file: f}
	g.done.L = &g.mu
	return g
}

// sync returns when everything written before the call is on stable storage.
func (g *groupSync) sync() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	want := g.started + 1
	for g.finished < want {
		if g.running {
			g.done.Wait()
			continue
		}
		g.running = true
		g.started++
		mine := g.started
		g.mu.Unlock()
		err := fdatasync(g.file)
		g.mu.Lock()
		g.running = false
		g.finished = mine
		if err != nil {
			g.failedAt, g.err = mine, err
		}
		g.done.Broadcast()
	}
	if g.failedAt >= want {
		return g.err
	}
	return nil
}

// withFd calls do with the descriptor, which cannot be closed meanwhile, nor become another file's.
func withFd(f *os.File, do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := conn.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}

func fdatasync(f *os.File) error {
	for {
		err := withFd(f, unix.Fdatasync)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("fdatasync %s: %w", f.Name(), err)
		}
		return nil
	}
}

// zeroBuffer is what a file system without FALLOC_FL_ZERO_RANGE is written with.
const zeroBuffer = 1 << 20

// zeroRange makes the range read as zeroes: as a hole, or allocated.
func zeroRange(f *os.File, off, length int64, allocate bool) error {
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	if allocate {
		mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	}
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = withFd(f, func(fd int) error { return unix.Fallocate(fd, mode, off, length) })
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS):
	default:
		return fmt.Errorf("zero %d bytes at %d of %s: %w", length, off, f.Name(), err)
	}
	zeroes := make([]byte, min(length, zeroBuffer))
	for length > 0 {
		n := min(length, int64(len(zeroes)))
		if _, err := f.WriteAt(zeroes[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// nextData finds the first run of data at or after off; ok is false when the rest up to size is a hole.
func nextData(f *os.File, off, size int64) (start, end int64, ok bool, err error) {
	seek := func(from int64, whence int) (at int64, err error) {
		err = withFd(f, func(fd int) (err error) {
			at, err = unix.Seek(fd, from, whence)
			return err
		})
		return at, err
	}
	start, err = seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && start >= size {
		return size, size, false, nil
	}
	if err != nil {
		return 0, 0, false, fmt.Errorf("look for data in %s: %w", f.Name(), err)
	}
	end, err = seek(start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, false, fmt.Errorf("look for a hole in %s: %w", f.Name(), err)
	}
	return start, min(end, size), true, nil
}

// allocated is what the file occupies on disk, in bytes.
func allocated(f *os.File) int64 {
	var st unix.Stat_t
	if err := withFd(f, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return 0
	}
	return st.Blocks * 512
}

// writeDurably replaces the file at path in one step: after a crash it has the old content or the new.
func writeDurably(path string, content []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
