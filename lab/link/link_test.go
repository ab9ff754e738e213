package link

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// line is a link between two socket pairs, and the far halves of these.
func line(t *testing.T, s Settings) (l *Link, a, b int) {
	t.Helper()
	var ends [2]End
	var far [2]int
	for i := range ends {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range pair {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
			t.Cleanup(func() { unix.Close(fd) })
		}
		ends[i], far[i] = End{FD: pair[0]}, pair[1]
	}
	l, err := Start(ends[0], ends[1], s, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, far[0], far[1]
}

func send(t *testing.T, fd int, n uint64) {
	t.Helper()
	frame := make([]byte, vnetHeader+60)
	binary.LittleEndian.PutUint64(frame[vnetHeader:], n)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		_, err := unix.Write(fd, frame)
		if err == nil {
			return
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			t.Fatal(err)
		}
		_, _ = unix.Poll(fds, 1000)
	}
}

// receive returns the number of the next frame, waiting for it as long as the test may.
func receive(t *testing.T, fd int) uint64 {
	t.Helper()
	frame := make([]byte, 200)
	for {
		n, err := unix.Read(fd, frame)
		if err == nil && n == vnetHeader+60 {
			return binary.LittleEndian.Uint64(frame[vnetHeader:])
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

func TestALinkCarriesFramesBothWaysInOrderAndNeverEarly(t *testing.T) {
	const delay = 3 * time.Millisecond
	l, a, b := line(t, Settings{Delay: delay, Rate: 1_000_000_000})
	for _, way := range [][2]int{{a, b}, {b, a}} {
		for n := range uint64(50) {
			sent := time.Now()
			send(t, way[0], n)
			if got := receive(t, way[1]); got != n {
				t.Fatalf("frame %d came as %d", n, got)
			}
			if took := time.Since(sent); took < delay {
				t.Fatalf("frame %d took %v, the delay is %v", n, took, delay)
			}
		}
	}
	ab, ba := l.Counters()
	if ab.Packets != 50 || ba.Packets != 50 || ab.Bytes != 3000 || ab.Dropped()+ba.Dropped() != 0 {
		t.Errorf("counted %+v and %+v", ab, ba)
	}
}

func TestACutLosesEverythingUntilRestored(t *testing.T) {
	l, a, b := line(t, Settings{Delay: 50 * time.Millisecond})
	send(t, a, 1) // under way when the cut comes
	waitFor(t, func() bool { n, _ := unix.IoctlGetInt(a, unix.TIOCOUTQ); return n == 0 })
	if err := l.Set(Settings{Cut: true, Delay: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	send(t, a, 2)
	waitFor(t, func() bool { ab, _ := l.Counters(); return ab.CutOff == 2 })
	if err := l.Set(Settings{Delay: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	send(t, a, 3)
	if got := receive(t, b); got != 3 {
		t.Errorf("after the cut frame %d came first", got)
	}
}

func TestLossTakesItsShareAndCountsIt(t *testing.T) {
	l, a, b := line(t, Settings{Loss: 0.25})
	const frames = 2000
	got := 0
	for n := range uint64(frames) {
		send(t, a, n)
		waitFor(t, func() bool { ab, _ := l.Counters(); return ab.Packets+ab.Dropped() == n+1 })
	}
	ab, _ := l.Counters()
	for buf := make([]byte, 100); ; got++ {
		if _, err := unix.Read(b, buf); err != nil {
			break
		}
	}
	if ab.Lost < frames/5 || ab.Lost > frames*3/10 || uint64(got) != frames-ab.Lost {
		t.Errorf("lost %d of %d, %d arrived", ab.Lost, frames, got)
	}
}

func TestARemovedEndDoesNotSpinAndCloseReturns(t *testing.T) {
	l, a, _ := line(t, Settings{})
	unix.Shutdown(a, unix.SHUT_RDWR)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal("closing twice:", err)
	}
	if l.Set(Settings{}) == nil {
		t.Error("a closed link was set")
	}
}

func TestCarryingFramesAllocatesNothing(t *testing.T) {
	_, a, b := line(t, Settings{Rate: 1_000_000_000})
	frame, in := make([]byte, vnetHeader+60), make([]byte, 200)
	allocs := testing.AllocsPerRun(200, func() {
		_, _ = unix.Write(a, frame)
		for {
			if n, _ := unix.Read(b, in); n > 0 {
				return
			}
		}
	})
	if allocs >= 1 {
		t.Errorf("%v allocations per frame", allocs)
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatal("it never came true")
		}
		_, _ = unix.Poll(nil, 1)
	}
}
