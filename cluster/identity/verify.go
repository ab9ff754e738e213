package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// OtherCAError says whose certificate a peer showed. It matches ErrOtherCA.
type OtherCAError struct {
	Theirs Fingerprint // of the CA that the peer showed; zero if it showed none
	Ours   Fingerprint
	Client bool // the peer is the client, so this side is the controller
}

func (e *OtherCAError) Error() string {
	theirs := "unknown"
	if e.Theirs != (Fingerprint{}) {
		theirs = e.Theirs.String()
	}
	if e.Client {
		return fmt.Sprintf("certificate is from another CA (fingerprint %s); this controller's CA is %s; join again with `godwit join`", theirs, e.Ours)
	}
	return fmt.Sprintf("the controller's certificate is from another CA (fingerprint %s); the CA that this machine joined is %s; "+
		"check the controller's address, or join again with `godwit join`", theirs, e.Ours)
}

// Is reports that the error is an ErrOtherCA.
func (e *OtherCAError) Is(target error) bool { return target == ErrOtherCA }

// ServerTLS is the configuration of a listener. With requireClient every peer
// must show a certificate of this cluster, of one of the roles if any are
// given; without, it may show none (joining, browsers), but what it shows is
// checked. What the peer may do is for the caller to decide, by PeerIdentity.
func (c Credentials) ServerTLS(requireClient bool, expect ...Role) (*tls.Config, error) {
	p, err := c.parse()
	if err != nil {
		return nil, fmt.Errorf("server TLS: %w", err)
	}
	v := &verifier{ca: p.ca, roles: expect, usage: x509.ExtKeyUsageClientAuth, optional: !requireClient, now: time.Now}
	// The peer's chain is checked by the verifier alone: crypto/tls's own check
	// says "unknown authority" where the user needs to hear which.
	auth := tls.RequireAnyClientCert
	if !requireClient {
		auth = tls.RequestClientCert
	}
	pool := x509.NewCertPool()
	pool.AddCert(p.ca)
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		Certificates:     []tls.Certificate{p.tls},
		ClientAuth:       auth,
		ClientCAs:        pool, // so that browsers do not offer unrelated certificates
		VerifyConnection: v.verify,
	}, nil
}

// ClientTLS is the configuration for calling a party of one of the given roles.
func (c Credentials) ClientTLS(expect ...Role) (*tls.Config, error) {
	if len(expect) == 0 {
		return nil, fmt.Errorf("client TLS: %w: no expected role", ErrInvalid)
	}
	return c.clientTLS(expect, Identity{})
}

// ClientTLSTo is ClientTLS for one party: the role is required, and of kind, site and
// name what is not empty must match.
func (c Credentials) ClientTLSTo(want Identity) (*tls.Config, error) {
	if want.Role == "" {
		return nil, fmt.Errorf("client TLS: %w: no expected role", ErrInvalid)
	}
	return c.clientTLS([]Role{want.Role}, want)
}

func (c Credentials) clientTLS(roles []Role, want Identity) (*tls.Config, error) {
	p, err := c.parse()
	if err != nil {
		return nil, fmt.Errorf("client TLS: %w", err)
	}
	v := &verifier{ca: p.ca, roles: roles, want: want, usage: x509.ExtKeyUsageServerAuth, now: time.Now}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Sent whatever CAs the server names: it can then say what is wrong with it.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p.tls, nil },
		InsecureSkipVerify:   true, // host names mean nothing here; VerifyConnection checks all the rest
		VerifyConnection:     v.verify,
	}, nil
}

// verifier checks a peer: the chain to the CA, time, usage, then who it is. It
// runs for resumed sessions too, which is why it is not VerifyPeerCertificate.
type verifier struct {
	ca       *x509.Certificate
	roles    []Role   // any of them; none: all
	want     Identity // what is not empty must match
	usage    x509.ExtKeyUsage
	optional bool // no certificate is fine
	now      func() time.Time
}

func (v *verifier) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		if v.optional {
			return nil
		}
		return ErrNoCertificate
	}
	leaf := cs.PeerCertificates[0]
	if err := leaf.CheckSignatureFrom(v.ca); err != nil {
		return v.otherCA(cs.PeerCertificates)
	}
	if err := v.chain(leaf); err != nil {
		return err
	}
	id, err := FromCertificate(leaf)
	if err != nil {
		return err
	}
	if len(v.roles) > 0 && !slices.Contains(v.roles, id.Role) {
		return fmt.Errorf("%w: it is %s, expected %v", ErrRole, id, v.roles)
	}
	w := v.want
	if w.Kind != "" && w.Kind != id.Kind || w.Site != "" && w.Site != id.Site || w.Name != "" && w.Name != id.Name {
		return fmt.Errorf("%w: it is %s, expected %s", ErrRole, id, w)
	}
	return nil
}

func (v *verifier) chain(leaf *x509.Certificate) error {
	roots := x509.NewCertPool()
	roots.AddCert(v.ca)
	now := v.now()
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{v.usage}})
	if err == nil {
		return nil
	}
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) {
		return fmt.Errorf("check certificate %q: %w", leaf.Subject.CommonName, err)
	}
	switch invalid.Reason {
	case x509.Expired:
		return fmt.Errorf("%w: certificate %q is valid from %s to %s and the clock here says %s; "+
			"set the clock, or join again with `godwit join`", ErrExpired, leaf.Subject.CommonName,
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case x509.IncompatibleUsage:
		return fmt.Errorf("%w: certificate %q is not for this end of a connection", ErrRole, leaf.Subject.CommonName)
	default:
		return fmt.Errorf("check certificate %q: %w", leaf.Subject.CommonName, err)
	}
}

// otherCA reads the stranger's CA off the chain that it sent. The claim is not
// proven; it only helps a person to find out where the certificate is from.
func (v *verifier) otherCA(chain []*x509.Certificate) error {
	e := &OtherCAError{Ours: FingerprintOf(v.ca), Client: v.usage == x509.ExtKeyUsageClientAuth}
	for _, c := range chain {
		if c.IsCA && bytes.Equal(c.RawSubject, c.RawIssuer) {
			e.Theirs = FingerprintOf(c)
		}
	}
	return e
}
