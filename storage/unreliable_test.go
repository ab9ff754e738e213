package storage

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// socketPair is two ends of a connection with the kernel's buffers between.
func socketPair() (a, b net.Conn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			return nil, nil, err
		}
		conns[i] = c
	}
	return conns[0], conns[1], nil
}

// fault is what befalls a connection after it has written a number of bytes.
type fault int

const (
	faultNone  fault = iota
	faultCut         // the connection ends in the middle of a frame
	faultFlip        // a bit changes
	faultStall       // bytes go nowhere any more, without an error
)

// faulty is the source's end of a connection with one fault to come.
type faulty struct {
	net.Conn
	left  atomic.Int64
	fault fault
}

func (f *faulty) Write(p []byte) (int, error) {
	left := f.left.Add(-int64(len(p)))
	if f.fault == faultNone || left >= 0 {
		return f.Conn.Write(p)
	}
	at := max(0, left+int64(len(p))) // the fault's place in p
	switch f.fault {
	case faultCut:
		_, _ = f.Conn.Write(p[:at])
		_ = f.Close()
		return int(at), errors.New("the link was cut")
	case faultFlip:
		if at < int64(len(p)) && left+int64(len(p)) >= 0 {
			q := append([]byte(nil), p...)
			q[at] ^= 1 << (at % 8)
			_, err := f.Conn.Write(q)
			return len(p), err
		}
		return f.Conn.Write(p)
	default:
		return len(p), nil
	}
}

// site is one end of a test: a store whose process may be replaced.
type site struct {
	t    *testing.T
	dir  string
	opts Options

	mu    sync.Mutex
	store *Store
	gone  bool // the test is over
	wg    sync.WaitGroup
}

func newSite(t *testing.T, opts Options) *site {
	t.Helper()
	return newSiteIn(t, fastDir(t), opts)
}

// newSiteIn has its files where what is in the page cache can be told, if dir is on a file system for that.
func newSiteIn(t *testing.T, dir string, opts Options) *site {
	t.Helper()
	s := &site{t: t, dir: dir, opts: opts}
	s.open()
	t.Cleanup(func() {
		s.mu.Lock()
		s.gone = true
		s.mu.Unlock()
		if err := s.get().Close(); err != nil {
			t.Error(err)
		}
		s.wg.Wait()
	})
	return s
}

// fastDir is a folder in memory where there is one: fsync costs nothing there, so that many runs fit into a test.
func fastDir(t testing.TB) string {
	t.Helper()
	root := "/dev/shm"
	if st, err := os.Stat(root); err != nil || !st.IsDir() {
		root = ""
	}
	dir, err := os.MkdirTemp(root, "gw-storage-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (s *site) open() {
	s.t.Helper()
	store, err := Open(s.dir, s.opts)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store = store
}

func (s *site) get() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store
}

// restart closes the store and opens it again, as a restarted agent does.
func (s *site) restart() {
	s.t.Helper()
	if err := s.get().Close(); err != nil {
		s.t.Error(err)
	}
	s.open()
}

func (s *site) volume(name string) *Volume {
	s.t.Helper()
	v, err := s.get().Volume(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// dialer connects to the replica of that name as the agents would; choose picks each connection's fault.
func (s *site) dialer(name string, choose func() (fault, int64)) Dialer {
	return func(context.Context) (net.Conn, error) {
		v, err := s.get().Volume(name)
		if err != nil {
			return nil, err
		}
		return s.connect(choose, func(c net.Conn) { _ = v.ServeReplica(context.Background(), c) })
	}
}

// connect makes a connection whose far end is served at this site.
func (s *site) connect(choose func() (fault, int64), serve func(net.Conn)) (net.Conn, error) {
	a, b, err := socketPair()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, errors.Join(net.ErrClosed, a.Close(), b.Close())
	}
	s.wg.Go(func() { serve(b) })
	f := &faulty{Conn: a}
	if choose != nil {
		var after int64
		f.fault, after = choose()
		f.left.Store(after)
	}
	return f, nil
}

// faults draws faults from rng until quiet says that it is enough.
func faults(rng *rand.Rand, quiet *atomic.Bool) func() (fault, int64) {
	var mu sync.Mutex
	rng = rand.New(rand.NewPCG(rng.Uint64(), 1))
	left := 12
	return func() (fault, int64) {
		mu.Lock()
		defer mu.Unlock()
		if left == 0 || quiet.Load() {
			return faultNone, 0
		}
		left--
		return []fault{faultNone, faultCut, faultCut, faultCut, faultFlip, faultStall}[rng.IntN(6)], rng.Int64N(1 << uint(6+rng.IntN(16)))
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
