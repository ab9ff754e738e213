package dvshost

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
)

// ErrPlain refuses to talk to other machines without certificates.
var ErrPlain = errors.New("without certificates nodes talk over loopback addresses only: give --cert, --key and --ca")

// ErrIdentity refuses a node that is not the one it says.
var ErrIdentity = errors.New("the certificate is not that node's: its name has to be among the certificate's DNS names, or its common name")

// Files name a certificate, its key, and the authority that all nodes' certificates come from. All three or none are given.
type Files struct{ Certificate, Key, Authority string }

// security is how a node proves who it is. nil proves nothing.
type security struct{ config *tls.Config }

func (f Files) load(node string) (*security, error) {
	if f == (Files{}) {
		return nil, nil
	}
	if f.Certificate == "" || f.Key == "" || f.Authority == "" {
		return nil, errors.New("--cert, --key and --ca belong together: give all three")
	}
	certificate, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
	if err != nil {
		return nil, fmt.Errorf("load the node's certificate: %w", err)
	}
	if err := namesOf(certificate.Leaf).include(node); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Certificate, err)
	}
	authority, err := os.ReadFile(f.Authority)
	if err != nil {
		return nil, fmt.Errorf("load the nodes' authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", f.Authority)
	}
	return &security{&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, RootCAs: pool,
	}}, nil
}

// names are those that a node may have; nil allows any, where nobody proves anything.
type names []string

func namesOf(c *x509.Certificate) names {
	return append(slices.Clone(c.DNSNames), c.Subject.CommonName)
}

func (n names) include(node string) error {
	if n == nil || node != "" && slices.Contains(n, node) {
		return nil
	}
	return fmt.Errorf("node %q: %w", node, ErrIdentity)
}

// allows refuses an address that may not be used without certificates. "" is none.
func (s *security) allows(address string) error {
	if s != nil || address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %q: want HOST:PORT: %w", address, err)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("address %s: %w", address, ErrPlain)
}

// dial connects to a node and makes sure that it is the one.
func (s *security) dial(ctx context.Context, node, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil || s == nil {
		return c, err
	}
	config := s.config.Clone()
	config.InsecureSkipVerify = true // the address is not in the certificate; the node's name is, and is verified here
	config.VerifyConnection = func(state tls.ConnectionState) error {
		leaf := state.PeerCertificates[0]
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: config.RootCAs, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return err
		}
		return namesOf(leaf).include(node)
	}
	secure := tls.Client(c, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("node %s at %s: %w", node, address, err), c.Close())
	}
	return secure, nil
}

// accept finds out which names the other end may have.
func (s *security) accept(ctx context.Context, c net.Conn) (net.Conn, names, error) {
	if s == nil {
		return c, nil, nil
	}
	secure := tls.Server(c, s.config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	return secure, namesOf(secure.ConnectionState().PeerCertificates[0]), nil
}
