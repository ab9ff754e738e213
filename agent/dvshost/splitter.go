package dvshost

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs/wire"
)

// helloTime bounds how long a stranger may take to say who it is.
const helloTime = 5 * time.Second

// splitter takes in connections of other nodes at one port: links of dvs/node, which begin with a frame, and requests, which begin with the
// name of a method. It is the listener of the latter.
type splitter struct {
	l    net.Listener
	tls  *security
	log  *slog.Logger
	link func(net.Conn) error
	http chan net.Conn
	done chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

// run accepts until the listener is closed.
func (s *splitter) run() error {
	defer s.wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		c, err := s.l.Accept()
		if err != nil {
			return err
		}
		s.wg.Go(func() {
			if err := s.take(ctx, c); err != nil && !errors.Is(err, net.ErrClosed) {
				s.log.Info("DVS node: connection refused", "from", c.RemoteAddr().String(), "err", err)
				_ = c.Close()
			}
		})
	}
}

// take finds out what a connection is.
func (s *splitter) take(ctx context.Context, raw net.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	if err := raw.SetDeadline(time.Now().Add(helloTime)); err != nil {
		return err
	}
	c, names, err := s.tls.accept(ctx, raw)
	if err != nil {
		return err
	}
	r := bufio.NewReader(c)
	first, err := r.Peek(4)
	if err != nil {
		return err
	}
	if isMethod(first) {
		if err := raw.SetDeadline(time.Time{}); err != nil {
			return err
		}
		select {
		case s.http <- &readAgain{Conn: c, r: r, names: names}:
			return nil
		case <-s.done:
			return net.ErrClosed
		}
	}
	f, err := wire.Read(r)
	if err != nil {
		return err
	}
	hello, err := wire.ParseLinkHello(f.Body)
	if err != nil || f.Kind != wire.KindLinkHello {
		return fmt.Errorf("%s for a hello: %w", f.Kind, errors.Join(err, wire.ErrFrame))
	}
	if err := names.include(hello.Node); err != nil {
		return err
	}
	again := bufio.NewReader(bytes.NewReader(f.Append(nil)))
	return s.link(asSecure(&readAgain{Conn: c, r: again, then: r}))
}

func isMethod(b []byte) bool {
	switch string(b) {
	case "GET ", "POST", "PUT ":
		return true
	default:
		return false
	}
}

// Accept returns the next connection with requests.
func (s *splitter) Accept() (net.Conn, error) {
	select {
	case c := <-s.http:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (s *splitter) Close() error {
	s.once.Do(func() { close(s.done) })
	return s.l.Close()
}

// Addr returns where it listens.
func (s *splitter) Addr() net.Addr { return s.l.Addr() }

// readAgain is a connection of which something has been read beforehand.
type readAgain struct {
	net.Conn
	r     *bufio.Reader
	then  *bufio.Reader
	names names // of the other end, as far as that is proved
}

// Read returns what was read beforehand first.
func (c *readAgain) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if n == 0 && err != nil && c.then != nil {
		c.r, c.then = c.then, nil
		return c.r.Read(b)
	}
	return n, err
}
