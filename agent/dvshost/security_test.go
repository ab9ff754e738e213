package dvshost_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/dvs/replica/register"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/server/process"
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
	mixed := ca.node("m")
	mixed.Authority = other.file
	err := dvshost.Serve(patient(t), dvshost.NodeOptions{Name: "m", Socket: filepath.Join(t.TempDir(), "m"), TLS: mixed})
	if err == nil || !strings.Contains(err.Error(), "none of the authority") {
		t.Errorf("a certificate of another authority than its own: %v", err)
	}
	directory := t.TempDir()
	err = dvshost.Serve(patient(t), dvshost.NodeOptions{Name: "a", Socket: filepath.Join(directory, "a"), TLS: ca.node("b")})
	if err == nil || !strings.Contains(err.Error(), "not that node's") {
		t.Errorf("a node with another's certificate: %v", err)
	}
}

// asker is a host that makes requests with the certificate of one node.
type asker struct {
	t    *testing.T
	http *http.Client
	to   string
}

func newAsker(t *testing.T, files dvshost.Files, to string) asker {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return asker{t, &http.Client{Transport: transport}, to}
}

func (a asker) ask(method, path string, body any) (status int, text string) {
	a.t.Helper()
	b, err := json.Marshal(body)
	if raw, ok := body.([]byte); ok {
		b = raw
	}
	if err != nil {
		a.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(patient(a.t), method, "https://"+a.to+path, bytes.NewReader(b))
	if err != nil {
		a.t.Fatal(err)
	}
	answer, err := a.http.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err = io.ReadAll(answer.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return answer.StatusCode, string(b)
}

// A node of the same authority speaks for itself, and for nobody else: neither can it prepare or end the move of another, nor fill its standby,
// nor take part in a group that it is not of.
func TestANodeSpeaksForItselfAlone(t *testing.T) {
	ca := newAuthority(t)
	files := map[string]dvshost.Files{"a": ca.node("a"), "c": ca.node("c")}
	b := startNodes(t, func(o *dvshost.NodeOptions) { o.TLS = ca.node(o.Name) }, "b")["b"]
	counter := module(t, built.counter)
	sum := sha256.Sum256(counter)
	owner, thief := newAsker(t, files["a"], b.address), newAsker(t, files["c"], b.address)
	if status, text := owner.ask(http.MethodPut, "/v1/module", counter); status != http.StatusOK {
		t.Fatal(text)
	}
	var book string
	_, text := owner.ask(http.MethodGet, "/v1/book", nil)
	if err := json.Unmarshal([]byte(text), &book); err != nil {
		t.Fatal(err)
	}
	step := func(from, step string, epoch uint64) dvshost.StepRequest {
		return dvshost.StepRequest{
			Container: "shop", Name: "counter", From: from, Step: migration.StepID(step), Epoch: epoch, Memory: book, Module: hex.EncodeToString(sum[:]),
		}
	}
	group := func(nodes ...string) dvshost.GroupSpec {
		return dvshost.GroupSpec{ID: "1", Container: "shop", Name: "kv", Kind: replica.Passive, Nodes: nodes, Line: 1, Module: hex.EncodeToString(sum[:])}
	}
	ballot := func(name string) dvshost.GroupAsk {
		return dvshost.GroupAsk{ID: "1", Ask: register.Ask{Ballot: register.Ballot{Round: 1, Name: name}}}
	}
	none := process.AppendPages(nil, nil)
	pages := "/v1/pages?container=shop&name=counter&epoch=7&base=" + strings.Repeat("0", 31) + "1"
	const refused = "speaks for itself alone"
	for _, c := range []struct {
		what         string
		who          asker
		method, path string
		body         any
		want         string // in the answer; "" is that it is done
	}{
		{"a move of its own", owner, http.MethodPost, "/v1/step", step("a", "process/destination/prepare", 7), ""},
		{"a move in another's name", thief, http.MethodPost, "/v1/step", step("a", "process/destination/prepare", 8), refused},
		{"pages for its standby", owner, http.MethodPut, pages, none, ""},
		{"pages for another's standby", thief, http.MethodPut, pages, none, refused},
		{"the end of another's move, in its name", thief, http.MethodPost, "/v1/step", step("a", "process/destination/abort", 7), refused},
		{"the end of another's move, in the own name", thief, http.MethodPost, "/v1/step", step("c", "process/destination/abort", 7), refused},
		{"the commit of another's move", thief, http.MethodPost, "/v1/step", step("c", "endpoint/destination/commit", 7), refused},
		{"the end of its move", owner, http.MethodPost, "/v1/step", step("a", "process/destination/abort", 7), ""},
		{"a group of others", thief, http.MethodPost, "/v1/group/found", group("a", "b", "d"), refused},
		{"its group", owner, http.MethodPost, "/v1/group/found", group("a", "b", "d"), ""},
		{"its question", owner, http.MethodPost, "/v1/group/ask", ballot("a/1"), ""},
		{"a question in another's name", thief, http.MethodPost, "/v1/group/ask", ballot("a/2"), refused},
		{"a question of one that is not of the group", thief, http.MethodPost, "/v1/group/ask", ballot("c/2"), refused},
		{"what a group of others does", thief, http.MethodPost, "/v1/group/describe", ballot(""), refused},
		{"what its group does here, where nothing of it is", owner, http.MethodPost, "/v1/group/describe", ballot(""), "knows nothing of the group"},
		{"the end of a group of others", thief, http.MethodPost, "/v1/group/end", group("a", "b", "c"), refused},
		{"a link for another's replica", thief, http.MethodGet, "/v1/group/link?id=1&from=a", nil, refused},
		{"the end of its group", owner, http.MethodPost, "/v1/group/end", group("a", "b", "d"), ""},
	} {
		status, text := c.who.ask(c.method, c.path, c.body)
		done := status == http.StatusOK && !strings.Contains(text, "failed")
		if done != (c.want == "") || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d, %s, want %q", c.what, status, text, c.want)
		}
	}
}
