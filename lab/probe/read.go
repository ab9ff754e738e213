package probe

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// read takes in replies until it may not go on or the connection ends. A TCP connection tells when the kernel received
// what is read, so that a reader who comes late measures right all the same.
func (s *session) read(t *tally) error {
	favourThread()
	if tcp, ok := s.conn.(*net.TCPConn); ok {
		return s.readTCP(tcp, t)
	}
	buf := make([]byte, 4096)
	for s.reading.Load() {
		if err := s.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			return err
		}
		n, err := s.conn.Read(buf)
		t.take(buf[:n], time.Now().UnixNano(), 0)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return s.broken(err)
		}
	}
	return nil
}

// broken turns the end of a connection into an error unless the probe is over.
func (s *session) broken(err error) error {
	if !s.reading.Load() {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the service closed the connection")
	}
	return err
}

func (s *session) readTCP(tcp *net.TCPConn, t *tally) error {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Control(func(fd uintptr) { result = s.readDescriptor(int(fd), t) })
	return errors.Join(err, result)
}

// readDescriptor blocks its own thread, not the runtime's poller: one wake-up less between a reply and its time.
func (s *session) readDescriptor(fd int, t *tally) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return os.NewSyscallError("ask for receive times", err)
	}
	buf, control := make([]byte, 4096), make([]byte, 128)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for s.reading.Load() {
		if n, err := unix.Poll(fds, 20); n == 0 || err != nil {
			continue
		}
		n, controlled, _, _, err := unix.Recvmsg(fd, buf, control, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return s.broken(err)
		case n == 0:
			return s.broken(io.EOF)
		}
		now := time.Now().UnixNano()
		at := stamp(control[:controlled])
		if at == 0 || at > now {
			at = now
		}
		t.take(buf[:n], at, now-at)
	}
	return nil
}

// stamp takes the kernel's receive time out of a control message: ns of the wall clock, 0 if there is none. It is
// read in place, because the library's parser allocates, a thousand times a second.
func stamp(control []byte) int64 {
	const header = int(unsafe.Sizeof(unix.Cmsghdr{}))
	if len(control) < header+int(unsafe.Sizeof(unix.Timespec{})) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.SOL_SOCKET || h.Type != unix.SCM_TIMESTAMPNS {
		return 0
	}
	return (*unix.Timespec)(unsafe.Pointer(&control[header])).Nano()
}

// favourThread gives the calling goroutine a thread of its own, which ends with it, and asks for exact timers and a
// place before computing processes. Without the rights to it, the report will show the lateness.
func favourThread() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	attr := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}
	_ = unix.SchedSetAttr(0, attr, 0)
}
