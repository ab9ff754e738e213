package dvs

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ears wait for the bell and the streams of a session. The runtime would wake a thread for whatever comes by a stream, also while somebody polls;
// so it is not told of the streams, but of a set of them that is open only while nobody does.
type ears struct {
	streams int      // epoll: all streams
	file    *os.File // epoll: the bell, and streams while open; what the runtime waits for
	set     int      // the descriptor of file
	open    bool     // guarded by the session's lock
}

func newEars(bell *os.File) (*ears, error) {
	e := &ears{streams: -1, set: -1}
	var err error
	if e.streams, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		e.set, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	}
	if err == nil {
		err = unix.SetNonblock(e.set, true)
	}
	if err == nil {
		err = unix.EpollCtl(e.set, unix.EPOLL_CTL_ADD, e.streams, &unix.EpollEvent{Fd: int32(e.streams)})
	}
	if err == nil {
		raw, rerr := bell.SyscallConn()
		if err = rerr; err == nil {
			err = errors.Join(raw.Control(func(fd uintptr) {
				rerr = unix.EpollCtl(e.set, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
			}), rerr)
		}
	}
	if err != nil {
		_, _ = unix.Close(e.streams), unix.Close(e.set)
		return nil, fmt.Errorf("wait for streams: %w", err)
	}
	e.file = os.NewFile(uintptr(e.set), "ears")
	return e, nil
}

// add adds a stream, which is reported by its number.
func (e *ears) add(fd int, index uint32) error {
	return unix.EpollCtl(e.streams, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(index)})
}

// listen opens them to streams, and tells whether one has something already: that, the kernel reports only sometimes.
func (e *ears) listen() bool {
	if e == nil || e.open {
		return false
	}
	e.open = true
	e.modify(unix.EPOLLIN)
	return e.heard()
}

// rest closes them: somebody looks.
func (e *ears) rest() {
	if e != nil && e.open {
		e.open = false
		e.modify(0)
	}
}

// modify says what is to be reported of streams. The runtime is not told of calls that never wait; see socket.Stream.
func (e *ears) modify(events uint32) {
	m := unix.EpollEvent{Events: events, Fd: int32(e.streams)}
	_, _, _ = unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(e.set), unix.EPOLL_CTL_MOD, uintptr(e.streams), uintptr(unsafe.Pointer(&m)), 0, 0)
}

// heard tells whether a stream has something. It may be asked without the lock.
func (e *ears) heard() bool {
	return e != nil && len(e.ready(make([]unix.EpollEvent, 1))) > 0
}

// ready returns streams that have something, each with its number as Fd.
func (e *ears) ready(events []unix.EpollEvent) []unix.EpollEvent {
	n, _, err := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.streams), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if err != 0 {
		return nil
	}
	return events[:n]
}

// close gives them back. Nobody waits any more.
func (e *ears) close() {
	if e != nil {
		_ = e.file.Close()
		_ = unix.Close(e.streams)
	}
}
