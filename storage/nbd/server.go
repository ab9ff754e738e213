package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// handshakeTimeout bounds a TLS handshake.
const handshakeTimeout = 10 * time.Second

// Options of an export. The zero value is good for a unix socket.
type Options struct {
	// Name of the export; the empty name leads to it too.
	Name string
	// Description is shown by clients that ask for it.
	Description string
	// ReadOnly refuses what changes the backend.
	ReadOnly bool
	// TLS, when set, is demanded of every client before anything else is said.
	TLS *tls.Config
	// Logger receives what no caller can be told; nil discards it.
	Logger *slog.Logger
}

// Server offers one backend on one listener.
type Server struct {
	opts    Options
	backend Backend
	flags   uint16
	ln      net.Listener
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// Serve begins to answer on ln, which the server owns from now on, under the export's name; the empty name leads to it too.
func Serve(ln net.Listener, name string, backend Backend, log *slog.Logger) *Server {
	return Start(ln, backend, Options{Name: name, Logger: log})
}

// Start begins to answer on ln, which the server owns from now on.
func Start(ln net.Listener, backend Backend, opts Options) *Server {
	s := newServer(backend, opts)
	s.ln = ln
	s.wg.Go(s.accept)
	return s
}

// ServeConn answers on one connection, which it owns, until the client leaves or ctx ends.
func ServeConn(ctx context.Context, over net.Conn, backend Backend, opts Options) {
	c := &conn{net: over, fd: -1}
	s := newServer(backend, opts)
	s.conns[c] = struct{}{}
	stop := context.AfterFunc(ctx, func() {
		s.cancel()
		c.cut()
	})
	defer stop()
	defer s.cancel()
	s.serve(c)
}

func newServer(backend Backend, opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: opts, backend: backend, flags: flagsOf(backend, opts.ReadOnly), conns: map[*conn]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// flagsOf says what the export can do.
func flagsOf(backend Backend, readOnly bool) uint16 {
	flags := uint16(exportFlags)
	if readOnly {
		flags |= flagReadOnly
	}
	if _, ok := backend.(FastZeroer); ok {
		flags |= flagFastZero
	}
	if _, ok := backend.(Cacher); ok {
		flags |= flagCache
	}
	return flags
}

// Clients is the number of open connections.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Close stops listening, cuts the connections, gives up requests that wait in the backend (through their context) and
// returns when no goroutine of the server is left.
func (s *Server) Close() error {
	s.cancel()
	err := s.ln.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

func (s *Server) accept() {
	for {
		accepted, err := s.ln.Accept()
		if err != nil {
			if s.ctx.Err() == nil {
				s.opts.Logger.Error("NBD export stopped listening", "export", s.opts.Name, "err", err)
			}
			return
		}
		s.mu.Lock()
		if s.ctx.Err() != nil {
			s.mu.Unlock()
			_ = accepted.Close()
			return
		}
		c := &conn{net: accepted, fd: -1}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(c) })
	}
}

func (s *Server) serve(c *conn) {
	defer func() {
		c.release()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	n := negotiation{
		rw: c, name: s.opts.Name, description: s.opts.Description, plain: s.opts.TLS == nil,
		terms: terms{size: s.backend.Size(), flags: s.flags},
	}
	if s.opts.TLS != nil {
		n.startTLS = func() (io.ReadWriter, error) { return c, s.encrypt(c) }
	}
	err := n.run()
	if err == nil {
		c.takeDescriptor()
		err = newTransmission(s.ctx, c, s.backend, n.terms).run()
	}
	if err == nil || s.ctx.Err() != nil {
		return
	}
	for _, usual := range []error{errAborted, io.EOF, ErrHangUp, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, usual) {
			return
		}
	}
	s.opts.Logger.Warn("NBD connection ended", "export", s.opts.Name, "err", err)
}

func (s *Server) encrypt(c *conn) error {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTimeout)
	defer cancel()
	encrypted := tls.Server(c.net, s.opts.TLS)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		return err
	}
	c.encrypted(encrypted)
	return nil
}
