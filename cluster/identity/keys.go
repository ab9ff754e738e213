package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// NewKeyAndCSR makes a private key and a request for a certificate for it, both
// PEM. The key stays on the machine that called this; the identity in the
// request is for people to read, the authority goes by the token's.
func NewKeyAndCSR(id Identity) (keyPEM, csrPEM []byte, err error) {
	if err := id.Validate(); err != nil {
		return nil, nil, fmt.Errorf("request certificate: %w", err)
	}
	return newKeyAndCSR(pkix.Name{CommonName: id.Name, OrganizationalUnit: []string{string(id.Role)}})
}

// NewAnonymousKeyAndCSR is NewKeyAndCSR for a machine that learns who it is
// from the answer: its token names it.
func NewAnonymousKeyAndCSR() (keyPEM, csrPEM []byte, err error) {
	return newKeyAndCSR(pkix.Name{})
}

func newKeyAndCSR(subject pkix.Name) (keyPEM, csrPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, fmt.Errorf("request certificate: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("request certificate: %w", err)
	}
	return keyPEM, pem.EncodeToMemory(&pem.Block{Type: pemCSR, Bytes: der}), nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

func parseKey(b []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemKey {
		return nil, errors.New("not a private key in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%T cannot sign", key)
	}
	return signer, nil
}

// readSecret reads a file that nobody but its owner may read.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is readable by others (mode %04o): chmod 600 it, and make a new one if others may have read it",
			path, info.Mode().Perm())
	}
	return os.ReadFile(path)
}

// createFile writes a new file durably and whole, or fails with ErrExists.
func createFile(dir, name string, data []byte, mode fs.FileMode) error {
	tmp, err := writeTemp(dir, name, data, mode)
	if err != nil {
		return err
	}
	err = os.Link(tmp, filepath.Join(dir, name)) // unlike a rename, never replaces
	if errors.Is(err, fs.ErrExist) {
		err = existsError(dir, name)
	}
	return errors.Join(err, os.Remove(tmp), syncDir(dir))
}

// replaceFile writes a file durably: it is the old or the new one, never a part.
func replaceFile(dir, name string, data []byte, mode fs.FileMode) error {
	tmp, err := writeTemp(dir, name, data, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(dir)
}

func writeTemp(dir, name string, data []byte, mode fs.FileMode) (path string, err error) {
	f, err := os.CreateTemp(dir, "."+name+".*") // 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
