// Package unixsocket listens at a path in the file system where a program that has ended, or was killed, may have left its socket.
// Directories, permissions and what a user is told to do are the callers'.
package unixsocket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The reasons why nobody may listen at a path.
var (
	// ErrInUse is returned when somebody listens there.
	ErrInUse = errors.New("another program listens there")
	// ErrNotSocket is returned when a file of that name is there that is no socket. It stays.
	ErrNotSocket = errors.New("a file of that name is there, and is no socket")
	// ErrTooLong is returned when the path has more than Longest bytes.
	ErrTooLong = errors.New("the path is too long for a socket")
)

// Longest is how many bytes the path of a socket may have on Linux (unix(7): sun_path, less the zero at its end).
const Longest = 107

const (
	patience = 5 * time.Second // with others who begin at the same moment
	between  = 5 * time.Millisecond
	// answering is how long a listener may take to let one in whose queue is full.
	answering = time.Second
)

// Listen listens at a path, in place of a socket at which nobody listens any more. Of several who begin at once, one gets it and the
// others are told [ErrInUse]. The directory must be there; it is locked (flock) meanwhile, which leaves nothing behind.
func Listen(path string) (*net.UnixListener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (*net.UnixListener, error) {
	if len(path) > Longest {
		return nil, fmt.Errorf("%w: it has %d bytes, of %d at most", ErrTooLong, len(path), Longest)
	}
	// Between looking and removing another one may have begun to listen: his socket would be removed.
	locked, err := lock(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer locked.Close()
	if err := sweep(path); err != nil {
		return nil, err
	}
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}

// lock keeps others who come here out of a directory until it is closed.
func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(patience); ; time.Sleep(between) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
		case time.Now().After(end):
			return nil, errors.Join(fmt.Errorf("lock %s: another program has it locked for %v", dir, patience), f.Close())
		}
	}
}

// sweep removes a socket at which nobody listens.
func sweep(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return ErrNotSocket
	}
	c, err := net.DialTimeout("unix", path, answering)
	switch {
	case err == nil:
		return errors.Join(ErrInUse, c.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.EAGAIN): // its queue is full
		return ErrInUse
	}
	return err // whether somebody listens is not known
}
