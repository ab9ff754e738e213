package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// credentialsFile holds key, certificate and CA together, so that one rename
// replaces all three: a certificate without its key is worth nothing.
const credentialsFile = "credentials.pem"

// Credentials are what a party shows and what it trusts, all PEM.
type Credentials struct {
	CertPEM []byte
	KeyPEM  []byte
	CAPEM   []byte
}

// Save writes the credentials to dir, readable by the owner only, replacing
// older ones in one step.
func (c Credentials) Save(dir string) error {
	if _, err := c.parse(); err != nil {
		return fmt.Errorf("save credentials: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save credentials: %w", err)
	}
	all := bytes.Join([][]byte{c.KeyPEM, c.CertPEM, c.CAPEM}, nil)
	if err := replaceFile(dir, credentialsFile, all, 0o600); err != nil {
		return fmt.Errorf("save credentials: %w", err)
	}
	return nil
}

// LoadCredentials reads what Save wrote. It refuses a file that others may read.
func LoadCredentials(dir string) (Credentials, error) {
	path := filepath.Join(dir, credentialsFile)
	b, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Credentials{}, fmt.Errorf("load credentials: %w; join this machine with `godwit join`", err)
	}
	if err != nil {
		return Credentials{}, fmt.Errorf("load credentials: %w", err)
	}
	var parts [][]byte
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		parts = append(parts, pem.EncodeToMemory(block))
	}
	if len(parts) != 3 {
		return Credentials{}, fmt.Errorf("load credentials: %s does not hold a key, a certificate and a CA; join again with `godwit join`", path)
	}
	c := Credentials{KeyPEM: parts[0], CertPEM: parts[1], CAPEM: parts[2]}
	if _, err := c.parse(); err != nil {
		return Credentials{}, fmt.Errorf("load credentials: %s: %w", path, err)
	}
	return c, nil
}

// Identity is whom the credentials stand for.
func (c Credentials) Identity() (Identity, error) {
	p, err := c.parse()
	if err != nil {
		return Identity{}, err
	}
	return FromCertificate(p.leaf)
}

// Expires is the end of the certificate's validity. Renew well before it, by a
// new request over a connection that the old certificate still opens.
func (c Credentials) Expires() (time.Time, error) {
	p, err := c.parse()
	if err != nil {
		return time.Time{}, err
	}
	return p.leaf.NotAfter, nil
}

// Fingerprint is that of the CA which the credentials trust.
func (c Credentials) Fingerprint() (Fingerprint, error) {
	p, err := c.parse()
	if err != nil {
		return Fingerprint{}, err
	}
	return FingerprintOf(p.ca), nil
}

// parsed credentials: the key belongs to the leaf, and the CA has signed it.
type parsed struct {
	leaf, ca *x509.Certificate
	tls      tls.Certificate // leaf, then CA: the peer needs it to name a mismatch
}

func (c Credentials) parse() (parsed, error) {
	ca, err := parseCert(c.CAPEM)
	if err != nil {
		return parsed{}, fmt.Errorf("CA: %w", err)
	}
	pair, err := tls.X509KeyPair(c.CertPEM, c.KeyPEM)
	if err != nil {
		return parsed{}, fmt.Errorf("certificate and key: %w", err)
	}
	if err := pair.Leaf.CheckSignatureFrom(ca); err != nil {
		return parsed{}, fmt.Errorf("certificate is not from the CA beside it: %w", err)
	}
	pair.Certificate = [][]byte{pair.Leaf.Raw, ca.Raw}
	return parsed{leaf: pair.Leaf, ca: ca, tls: pair}, nil
}
