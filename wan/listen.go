package wan

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Accept looks at a stream that a peer wants to open. It returns the function that will own the stream (and closes it by
// returning), or an error, whose text the peer is told.
type Accept func(ctx context.Context, h Hello, peer tls.ConnectionState) (serve func(context.Context, *Stream), err error)

// Listener accepts streams of other agents.
type Listener struct {
	TLS    *tls.Config
	Meter  *Meter
	Budget *Budget
	Accept Accept
	Logger *slog.Logger
}

// Serve accepts streams from l until ctx ends, then closes every stream and returns after the last one has been given
// up. It closes l.
func (ln *Listener) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() {
				continue
			}
			return fmt.Errorf("wan: accept: %w", err)
		}
		streams.Add(1)
		go func() {
			defer streams.Done()
			defer conn.Close()
			unhook := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer unhook()
			if err := ln.serve(ctx, conn); err != nil && ctx.Err() == nil {
				ln.Logger.Warn("stream refused", "peer", conn.RemoteAddr().String(), "err", err)
			}
		}()
	}
}

func (ln *Listener) serve(ctx context.Context, tcp net.Conn) error {
	counted := newCountedConn(tcp)
	conn := tls.Server(counted, ln.TLS)
	_ = conn.SetDeadline(time.Now().Add(openTimeout))
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("wan: handshake: %w", err)
	}
	var h Hello
	if err := readMessage(conn, &h); err != nil {
		return err
	}
	if h.Version != version {
		err := fmt.Errorf("wan: version %d of the opening exchange is not spoken here, %d is: install the same godwit at both sites", h.Version, version)
		return errors.Join(err, writeMessage(conn, answer{Error: err.Error()}))
	}
	tune(tcp, h.Class)
	serve, err := ln.Accept(ctx, h, conn.ConnectionState())
	if err != nil {
		// The peer is told, and it is the peer's to be alarmed: mostly it asks for an attempt that is over.
		ln.Logger.Info("stream refused", "peer", tcp.RemoteAddr().String(), "kind", h.Kind, "service", h.Service, "epoch", h.Epoch, "why", err)
		return writeMessage(conn, answer{Error: err.Error()})
	}
	counted.belongTo(ln.Meter.counter(h.Service, h.Epoch), ln.Budget, h.Class)
	if err := writeMessage(conn, answer{UnixNano: time.Now().UnixNano()}); err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Time{})
	serve(ctx, &Stream{Conn: conn, Hello: h})
	return nil
}
