package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// ErrExists: there is a CA already, and it is never overwritten.
var ErrExists = errors.New("a CA is here already")

const (
	caFile    = "ca.crt"
	caKeyFile = "ca.key"

	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
	// clockSlack dates certificates back, for machines whose clocks are behind.
	clockSlack = time.Hour

	pemCert = "CERTIFICATE"
	pemKey  = "PRIVATE KEY"
	pemCSR  = "CERTIFICATE REQUEST"
)

// Fingerprint is the SHA-256 of a certificate, as `openssl x509 -fingerprint
// -sha256` shows it.
type Fingerprint [sha256.Size]byte

func (f Fingerprint) String() string { return "sha256:" + hex.EncodeToString(f[:]) }

// FingerprintOf returns a certificate's fingerprint.
func FingerprintOf(c *x509.Certificate) Fingerprint { return sha256.Sum256(c.Raw) }

// Authority is a cluster's CA with its private key. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// Init makes the CA of a new cluster in dir: ca.crt, and ca.key for its owner
// only. name is the cluster's: up to 63 lower-case letters, digits and '-'. It
// never overwrites anything: ErrExists.
func Init(dir, name string) (*Authority, error) {
	if !clusterForm.MatchString(name) {
		return nil, fmt.Errorf("make CA: %w: cluster name %q; use up to 63 lower-case letters, digits and '-'", ErrInvalid, name)
	}
	for _, f := range []string{caFile, caKeyFile} {
		if _, err := os.Lstat(filepath.Join(dir, f)); err == nil {
			return nil, existsError(dir, f)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("make CA: %w", err)
		}
	}
	a, keyPEM, err := newAuthority(name, time.Now)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	// The key first: a certificate without its key would look like a whole CA.
	if err := createFile(dir, caKeyFile, keyPEM, 0o600); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	if err := createFile(dir, caFile, a.CAPEM(), 0o644); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	return a, nil
}

func existsError(dir, file string) error {
	return fmt.Errorf("make CA: %w: %s exists; start the controller with it, or, to begin a new cluster "+
		"(every machine must join again), move %s and %s away first", ErrExists, filepath.Join(dir, file), caFile, caKeyFile)
}

func newAuthority(name string, now func() time.Time) (*Authority, []byte, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	t := now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Godwit CA of " + name, Organization: []string{name}},
		NotBefore:             t.Add(-clockSlack),
		NotAfter:              t.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{{Scheme: scheme, Host: name}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return &Authority{cert: cert, key: key, now: now}, keyPEM, nil
}

// LoadAuthority reads what Init wrote. It refuses a key that others may read.
func LoadAuthority(dir string) (*Authority, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, fmt.Errorf("load CA: %w; `godwit init` makes one", err)
	}
	keyPEM, err := readSecret(filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load CA: %s: %w", filepath.Join(dir, caFile), err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load CA: %s: %w", filepath.Join(dir, caKeyFile), err)
	}
	if pub, ok := key.Public().(*ecdsa.PublicKey); !ok || !pub.Equal(cert.PublicKey) || !cert.IsCA {
		return nil, fmt.Errorf("load CA: %s and %s in %s do not belong together", caFile, caKeyFile, dir)
	}
	if _, err := clusterOf(cert); err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	return &Authority{cert: cert, key: key, now: time.Now}, nil
}

// Cluster is the cluster's name.
func (a *Authority) Cluster() string {
	name, _ := clusterOf(a.cert)
	return name
}

// Fingerprint identifies the CA; tokens pin it.
func (a *Authority) Fingerprint() Fingerprint { return FingerprintOf(a.cert) }

// CAPEM is the CA's certificate.
func (a *Authority) CAPEM() []byte { return encodeCert(a.cert.Raw) }

// Issue signs a certificate for id, valid for a year, for the key of the
// request (PEM). The request proves that its sender has the private key;
// whatever else it says is not looked at. hosts are names or addresses for
// clients that check those (browsers); Godwit's own do not.
func (a *Authority) Issue(id Identity, csrPEM []byte, hosts []string) (certPEM []byte, err error) {
	key, err := CheckRequest(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", id, err)
	}
	certPEM, err = a.sign(id, key, hosts)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", id, err)
	}
	return certPEM, nil
}

// CheckRequest returns the public key of a certificate request (PKCS #10 in PEM) that is signed with its private one.
func CheckRequest(csrPEM []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil || block.Type != pemCSR {
		return nil, errors.New("not a certificate request in PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return csr.PublicKey, csr.CheckSignature()
}

// IssueLocal makes a key and a certificate on this machine: the controller's
// own, and the first operator's.
func (a *Authority) IssueLocal(id Identity, hosts []string) (Credentials, error) {
	key, csr, err := NewKeyAndCSR(id)
	if err != nil {
		return Credentials{}, err
	}
	cert, err := a.Issue(id, csr, hosts)
	if err != nil {
		return Credentials{}, err
	}
	return Credentials{CertPEM: cert, KeyPEM: key, CAPEM: a.CAPEM()}, nil
}

func (a *Authority) sign(id Identity, pub crypto.PublicKey, hosts []string) ([]byte, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	if p, ok := pub.(*ecdsa.PublicKey); !ok || p.Curve != elliptic.P256() {
		return nil, errors.New("the key is not ECDSA P-256")
	}
	now := a.now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject: pkix.Name{
			CommonName:         id.Name,
			Organization:       []string{a.Cluster()},
			OrganizationalUnit: []string{string(id.Role)},
		},
		URIs:                  []*url.URL{id.uri(a.Cluster())},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              now.Add(certLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if id.Role == Controller || id.Role == Agent {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key)
	if err != nil {
		return nil, err
	}
	return encodeCert(der), nil
}

// clusterOf is the name of the cluster that a CA certificate belongs to.
func clusterOf(ca *x509.Certificate) (string, error) {
	for _, u := range ca.URIs {
		if u.Scheme == scheme && clusterForm.MatchString(u.Host) {
			return u.Host, nil
		}
	}
	return "", fmt.Errorf("%w: not the CA of a Godwit cluster", ErrNoIdentity)
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f // positive, and within 20 octets
	b[15] |= 1   // never zero
	return new(big.Int).SetBytes(b[:])
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der})
}

func parseCert(b []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemCert {
		return nil, errors.New("not a certificate in PEM")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("more than one certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}
