package wan

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// ErrRefused is returned when the peer answered, and would not have the stream. Trying again is of no use.
var ErrRefused = errors.New("refused by the peer")

// openTimeout bounds the handshake and the opening exchange.
const openTimeout = 10 * time.Second

// Stream is one open stream.
type Stream struct {
	*tls.Conn
	Hello Hello
	// ClockOffset is the peer's clock minus ours, known to within ClockUncertainty. Zero at the listener's end.
	ClockOffset, ClockUncertainty time.Duration
}

// Dialer opens streams to other agents.
type Dialer struct {
	// TLS must verify that the peer is an agent; see cluster/identity.
	TLS    *tls.Config
	Meter  *Meter
	Budget *Budget
}

// Dial opens a stream to the agent at addr (HOST:PORT).
func (d *Dialer) Dial(ctx context.Context, addr string, h Hello) (*Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	var nd net.Dialer
	tcp, err := nd.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("wan: open %s stream of %s to %s: %w", h.Kind, h.Service, addr, err)
	}
	tune(tcp, h.Class)
	counted := newCountedConn(tcp)
	counted.belongTo(d.Meter.counter(h.Service, h.Epoch), d.Budget, h.Class)
	conn := tls.Client(counted, d.TLS)
	s, err := openStream(ctx, conn, h)
	if err != nil {
		_ = tcp.Close()
		return nil, fmt.Errorf("wan: open %s stream of %s to %s: %w", h.Kind, h.Service, addr, err)
	}
	return s, nil
}

func openStream(ctx context.Context, conn *tls.Conn, h Hello) (*Stream, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	h.Version = version
	sent := time.Now()
	if err := writeMessage(conn, h); err != nil {
		return nil, err
	}
	var a answer
	if err := readMessage(conn, &a); err != nil {
		return nil, err
	}
	received := time.Now()
	if a.Error != "" {
		return nil, fmt.Errorf("%w: %s", ErrRefused, a.Error)
	}
	_ = conn.SetDeadline(time.Time{})
	s := &Stream{Conn: conn, Hello: h}
	s.ClockOffset, s.ClockUncertainty = clockOffset(sent, received, a.UnixNano)
	return s, nil
}
