package node

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// deadAfter is how long a stream's peer may acknowledge nothing before the stream breaks.
const deadAfter = 10 * time.Second

// handOver returns a descriptor of a connection, for a program.
func handOver(c net.Conn) (fd int, err error) {
	t, is := c.(*net.TCPConn)
	if !is {
		return -1, fmt.Errorf("a stream over %T: TCP is needed", c)
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return -1, err
	}
	cerr := raw.Control(func(of uintptr) {
		_ = unix.SetsockoptInt(int(of), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
		fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0)
	})
	if cerr != nil {
		return -1, cerr
	}
	return fd, err
}

func closeFile(fd int) { _ = unix.Close(fd) }
