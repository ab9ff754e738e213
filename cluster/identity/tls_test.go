package identity

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// shake makes a handshake over a real connection and returns what each end
// found; err is the end's error, peer whom it believes to talk to.
type end struct {
	err  error
	peer Identity
}

func shake(t *testing.T, server, client *tls.Config) (atServer, atClient end) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan end, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- end{err: err}
			return
		}
		done <- finish(tls.Server(conn, server))
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	atClient = finish(tls.Client(conn, client))
	return <-done, atClient
}

// finish says a word and hears one: in TLS 1.3 a client learns only from its
// first read that the server refused it.
func finish(c *tls.Conn) (e end) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if e.err = c.Handshake(); e.err != nil {
		return e
	}
	if _, e.err = c.Write([]byte("x")); e.err != nil {
		return e
	}
	if _, e.err = io.ReadFull(c, make([]byte, 1)); e.err != nil {
		return e
	}
	if len(c.ConnectionState().PeerCertificates) > 0 {
		e.peer, e.err = PeerIdentity(c.ConnectionState())
	}
	return e
}

func must(t *testing.T) func(*tls.Config, error) *tls.Config {
	t.Helper()
	return func(c *tls.Config, err error) *tls.Config {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

func TestBothEndsKnowWhoTheOtherIs(t *testing.T) {
	a := authority(t)
	server, client := issue(t, a, boss), issue(t, a, host)
	s, c := shake(t, must(t)(server.ServerTLS(true, Agent, Operator)), must(t)(client.ClientTLS(Controller)))
	if s.err != nil || c.err != nil || s.peer != host || c.peer != boss {
		t.Fatalf("server sees %+v, client %+v", s, c)
	}
	s, c = shake(t, must(t)(issue(t, a, edge).ServerTLS(true)), must(t)(client.ClientTLSTo(edge)))
	if s.err != nil || c.err != nil || s.peer != host || c.peer != edge {
		t.Fatalf("between agents: server sees %+v, client %+v", s, c)
	}
}

func TestAnotherRoleOrPlaceIsRefused(t *testing.T) {
	a := authority(t)
	server, client := issue(t, a, boss), issue(t, a, host)
	anybody := must(t)(server.ServerTLS(true))

	s, _ := shake(t, must(t)(server.ServerTLS(true, Operator)), must(t)(client.ClientTLS(Controller)))
	wantErr(t, s.err, ErrRole)
	_, c := shake(t, must(t)(issue(t, a, edge).ServerTLS(true)), must(t)(client.ClientTLS(Controller)))
	wantErr(t, c.err, ErrRole)
	for _, want := range []Identity{
		{Role: Agent, Kind: Host}, {Role: Controller, Site: "east"}, {Role: Controller, Name: "other"}, {Role: Controller, Kind: Host},
	} {
		_, c := shake(t, anybody, must(t)(client.ClientTLSTo(want)))
		wantErr(t, c.err, ErrRole)
	}
	// A person's certificate does not make a server, whatever the client expects.
	_, c = shake(t, must(t)(issue(t, a, person).ServerTLS(true)), must(t)(client.ClientTLS(Operator)))
	wantErr(t, c.err, ErrRole)
	if _, err := client.ClientTLS(); err == nil {
		t.Error("a client that expects nobody in particular")
	}
	if _, err := client.ClientTLSTo(Identity{Name: "mms"}); err == nil {
		t.Error("a client that expects no role")
	}
}

func TestACertificateOfAnotherCASaysWhichAndWhatToDo(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	server, client := issue(t, ours, boss), issue(t, theirs, host)
	trusting := must(t)(client.ClientTLS(Controller))
	trusting.VerifyConnection = nil // so that the server is the one that refuses

	s, c := shake(t, must(t)(server.ServerTLS(true)), trusting)
	wantErr(t, s.err, ErrOtherCA)
	if want := "certificate is from another CA (fingerprint " + theirs.Fingerprint().String() + "); this controller's CA is " +
		ours.Fingerprint().String() + "; join again with `godwit join`"; s.err.Error() != want {
		t.Errorf("server says %q, want %q", s.err, want)
	}
	if c.err == nil {
		t.Error("the client was let in")
	}

	_, c = shake(t, must(t)(server.ServerTLS(true)), must(t)(client.ClientTLS(Controller)))
	wantErr(t, c.err, ErrOtherCA)
	for _, want := range []string{"another CA", ours.Fingerprint().String(), theirs.Fingerprint().String(), "godwit join"} {
		if !strings.Contains(c.err.Error(), want) {
			t.Errorf("client says %q, without %q", c.err, want)
		}
	}

	// What may be without a certificate may not be with a wrong one.
	s, _ = shake(t, must(t)(server.ServerTLS(false)), trusting)
	wantErr(t, s.err, ErrOtherCA)
}

func TestAForgedChainIsRefused(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	server, client := issue(t, ours, boss), issue(t, theirs, host)
	forged := must(t)(client.ClientTLS(Controller))
	forged.VerifyConnection = nil
	own, err := client.parse()
	if err != nil {
		t.Fatal(err)
	}
	own.tls.Certificate = [][]byte{own.leaf.Raw, ours.cert.Raw} // our CA, shown but not signing
	forged.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own.tls, nil }
	s, _ := shake(t, must(t)(server.ServerTLS(true)), forged)
	wantErr(t, s.err, ErrOtherCA)

	// A leaf of ours is no authority: it cannot sign a role of its choice.
	agent := issue(t, ours, host)
	p, err := agent.parse()
	if err != nil {
		t.Fatal(err)
	}
	key, err := parseKey(agent.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pretender := &Authority{cert: p.leaf, key: key, now: time.Now}
	keyPEM, csr, err := NewKeyAndCSR(boss)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := pretender.Issue(boss, csr, nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(append(certPEM, agent.CertPEM...), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	forged.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	s, _ = shake(t, must(t)(server.ServerTLS(true)), forged)
	wantErr(t, s.err, ErrOtherCA)
}

func TestWithoutACertificateOnlyWhereItIsAllowed(t *testing.T) {
	a := authority(t)
	server := issue(t, a, boss)
	nobody := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	s, c := shake(t, must(t)(server.ServerTLS(false)), nobody)
	if s.err != nil || c.err != nil || s.peer != (Identity{}) {
		t.Errorf("server sees %+v, client %+v", s, c)
	}
	if s, _ = shake(t, must(t)(server.ServerTLS(true)), nobody); s.err == nil {
		t.Error("nobody was let in")
	}
	old := nobody.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if s, _ = shake(t, must(t)(server.ServerTLS(false)), old); s.err == nil {
		t.Error("TLS 1.2 was spoken")
	}
}

func TestACertificateIsValidForItsTime(t *testing.T) {
	a := authority(t)
	a.now = func() time.Time { return time.Now().Add(-certLife - time.Minute) }
	stale := issue(t, a, host)
	a.now = time.Now
	server := issue(t, a, boss)
	s, _ := shake(t, must(t)(server.ServerTLS(true)), must(t)(stale.ClientTLS(Controller)))
	wantErr(t, s.err, ErrExpired)
	if !strings.Contains(s.err.Error(), "godwit join") {
		t.Errorf("error does not say what to do: %v", s.err)
	}

	p, err := server.parse()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		now  time.Time
		want error
	}{
		{"a clock that is behind a little", p.leaf.NotBefore.Add(time.Minute), nil},
		{"a clock that is far behind", p.leaf.NotBefore.Add(-time.Minute), ErrExpired},
		{"the last minute", p.leaf.NotAfter.Add(-time.Minute), nil},
		{"a minute later", p.leaf.NotAfter.Add(time.Minute), ErrExpired},
	} {
		v := &verifier{ca: p.ca, usage: x509.ExtKeyUsageServerAuth, now: func() time.Time { return c.now }}
		err := v.verify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{p.leaf}})
		if c.want == nil && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.want != nil {
			wantErr(t, err, c.want)
		}
	}
}

func TestAResumedSessionIsCheckedAgain(t *testing.T) {
	a := authority(t)
	server, client := issue(t, a, boss), issue(t, a, host)
	listener, caller := must(t)(server.ServerTLS(true)), must(t)(client.ClientTLS(Controller))
	caller.ClientSessionCache, caller.ServerName = tls.NewLRUClientSessionCache(1), "mms"
	checks := 0
	check := listener.VerifyConnection
	listener.VerifyConnection = func(cs tls.ConnectionState) error {
		checks++
		if checks == 2 && !cs.DidResume {
			t.Error("the second session was not resumed")
		}
		return check(cs)
	}
	for range 2 {
		if s, c := shake(t, listener, caller); s.err != nil || c.err != nil {
			t.Fatal(s.err, c.err)
		}
	}
	if checks != 2 {
		t.Errorf("%d checks of 2 sessions", checks)
	}
}
