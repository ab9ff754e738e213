package node_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

// Line 26: batching, compression, both, neither: a link that breaks again and again loses and doubles nothing.
func TestLine26ReconnectsLoseNothing(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]node.LinkOptions{
		"neither":     {Single: true, Compress: node.CompressNever},
		"batch":       {Compress: node.CompressNever},
		"compression": {Single: true, Compress: node.CompressAlways},
		"both":        {Compress: node.CompressAlways},
		"adaptive":    {},
	} {
		t.Run(name, func(t *testing.T) { reconnects(t, o) })
	}
}

func reconnects(t *testing.T, o node.LinkOptions) {
	a, b, w := linkedWith(t, 20*time.Second, o)
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", dvs.BindOptions{})
	counts := map[string]int{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			m, err := e.ReceiveRequest(context.Background())
			if err != nil {
				return
			}
			counts[string(m.Payload)]++
			_ = e.Reply(m, m.Payload)
		}
	})
	const clients, each = 4, 60
	errs := make(chan error, clients)
	for i := range clients {
		c := connect(t, b.path, dvs.Options{})
		go func() {
			for k := range each {
				want := fmt.Sprint(i, " ", k, strings.Repeat(" and so on", 100))
				got, err := c.SendRec(patient(t), "s", []byte(want))
				if err != nil || string(got) != want {
					errs <- fmt.Errorf("%s: %q, %w", want, got, err)
					return
				}
				if k%10 == 5 {
					w.sever(false)
				}
			}
			errs <- nil
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := e.Unbind(patient(t)); err != nil {
		t.Error(err)
	}
	wg.Wait()
	for what, n := range counts {
		if n != 1 {
			t.Errorf("%s was executed %d times", what, n)
		}
	}
	if len(counts) != clients*each {
		t.Errorf("%d requests were executed", len(counts))
	}
	if a.Stats().Reconnects == 0 {
		t.Error("the link never broke")
	}
}

// Line 26: what compresses well is small on the link; what does not, no larger than it is.
func TestLine26CompressionPaysOrIsLeftOut(t *testing.T) {
	random := make([]byte, 20_000)
	_, _ = rand.Read(random)
	text := []byte(strings.Repeat("the same again. ", 20_000/16))
	carried := func(o node.LinkOptions, payload []byte) uint64 {
		a, b, _ := linkedWith(t, 20*time.Second, o)
		e := bind(t, connect(t, a.path, dvs.Options{}), "s", dvs.BindOptions{})
		echo(t, e)
		c := connect(t, b.path, dvs.Options{})
		for range 20 {
			if got, err := c.SendRec(patient(t), "s", payload); err != nil || string(got) != string(payload) {
				t.Fatal(len(got), err)
			}
		}
		return b.Links()[0].Wrote
	}
	plain := carried(node.LinkOptions{Compress: node.CompressNever}, text)
	if got := carried(node.LinkOptions{Compress: node.CompressAlways}, text); got > plain/5 {
		t.Errorf("text took %d bytes of %d", got, plain)
	}
	if got := carried(node.LinkOptions{Compress: node.CompressAlways}, random); got > plain+plain/100 {
		t.Errorf("random bytes took %d, %d are needed", got, plain)
	}
}

// authority signs certificates for nodes.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{pool: x509.NewCertPool()}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var der []byte
	a.key, der = certify(t, c, c, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func certify(t *testing.T, c, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// config is a node's TLS, which demands the certificate of another node.
func (a authority) config(t *testing.T, name string) *tls.Config {
	t.Helper()
	key, der := certify(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: a.pool, ClientCAs: a.pool,
		ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "a", MinVersion: tls.VersionTLS13,
	}
}

// securePair is node a, and node b whose certificate comes from signer and says name. The errors of a's accepting end come by the channel.
func securePair(t *testing.T, signer func(authority) authority, name string) (a, b wired, refused chan error) {
	t.Helper()
	ours := newAuthority(t)
	theirs := signer(ours)
	at, client := ours.config(t, "a"), theirs.config(t, name)
	client.RootCAs = ours.pool
	refused = make(chan error, 100)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	a.Node, a.path = startNode(t, node.Options{Name: "a"})
	b.Node, b.path = startNode(t, node.Options{Name: "b"})
	w := &wiring{
		secure: func(c, s net.Conn) (net.Conn, net.Conn) { return tls.Client(c, client), tls.Server(s, at) },
		accept: func(c net.Conn) {
			wg.Go(func() {
				s := c.(*tls.Conn)
				err := s.HandshakeContext(t.Context())
				if err == nil {
					err = a.AcceptFrom(c, s.ConnectionState().PeerCertificates[0].Subject.CommonName)
				} else {
					_ = c.Close()
				}
				select {
				case refused <- err:
				default:
				}
			})
		},
	}
	if err := errors.Join(a.Link("b", nil), b.Link("a", w.dial)); err != nil {
		t.Fatal(err)
	}
	return a, b, refused
}

func same(a authority) authority { return a }

// Mutual TLS is given from outside. A node with an unknown certificate is refused, and so is one that says another's name.
func TestLinksAreSecuredFromOutside(t *testing.T) {
	a, b, _ := securePair(t, same, "b")
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", dvs.BindOptions{})
	echo(t, e)
	if got, err := connect(t, b.path, dvs.Options{}).SendRec(patient(t), "s", []byte("secret")); string(got) != "secret" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for what, pair := range map[string]func() (wired, wired, chan error){
		"unknown certificate": func() (wired, wired, chan error) {
			return securePair(t, func(authority) authority { return newAuthority(t) }, "b")
		},
		"another's name": func() (wired, wired, chan error) { return securePair(t, same, "c") },
	} {
		a, _, refused := pair()
		if err := <-refused; err == nil {
			t.Errorf("%s: accepted", what)
		}
		if a.Links()[0].Up {
			t.Errorf("%s: the link is up", what)
		}
	}
}

// Line 10: a program may do with an endpoint what the node permits, whether it shares memory with the owner or not.
func TestLine10PermissionsOfEndpoints(t *testing.T) {
	_, path := startNode(t, node.Options{Name: "a", Permit: func(p node.Program, _, name string) node.Mask {
		switch {
		case p.Name == "guest" && name == "open":
			return node.MayCall
		case p.Name == "guest" && name == "ask":
			return node.MaySendRec
		case p.Name == "guest":
			return 0
		default:
			return node.MayAll
		}
	}})
	server := connect(t, path, dvs.Options{Program: "server"})
	for _, name := range []string{"open", "ask", "closed"} {
		e := bind(t, server, name, dvs.BindOptions{})
		e.Register("data", make([]byte, 10), dvs.Access{Read: true})
		echo(t, e)
	}
	alone := connect(t, path, dvs.Options{Program: "server"})
	echo(t, bind(t, alone, "friend", dvs.BindOptions{}))
	guest := connect(t, path, dvs.Options{Program: "guest"})
	for _, name := range []string{"open", "ask"} {
		if got, err := guest.SendRec(patient(t), name, []byte("x")); string(got) != "x" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	_, err := guest.SendRec(patient(t), "closed", nil)
	wantErr(t, err, dvs.ErrDenied)
	wantErr(t, guest.Send(patient(t), "ask", nil), dvs.ErrDenied)
	_, err = guest.Bind(patient(t), "mine", dvs.BindOptions{})
	wantErr(t, err, dvs.ErrDenied)
	if _, err := connect(t, path, dvs.Options{Program: "server"}).SendRec(patient(t), "closed", nil); err != nil {
		t.Error(err)
	}
}

// A program that gets a name which its introduced peer may not use stops sharing memory with it.
func TestLine10ANewNameEndsAnIntroduction(t *testing.T) {
	n, path := startNode(t, node.Options{Name: "a", Permit: func(p node.Program, _, name string) node.Mask {
		if p.Name == "guest" && name == "closed" {
			return 0
		}
		return node.MayAll
	}})
	server, guest := connect(t, path, dvs.Options{}), connect(t, path, dvs.Options{Program: "guest"})
	echo(t, bind(t, server, "open", dvs.BindOptions{}))
	if _, err := guest.SendRec(patient(t), "open", nil); err != nil {
		t.Fatal(err)
	}
	if n.Stats().Introductions != 1 {
		t.Error("not introduced")
	}
	echo(t, bind(t, server, "closed", dvs.BindOptions{}))
	if got, err := guest.SendRec(patient(t), "open", []byte("on")); string(got) != "on" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_, err := guest.SendRec(patient(t), "closed", nil)
	wantErr(t, err, dvs.ErrDenied)
}
