package nbd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
)

// Server offers one backend on one listener.
type Server struct {
	name    string
	backend Backend
	log     *slog.Logger
	ln      net.Listener
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Serve begins to answer on ln, which the server owns from now on, under the export's name; the empty name leads to it too.
func Serve(ln net.Listener, name string, backend Backend, log *slog.Logger) *Server {
	s := &Server{name: name, backend: backend, log: log, ln: ln, conns: map[net.Conn]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.accept)
	return s
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
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

func (s *Server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			if s.ctx.Err() == nil {
				s.log.Error("NBD export stopped listening", "export", s.name, "err", err)
			}
			return
		}
		s.mu.Lock()
		if s.ctx.Err() != nil {
			s.mu.Unlock()
			_ = c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(c) })
	}
}

func (s *Server) serve(c net.Conn) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	n := negotiation{rw: c, name: s.name, size: s.backend.Size()}
	err := n.run()
	if err == nil {
		err = newTransmission(s.ctx, c, s.backend, &n).run()
	}
	if err != nil && s.ctx.Err() == nil && !errors.Is(err, errAborted) && !errors.Is(err, io.EOF) && !errors.Is(err, ErrHangUp) {
		s.log.Warn("NBD connection ended", "export", s.name, "err", err)
	}
}
