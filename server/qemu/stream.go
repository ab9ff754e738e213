package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// chunk is how much the relay takes at once. What lies in it and in the sockets has to be sent after the guest has stopped.
const chunk = 64 << 10

// stream carries a migration's bytes one way, between a socket of ours that QEMU holds the other end of and a connection to
// the other host. Frozen, it does not read: QEMU waits. close it when done.
type stream struct {
	from, to net.Conn
	moved    atomic.Int64
	stop     chan struct{} // closed by close
	once     sync.Once
	owned    sync.WaitGroup
	copied   chan struct{} // closed when the copying has ended; err holds from then on
	err      error         // nil after a whole stream

	mu     sync.Mutex
	open   chan struct{} // guarded by mu; closed while the stream may flow
	frozen time.Time     // guarded by mu; since when it may not
}

var errStreamClosed = errors.New("the stream was ended here")

// newStream begins to carry, open or frozen. changed is called when the copying has ended.
func newStream(from, to net.Conn, open bool, changed func()) *stream {
	s := &stream{from: from, to: to, stop: make(chan struct{}), copied: make(chan struct{}), open: make(chan struct{})}
	if open {
		close(s.open)
	}
	s.owned.Add(1)
	go func() {
		defer s.owned.Done()
		s.err = s.carry()
		close(s.copied)
		changed()
	}()
	return s
}

func (s *stream) carry() error {
	buffer := make([]byte, chunk)
	for {
		if err := s.mayFlow(); err != nil {
			return err
		}
		n, err := s.from.Read(buffer)
		if n > 0 {
			if err := s.mayFlow(); err != nil { // it was frozen while we waited for these bytes
				return err
			}
			if _, err := s.to.Write(buffer[:n]); err != nil {
				return s.because("write", err)
			}
			s.moved.Add(int64(n))
		}
		if errors.Is(err, io.EOF) {
			return s.finish()
		}
		if err != nil {
			return s.because("read", err)
		}
	}
}

func (s *stream) because(doing string, err error) error {
	select {
	case <-s.stop:
		return errStreamClosed
	default:
		return fmt.Errorf("%s the memory stream: %w", doing, err)
	}
}

func (s *stream) mayFlow() error {
	s.mu.Lock()
	open := s.open
	s.mu.Unlock()
	select {
	case <-open:
		return nil
	case <-s.stop:
		return errStreamClosed
	}
}

// finish tells the other side that this was all.
func (s *stream) finish() error {
	half, ok := s.to.(interface{ CloseWrite() error })
	if !ok {
		return s.to.Close()
	}
	return half.CloseWrite()
}

// watchPeer ends the stream when the peer closes: it never sends a byte. Without it a frozen stream would not notice.
func (s *stream) watchPeer() {
	s.owned.Add(1)
	go func() {
		defer s.owned.Done()
		_, _ = s.to.Read(make([]byte, 1))
		s.to.Close()
		select {
		case <-s.copied:
		default:
			s.from.Close()
			s.once.Do(func() { close(s.stop) })
		}
	}()
}

func (s *stream) freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.open:
		s.open, s.frozen = make(chan struct{}), time.Now()
	default:
	}
}

// rested is how long the stream has been frozen.
func (s *stream) rested() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.frozen)
}

func (s *stream) thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.open:
	default:
		close(s.open)
	}
}

// broken tells why no more will flow, nil while it may or when all has.
func (s *stream) broken() error {
	select {
	case <-s.copied:
		return s.err
	default:
		return nil
	}
}

func (s *stream) close() {
	s.once.Do(func() { close(s.stop) })
	s.from.Close()
	s.to.Close()
	s.owned.Wait()
}

// socketPair returns our end, and QEMU's, which the caller closes after it was given away. A small send buffer at
// QEMU's end keeps few bytes between its count of what is left and the wire.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "stream")
	theirs = os.NewFile(uintptr(fds[1]), "stream of QEMU")
	defer mine.Close()
	if err = unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUF, chunk); err == nil {
		ours, err = net.FileConn(mine)
	}
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return ours, theirs, nil
}

// giveSocket makes a pair, lets QEMU have one end under the name streamFD, and returns the other.
func (m *machine) giveSocket(ctx context.Context) (net.Conn, error) {
	client, err := m.control(ctx)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := client.GetFD(ctx, streamFD, theirs); err != nil {
		ours.Close()
		return nil, err
	}
	return ours, nil
}

const streamFD = "stream"

// keepShallow lets the kernel hold only little that is not yet on the wire, whatever the window is: what lies there when the
// guest stops is part of the blackout. Connections that are no TCP keep what they have.
func keepShallow(conn net.Conn) {
	for {
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = inner.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, chunk)
	})
}
