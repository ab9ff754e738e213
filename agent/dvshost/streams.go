package dvshost

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// listenStreams has the node give programs here connections of their own to programs of other nodes they talk much with: see node.ServeStreams.
// What passes is encrypted and authenticated if the links are.
func (s *served) listenStreams(ctx context.Context) error {
	if s.o.Streams == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(s.o.Streams)
	if err != nil {
		return fmt.Errorf("streams at %q: want HOST:PORT: %w", s.o.Streams, err)
	}
	if s.o.Listen == "" {
		return errors.New("streams need links: the node has no address for other nodes")
	}
	if err := s.tls.allows(s.o.Streams); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.o.Streams)
	if err != nil {
		return fmt.Errorf("listen for streams: %w", err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "" // where the link leads
	}
	s.run(func() error { return s.node.ServeStreams(l, net.JoinHostPort(host, port)) })
	return nil
}

// secureAgain is a readAgain over TLS. dvs/node asks a link's connection for its state, to learn whether what belongs to it has to be secure.
type secureAgain struct {
	*readAgain
	secure *tls.Conn
}

// ConnectionState returns that of the connection below.
func (c secureAgain) ConnectionState() tls.ConnectionState { return c.secure.ConnectionState() }

// asSecure returns a connection that shows what it is.
func asSecure(c *readAgain) net.Conn {
	if secure, is := c.Conn.(*tls.Conn); is {
		return secureAgain{c, secure}
	}
	return c
}
