package nbd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate makes a self-signed one for 127.0.0.1, and a folder with it as libnbd and QEMU want it.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, "ca-cert.pem"), encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, dir
}

func serveTLS(t *testing.T, m *memory) (address, dir string) {
	t.Helper()
	cert, dir := certificate(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Start(ln, m, Options{Name: "shop.root", TLS: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}})
	t.Cleanup(func() { _ = s.Close() })
	return ln.Addr().String(), dir
}

func TestNbdcopyOverTLS(t *testing.T) {
	m := &memory{b: make([]byte, 4<<20)}
	address, dir := serveTLS(t, m)
	uri := "nbds://" + address + "/shop.root?tls-certificates=" + dir
	if out := tool(t, "nbdinfo", uri); !strings.Contains(out, "with TLS") {
		t.Fatalf("not encrypted:\n%s", out)
	}
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	want := bytes.Repeat([]byte("0123456789abcdef"), len(m.b)/16)
	if err := os.WriteFile(in, want, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "nbdcopy", in, uri)
	tool(t, "nbdcopy", uri, out)
	if got, _ := os.ReadFile(out); !bytes.Equal(got, want) || !bytes.Equal(m.b, want) {
		t.Fatal("the copy differs")
	}
}

// What a client says before TLS is refused, and what it had agreed upon is void after.
func TestNothingIsToldWithoutTLS(t *testing.T) {
	address, _ := serveTLS(t, &memory{b: make([]byte, 1<<20)})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := client{conn, t}
	c.expect(18)
	_, _ = c.Write([]byte("\x00\x00\x00\x03" + "IHAVEOPT\x00\x00\x00\x03\x00\x00\x00\x00" + "IHAVEOPT\x00\x00\x00\x08\x00\x00\x00\x00"))
	for range 2 {
		head := c.expect(20)
		if kind := head[12:16]; !bytes.Equal(kind, []byte{0x80, 0, 0, 5}) {
			t.Fatalf("the answer is %x, want 'TLS first'", kind)
		}
		c.expect(int(head[19]))
	}
	_, _ = c.Write([]byte("IHAVEOPT\x00\x00\x00\x05\x00\x00\x00\x00"))
	if head := c.expect(20); !bytes.Equal(head[12:16], []byte{0, 0, 0, 1}) {
		t.Fatalf("TLS was refused: %x", head)
	}
	encrypted := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is the test's own
	if err := encrypted.Handshake(); err != nil {
		t.Fatal(err)
	}
	c = client{encrypted, t}
	_, _ = c.Write([]byte("IHAVEOPT\x00\x00\x00\x05\x00\x00\x00\x00")) // a second time
	if head := c.expect(20); head[12] != 0x80 {
		t.Fatal("TLS within TLS")
	}
}

func TestAnOptionThatIsTooLongIsRefusedPolitely(t *testing.T) {
	conn, err := net.Dial("unix", serve(t, &memory{b: make([]byte, 1<<20)}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := client{conn, t}
	c.expect(18)
	_, _ = c.Write([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x06\x00\x02\x00\x00"))
	_, _ = c.Write(make([]byte, 0x20000))
	if head := c.expect(20); !bytes.Equal(head[12:16], []byte{0x80, 0, 0, 9}) {
		t.Fatalf("the answer is %x, want 'too big'", head[12:16])
	}
}
