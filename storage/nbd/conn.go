package nbd

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendBuffer is asked for on unix sockets, in bytes, so that a reply of 1 MiB need not wait for its reader.
const sendBuffer = 2 << 20

// conn is a client's connection. Once it is in transmission, and plain, it is a blocking descriptor without the runtime's
// poller between: the thread that waits in read is the one that answers.
type conn struct {
	mu   sync.Mutex
	net  net.Conn
	fd   int // -1 while net is in use
	gone bool
}

// encrypted replaces the connection by one on top of it.
func (c *conn) encrypted(over net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.net = over
}

// takeDescriptor goes on with the bare descriptor, where there is one; else everything stays as it is.
func (c *conn) takeDescriptor() {
	bare, ok := c.net.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := bare.SyscallConn()
	if err != nil {
		return
	}
	fd := -1
	err = raw.Control(func(theirs uintptr) { fd, _ = unix.FcntlInt(theirs, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil || fd < 0 {
		return
	}
	if unix.SetNonblock(fd, false) != nil {
		_ = unix.Close(fd)
		return
	}
	if _, ok := c.net.(*net.UnixConn); ok && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) // as far as the machine allows: speed alone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		_ = unix.Close(fd)
		return
	}
	_ = c.net.Close()
	c.fd = fd
}

func (c *conn) Read(p []byte) (int, error) {
	if c.fd < 0 {
		return c.net.Read(p)
	}
	for {
		n, err := unix.Read(c.fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (c *conn) Write(p []byte) (int, error) {
	if c.fd < 0 {
		return c.net.Write(p)
	}
	for done := 0; ; {
		n, err := unix.SendmsgN(c.fd, p[done:], nil, nil, unix.MSG_NOSIGNAL)
		done += max(n, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return done, os.NewSyscallError("send", err)
		}
		if done == len(p) {
			return done, nil
		}
	}
}

// cut ends the connection for whoever reads or writes it; it may be called at any time, and more than once.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	if c.fd >= 0 {
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
		return
	}
	_ = c.net.Close()
}

// release gives the descriptor back, when nobody uses the connection any more.
func (c *conn) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	if c.fd < 0 {
		_ = c.net.Close()
		return
	}
	_ = unix.Close(c.fd)
	c.fd = -1
}
