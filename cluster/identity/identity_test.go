package identity

import (
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	boss   = Identity{Role: Controller, Site: "west", Name: "mms"}
	host   = Identity{Role: Agent, Kind: Host, Site: "west", Name: "west-host"}
	edge   = Identity{Role: Agent, Kind: Edge, Site: "east", Name: "east-edge"}
	person = Identity{Role: Operator, Name: "ada@example.com"}
)

func authority(t testing.TB) *Authority {
	t.Helper()
	a, _, err := newAuthority("lab", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t testing.TB, a *Authority, id Identity) Credentials {
	t.Helper()
	c, err := a.IssueLocal(id, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func TestACertificateNamesWhomItWasIssuedTo(t *testing.T) {
	a := authority(t)
	for _, id := range []Identity{boss, host, edge, person, {Role: Viewer, Name: "x"}} {
		c := issue(t, a, id)
		if got, err := c.Identity(); err != nil || got != id {
			t.Errorf("%s: certificate says %+v, %v", id, got, err)
		}
		end, err := c.Expires()
		if left := time.Until(end); err != nil || left < 364*24*time.Hour || left > 366*24*time.Hour {
			t.Errorf("%s: certificate lives %v, %v", id, left, err)
		}
	}
}

func TestTheRequestDoesNotDecideWhoSomebodyIs(t *testing.T) {
	a := authority(t)
	key, csr, err := NewKeyAndCSR(boss)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Issue(host, csr, []string{"west-host.example", "192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	c := Credentials{CertPEM: cert, KeyPEM: key, CAPEM: a.CAPEM()}
	if got, err := c.Identity(); err != nil || got != host {
		t.Fatalf("certificate says %+v, %v", got, err)
	}
	p, err := c.parse()
	if err != nil || p.leaf.VerifyHostname("west-host.example") != nil || p.leaf.VerifyHostname("192.0.2.1") != nil {
		t.Errorf("certificate is for %v %v, %v", p.leaf.DNSNames, p.leaf.IPAddresses, err)
	}
}

func TestIdentitiesThatCannotBeAreRefused(t *testing.T) {
	a := authority(t)
	for _, id := range []Identity{
		{},
		{Role: "root", Name: "x"},
		{Role: Agent, Site: "west", Name: "x"},
		{Role: Agent, Kind: "router", Site: "west", Name: "x"},
		{Role: Agent, Kind: Host, Name: "x"},
		{Role: Operator, Kind: Host, Name: "x"},
		{Role: Operator},
		{Role: Operator, Name: "-"},
		{Role: Operator, Name: "a/b"},
		{Role: Operator, Name: "a\n"},
		{Role: Operator, Name: strings.Repeat("a", 64)},
		{Role: Controller, Site: "../x", Name: "x"},
	} {
		wantErr(t, id.Validate(), ErrInvalid)
		_, _, err := NewKeyAndCSR(id)
		wantErr(t, err, ErrInvalid)
		_, csr, err := NewAnonymousKeyAndCSR()
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Issue(id, csr, nil)
		wantErr(t, err, ErrInvalid)
	}
}

func TestAnAuthorityIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := Init(dir, "lab")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Init(dir, "lab")
	wantErr(t, err, ErrExists)
	b, err := LoadAuthority(dir)
	if err != nil || b.Fingerprint() != a.Fingerprint() || b.Cluster() != "lab" {
		t.Fatalf("loaded %v of %q, %v; made %v", b.Fingerprint(), b.Cluster(), err, a.Fingerprint())
	}
	c := issue(t, b, host)
	if got, err := c.Fingerprint(); err != nil || got != a.Fingerprint() {
		t.Errorf("credentials trust %v, %v", got, err)
	}
	keyPath := filepath.Join(dir, caKeyFile)
	if info, err := os.Stat(keyPath); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key's mode is %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("directory holds %v, %v", entries, err)
	}
	if err := os.Chmod(keyPath, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that all may read: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, caFile)); err != nil {
		t.Fatal(err)
	}
	_, err = Init(dir, "lab")
	wantErr(t, err, ErrExists)
	_, err = LoadAuthority(dir)
	wantErr(t, err, os.ErrNotExist)
	_, err = Init(t.TempDir(), "Not A Label")
	wantErr(t, err, ErrInvalid)
}

func TestACertificateBesideAnotherKeyIsNotAnAuthority(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, other} {
		if _, err := Init(d, "lab"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(other, caKeyFile), filepath.Join(dir, caKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(dir); err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("error is %v", err)
	}
}

func TestCredentialsAreSavedForTheirOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "agent")
	_, err := LoadCredentials(dir)
	wantErr(t, err, os.ErrNotExist)
	if !strings.Contains(err.Error(), "godwit join") {
		t.Errorf("error does not say what to do: %v", err)
	}
	a := authority(t)
	for _, id := range []Identity{host, edge} { // the second replaces the first
		c := issue(t, a, id)
		if err := c.Save(dir); err != nil {
			t.Fatal(err)
		}
		got, err := LoadCredentials(dir)
		if err != nil || string(got.KeyPEM) != string(c.KeyPEM) || string(got.CertPEM) != string(c.CertPEM) || string(got.CAPEM) != string(c.CAPEM) {
			t.Fatalf("loaded other credentials, %v", err)
		}
	}
	path := filepath.Join(dir, credentialsFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCredentials(dir); err == nil {
		t.Error("credentials that others may read were loaded")
	}
	mixed := issue(t, a, host)
	mixed.KeyPEM = issue(t, a, host).KeyPEM
	if err := mixed.Save(dir); err == nil {
		t.Error("a certificate was saved with another's key")
	}
	foreign := issue(t, a, host)
	foreign.CAPEM = authority(t).CAPEM()
	if err := foreign.Save(dir); err == nil {
		t.Error("a certificate was saved with another's CA")
	}
}

func TestACertificateOfAnotherFormNamesNobody(t *testing.T) {
	for _, uris := range [][]string{
		nil,
		{"https://lab/agent/host/west/x"},
		{"godwit://lab/agent/host/west"},
		{"godwit://lab/agent/host/west/x/y"},
		{"godwit://lab/agent/host//x"},
		{"godwit://lab/operator/-/-/x?admin"},
		{"godwit://lab/operator/-/-/%78"},
		{"godwit://lab/operator/-/-/x", "godwit://lab/viewer/-/-/x"},
		{"godwit:operator"},
	} {
		c := &x509.Certificate{}
		for _, u := range uris {
			p, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, p)
		}
		if id, err := FromCertificate(c); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("%v names %+v, %v", uris, id, err)
		}
	}
}

func FuzzFromCertificate(f *testing.F) {
	a := authority(f)
	for _, id := range []Identity{boss, host, person} {
		p, err := issue(f, a, id).parse()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.leaf.Raw, "")
	}
	f.Add([]byte(nil), "godwit://lab/agent/host/west/west-host")
	f.Add([]byte(nil), "godwit://lab/viewer/-/-/x")
	f.Fuzz(func(t *testing.T, der []byte, uri string) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			u, err := url.Parse(uri)
			if err != nil {
				return
			}
			c = &x509.Certificate{URIs: []*url.URL{u}}
		}
		id, err := FromCertificate(c)
		if err != nil {
			if id != (Identity{}) {
				t.Fatalf("%+v beside the error %v", id, err)
			}
			return
		}
		if err := id.Validate(); err != nil {
			t.Fatalf("%+v: %v", id, err)
		}
		again, err := FromCertificate(&x509.Certificate{URIs: []*url.URL{id.uri("lab")}})
		if err != nil || again != id {
			t.Fatalf("%+v reads back as %+v, %v", id, again, err)
		}
	})
}
