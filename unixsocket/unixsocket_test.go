package unixsocket

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// abandoned is the path of a socket that its program has left.
func abandoned(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestADeadSocketIsReplaced(t *testing.T) {
	path := abandoned(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("beside it there is %v, %v", left, err)
	}
}

func TestALiveSocketIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// Nobody is let in while a listener's queue is full, and it lives all the same.
func TestALiveSocketIsKeptWhenItsQueueIsFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	waits, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

func TestAFileIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrNotSocket) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestALongPathIsRefused(t *testing.T) {
	if _, err := Listen(filepath.Join(t.TempDir(), strings.Repeat("x", Longest))); !errors.Is(err, ErrTooLong) {
		t.Errorf("%v", err)
	}
}

// Each of two who find a dead socket could remove it after the other has begun to listen.
func TestOfManyAtOnceOneListens(t *testing.T) {
	for range 50 {
		path := abandoned(t)
		var listening atomic.Int32
		var wg sync.WaitGroup
		var won *net.UnixListener
		for range 4 {
			wg.Go(func() {
				l, err := Listen(path)
				switch {
				case err == nil:
					won = l
					listening.Add(1)
				case !errors.Is(err, ErrInUse):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := listening.Load(); n != 1 {
			t.Fatalf("%d listen", n)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("the one who listens cannot be reached: %v", err)
		}
		_, _ = c.Close(), won.Close()
	}
}
