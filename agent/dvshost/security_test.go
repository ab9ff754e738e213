package dvshost_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
)

// authority makes certificates for tests.
type authority struct {
	t         *testing.T
	directory string
	file      string
	key       *ecdsa.PrivateKey
	own       *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, directory: t.TempDir()}
	a.file = filepath.Join(a.directory, "ca.pem")
	der := a.make(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a.file, filepath.Join(a.directory, "ca.key"))
	var err error
	if a.own, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) make(c *x509.Certificate, file, keyFile string) []byte {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.own, a.key
	if parent == nil {
		parent, signer, a.key = c, key, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(file, "CERTIFICATE", der)
	a.write(keyFile, "PRIVATE KEY", private)
	return der
}

func (a *authority) write(file, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// node returns the files of a node of that name.
func (a *authority) node(name string) dvshost.Files {
	f := dvshost.Files{Certificate: filepath.Join(a.directory, name+".pem"), Key: filepath.Join(a.directory, name+".key"), Authority: a.file}
	a.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, f.Certificate, f.Key)
	return f
}

// Nodes with certificates of one authority talk to each other, and a process moves between them.
func TestNodesWithCertificates(t *testing.T) {
	ca := newAuthority(t)
	nodes := startNodes(t, func(o *dvshost.NodeOptions) { o.TLS = ca.node(o.Name) }, "a", "b")
	nodes["a"].run(t, "shop", "counter", module(t, built.counter))
	nodes["b"].ask(t, "shop", "counter", "5")
	nodes["a"].move(t, "shop", "counter", "b", false)
	if got := nodes["a"].ask(t, "shop", "counter", "0"); got != "5" {
		t.Errorf("the counter is %s", got)
	}
}

// A node whose certificate is of another authority, or which says to be another, or has none, gets nowhere.
func TestUnknownCertificates(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	for what, files := range map[string]dvshost.Files{"another authority": other.node("b"), "no certificate": {}} {
		nodes := startNodes(t, func(o *dvshost.NodeOptions) {
			o.TLS = ca.node(o.Name)
			if o.Name == "b" {
				o.TLS = files
			}
		}, "a", "b")
		nodes["a"].run(t, "shop", "counter", module(t, built.counter))
		if _, err := nodes["a"].Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "counter", To: "b"}); err == nil {
			t.Errorf("%s: a process moves there", what)
		}
		for _, n := range nodes {
			links, err := n.Links(patient(t))
			if err != nil || links[0].State != "down" {
				t.Errorf("%s: %s has %+v, %v", what, n.name, links, err)
			}
		}
		if all, err := nodes["b"].Endpoints(patient(t)); err != nil || len(all) != 0 {
			t.Errorf("%s: it is told of %v, %v", what, all, err)
		}
	}
	directory := t.TempDir()
	err := dvshost.Serve(patient(t), dvshost.NodeOptions{Name: "a", Socket: filepath.Join(directory, "a"), TLS: ca.node("b")})
	if err == nil || !strings.Contains(err.Error(), "not that node's") {
		t.Errorf("a node with another's certificate: %v", err)
	}
}
