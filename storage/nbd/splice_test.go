package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// spliced is a backend in memory whose large requests go by way of a file, as big as it, and by pipes.
type spliced struct {
	*memory
	file    *os.File
	fails   atomic.Bool // SpliceFrom and WriteAt
	reads   atomic.Int32
	written atomic.Int32
}

func (s *spliced) SpliceAt(pipe, n int, off int64) (int, error) {
	s.reads.Add(1)
	if off == 0 {
		return 0, errors.New("not from here")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, err := s.file.WriteAt(s.b[off:off+int64(n)], off); err != nil {
		return 0, err
	}
	got, err := unix.Splice(int(s.file.Fd()), &off, pipe, nil, n, unix.SPLICE_F_NONBLOCK)
	return int(got), err
}

func (s *spliced) SpliceFrom(pipe, n int, off int64) error {
	s.written.Add(1)
	if s.fails.Load() {
		return syscall.ENOSPC
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n > 0 {
		got, err := unix.Read(pipe, s.b[off:off+int64(n)])
		if err != nil || got == 0 {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		off, n = off+int64(got), n-got
	}
	return nil
}

// splicedClient is a client in transmission with a backend that splices.
func splicedClient(t *testing.T, size int) (*spliced, client) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	s := &spliced{memory: &memory{b: make([]byte, size)}, file: f}
	return s, dial(t, serve(t, s))
}

// answered reads one simple reply, with a payload if that is asked for and it is good.
func answered(t *testing.T, conn client, cookie byte, payload int) (no uint32, p []byte) {
	t.Helper()
	head := make([]byte, simpleHead)
	if _, err := io.ReadFull(conn, head); err != nil {
		t.Fatal(err)
	}
	if head[15] != cookie || binary.BigEndian.Uint32(head) != magicSimple {
		t.Fatalf("answer %x to request %d", head, cookie)
	}
	if no = binary.BigEndian.Uint32(head[4:]); no == 0 {
		p = make([]byte, payload)
		if _, err := io.ReadFull(conn, p); err != nil {
			t.Fatal(err)
		}
	}
	return no, p
}

func TestWhatIsSplicedIsWhatWasWritten(t *testing.T) {
	const size = 8 << 20
	s, conn := splicedClient(t, size)
	rng := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, size)
	for i := range uint64(400) {
		n := []int{512, 4096, 64 << 10, 200 << 10, 1 << 20, 1<<20 + 512, 3 << 20}[rng.IntN(7)]
		off := rng.Int64N(size-int64(n)+1) / 512 * 512
		if rng.IntN(2) == 0 {
			p := want[off : off+int64(n)]
			for at := 0; at < n; at += 8 {
				binary.LittleEndian.PutUint64(p[at:], rng.Uint64())
			}
			request := append(command(0, cmdWrite, byte(i), uint64(off), uint32(n)), p...)
			for len(request) > 0 { // in pieces, and the next request's head with the end of this one's payload at times
				k := min(1+rng.IntN(300<<10), len(request))
				if _, err := conn.Write(request[:k]); err != nil {
					t.Fatal(err)
				}
				request = request[k:]
			}
			if no, _ := answered(t, conn, byte(i), 0); no != 0 {
				t.Fatalf("write of %d at %d: error %d", n, off, no)
			}
			continue
		}
		if _, err := conn.Write(command(0, cmdRead, byte(i), uint64(off), uint32(n))); err != nil {
			t.Fatal(err)
		}
		if no, p := answered(t, conn, byte(i), n); no != 0 || !bytes.Equal(p, want[off:off+int64(n)]) {
			t.Fatalf("read of %d at %d: error %d, or other content", n, off, no)
		}
	}
	if s.reads.Load() == 0 || s.written.Load() == 0 {
		t.Errorf("spliced %d times from the backend, %d times into it", s.reads.Load(), s.written.Load())
	}
}

func TestAWriteThatCannotBeSplicedIsAnErrorOfThatRequestAlone(t *testing.T) {
	s, conn := splicedClient(t, 4<<20)
	s.fails.Store(true)
	payload := bytes.Repeat([]byte{7}, 1<<20)
	both := append(command(0, cmdWrite, 1, 1<<20, 1<<20), payload...)
	if _, err := conn.Write(both); err != nil {
		t.Fatal(err)
	}
	if no, _ := answered(t, conn, 1, 0); no != errNoSpace {
		t.Fatalf("error %d", no)
	}
	s.fails.Store(false)
	if _, err := conn.Write(append(command(0, cmdWrite, 2, 1<<20, 1<<20), payload...)); err != nil {
		t.Fatal(err)
	}
	if no, _ := answered(t, conn, 2, 0); no != 0 {
		t.Fatalf("error %d", no)
	}
	if _, err := conn.Write(command(0, cmdRead, 3, 0, 1<<20)); err != nil { // which cannot be spliced
		t.Fatal(err)
	}
	if no, p := answered(t, conn, 3, 1<<20); no != 0 || !bytes.Equal(p, make([]byte, 1<<20)) {
		t.Fatalf("error %d, or other content", no)
	}
}
