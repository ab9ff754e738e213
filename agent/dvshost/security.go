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
	"strings"
)

// ErrPlain refuses to talk to other machines without certificates.
var ErrPlain = errors.New("without certificates nodes talk over loopback addresses only: give --cert, --key and --ca")

// ErrIdentity refuses a node that is not the one it says.
var ErrIdentity = errors.New("the certificate is not that node's: its name has to be among the certificate's DNS names, or its common name")

// Files name a certificate, its key, and the authority that all nodes' certificates come from. All three or none are given.
type Files struct{ Certificate, Key, Authority string }

// ErrSpeaksFor refuses a request that is made for another node than the one that asks.
var ErrSpeaksFor = errors.New("a node speaks for itself alone: the request is made for another than its certificate names")

// Proof is how a node proves who it is, and learns who others are, where that is not in Files.
type Proof struct {
	// Server is for connections that others open. It has to demand certificates.
	Server *tls.Config
	// Client is for connections to that node; no other must be able to answer them.
	Client func(node string) (*tls.Config, error)
	// Names says which nodes the other end of a connection with Server may be.
	Names func(tls.ConnectionState) ([]string, error)
}

// security is a Proof that is complete. nil proves nothing.
type security Proof

func (o NodeOptions) security() (*security, error) {
	if o.Proof != nil {
		return (*security)(o.Proof), nil
	}
	return o.TLS.load(o.Name)
}

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
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := certificate.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			return nil, fmt.Errorf("%s is none of the authority in %s for servers and clients, or not of today: no other node would take it: %w", f.Certificate, f.Authority, err)
		}
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, RootCAs: pool,
	}
	return &security{
		Server: config,
		Client: func(node string) (*tls.Config, error) { return onlyTo(config, node), nil },
		Names: func(state tls.ConnectionState) ([]string, error) {
			return namesOf(state.PeerCertificates[0]), nil
		},
	}, nil
}

// onlyTo returns the configuration for calls of one node.
func onlyTo(config *tls.Config, node string) *tls.Config {
	config = config.Clone()
	own := config.Certificates[0] // shown to whoever asks, so that they can say what is wrong with it
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	config.InsecureSkipVerify = true // the address is not in the certificate; the node's name is, and is verified here
	config.VerifyConnection = func(state tls.ConnectionState) error {
		leaf := state.PeerCertificates[0]
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: config.RootCAs, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return err
		}
		return namesOf(leaf).include(node)
	}
	return config
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

// askerKey is the key of a request's context for the names of who asks.
type askerKey struct{}

// withAsker notes who is at the other end of a connection, for its requests.
func withAsker(ctx context.Context, c net.Conn) context.Context {
	if known, ok := c.(*readAgain); ok {
		return context.WithValue(ctx, askerKey{}, known.names)
	}
	return ctx
}

// speaksFor refuses a request that is made for none of these nodes by whoever asks. Where nobody proves anything, everybody is believed.
func speaksFor(ctx context.Context, nodes ...string) error {
	asker, _ := ctx.Value(askerKey{}).(names)
	if asker == nil || slices.ContainsFunc(nodes, func(n string) bool { return n != "" && slices.Contains(asker, n) }) {
		return nil
	}
	return fmt.Errorf("node %s asks for node %s: %w", strings.Join(slices.DeleteFunc(slices.Clone(asker), isEmpty), ", "), strings.Join(nodes, ", "), ErrSpeaksFor)
}

func isEmpty(s string) bool { return s == "" }

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
	config, err := s.Client(node)
	if err != nil {
		return nil, errors.Join(err, c.Close())
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
	secure := tls.Server(c, s.Server)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	all, err := s.Names(secure.ConnectionState())
	if err != nil {
		return nil, nil, err
	}
	return secure, append(names{}, all...), nil
}
