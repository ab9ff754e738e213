package controller

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/zeebo/blake3"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/cluster/identity"
)

func TestWhoMayDoWhat(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	w.running(specOf("shop", "a"))
	changes := map[string]func(context.Context, godwitv1connect.GodwitServiceClient) error{
		"apply": func(ctx context.Context, c godwitv1connect.GodwitServiceClient) error {
			_, err := c.Apply(ctx, connect.NewRequest(&pb.ApplyRequest{Service: specOf("shop", "a")}))
			return err
		},
		"delete": func(ctx context.Context, c godwitv1connect.GodwitServiceClient) error {
			_, err := c.Delete(ctx, connect.NewRequest(&pb.DeleteRequest{Kind: "service", Name: "none"}))
			return err
		},
		"migrate": func(ctx context.Context, c godwitv1connect.GodwitServiceClient) error {
			_, err := c.Migrate(ctx, connect.NewRequest(&pb.MigrateRequest{Service: "shop", ToSite: "b"}))
			return err
		},
		"continue": func(ctx context.Context, c godwitv1connect.GodwitServiceClient) error {
			_, err := c.ContinueMigration(ctx, connect.NewRequest(&pb.ContinueMigrationRequest{Name: "none"}))
			return err
		},
		"abort": func(ctx context.Context, c godwitv1connect.GodwitServiceClient) error {
			_, err := c.AbortMigration(ctx, connect.NewRequest(&pb.AbortMigrationRequest{Name: "none"}))
			return err
		},
		"token": func(ctx context.Context, c godwitv1connect.GodwitServiceClient) error {
			_, err := c.CreateToken(ctx, connect.NewRequest(&pb.CreateTokenRequest{Role: "king", Name: "x"}))
			return err
		},
	}
	get := func(ctx context.Context, c godwitv1connect.GodwitServiceClient) error {
		_, err := c.Get(ctx, connect.NewRequest(&pb.GetRequest{Kind: "services"}))
		return err
	}
	for _, who := range []struct {
		name   string
		header string
		change connect.Code // 0: may
		get    connect.Code
	}{
		{"operator", asOperator, 0, 0},
		{"viewer", asViewer, connect.CodePermissionDenied, 0},
		{"agent", "agent/host/a/host-a", connect.CodePermissionDenied, connect.CodePermissionDenied},
		{"nobody", "", connect.CodeUnauthenticated, connect.CodeUnauthenticated},
	} {
		check := func(call string, err error, want connect.Code) {
			t.Helper()
			got := connect.CodeOf(err)
			denied := err != nil && (got == connect.CodePermissionDenied || got == connect.CodeUnauthenticated)
			if denied != (want != 0) || denied && got != want {
				t.Errorf("%s by %s: %v", call, who.name, err)
			}
		}
		c := w.as(who.header)
		for name, call := range changes {
			check(name, call(w.ctx(), c), who.change)
		}
		check("get", get(w.ctx(), c), who.get)
		if who.name != "agent" {
			stream := godwitv1connect.NewAgentServiceClient(client(t, who.header), w.server.URL).Session(w.ctx())
			_ = stream.Send(&pb.SessionRequest{Message: &pb.SessionRequest_Hello{Hello: new(pb.Hello)}})
			_, err := stream.Receive()
			check("session", err, max(who.change, connect.CodePermissionDenied))
			_ = stream.CloseRequest()
			_ = stream.CloseResponse()
		}
	}
}

func TestASessionBeginsWithHello(t *testing.T) {
	w := newWorld(t)
	stream := godwitv1connect.NewAgentServiceClient(client(t, "agent/host/a/host-a"), w.server.URL).Session(w.ctx())
	if err := stream.Send(&pb.SessionRequest{Message: &pb.SessionRequest_Heartbeat{Heartbeat: new(pb.Heartbeat)}}); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Receive()
	refused(t, err, connect.CodeInvalidArgument, "hello")
	_ = stream.CloseRequest()
	_ = stream.CloseResponse()
}

func TestABlobIsKeptOnlyUnderTheNameOfItsContent(t *testing.T) {
	w := newWorld(t)
	content := []byte("a kernel")
	sum := blake3.Sum256(content)
	name := "b3-" + hex.EncodeToString(sum[:])
	do := func(method, who, name string, body []byte) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(w.ctx(), method, w.server.URL+"/blobs/"+name, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client(t, who).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(got)
	}
	asAgent := "agent/host/a/host-a"
	for _, c := range []struct {
		what, method, who, name string
		body                    []byte
		want                    int
	}{
		{"not there yet", http.MethodHead, asOperator, name, nil, http.StatusNotFound},
		{"other content", http.MethodPut, asOperator, name, []byte("another kernel"), http.StatusBadRequest},
		{"cut short", http.MethodPut, asOperator, name, content[:4], http.StatusBadRequest},
		{"still not there", http.MethodHead, asOperator, name, nil, http.StatusNotFound},
		{"a viewer", http.MethodPut, asViewer, name, content, http.StatusForbidden},
		{"an agent", http.MethodPut, asAgent, name, content, http.StatusForbidden},
		{"nobody", http.MethodPut, "", name, content, http.StatusForbidden},
		{"no name", http.MethodPut, asOperator, "kernel", content, http.StatusBadRequest},
		{"capitals", http.MethodPut, asOperator, "b3-" + strings.ToUpper(name[3:]), content, http.StatusBadRequest},
		{"the way out", http.MethodPut, asOperator, "..%2f" + name, content, http.StatusBadRequest},
		{"right", http.MethodPut, asOperator, name, content, http.StatusCreated},
		{"once more", http.MethodPut, asOperator, name, content, http.StatusCreated},
		{"there", http.MethodHead, asAgent, name, nil, http.StatusOK},
		{"deleted", http.MethodDelete, asOperator, name, nil, http.StatusMethodNotAllowed},
	} {
		if got, text := do(c.method, c.who, c.name, c.body); got != c.want {
			t.Errorf("%s: %d (%s), want %d", c.what, got, strings.TrimSpace(text), c.want)
		}
	}
	if _, text := do(http.MethodPut, asOperator, "b3-"+strings.Repeat("0", 64), content); !strings.Contains(text, name) {
		t.Errorf("the refusal does not say what came: %s", text)
	}
	if code, text := do(http.MethodGet, asAgent, name, nil); code != http.StatusOK || text != string(content) {
		t.Errorf("got %d, %q", code, text)
	}
	left, err := os.ReadDir(w.blobs.dir)
	if err != nil || len(left) != 1 || left[0].Name() != name {
		t.Errorf("in the store: %v, %v", left, err)
	}
}

func TestWhatWasUploadedInPartIsRemovedAtTheStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "blobs")
	b, err := openBlobs(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	whole := []byte("a kernel")
	h := api.NewBlobHash()
	_, _ = h.Write(whole)
	if err := errors.Join(b.put(h.Name(), bytes.NewReader(whole)), os.WriteFile(filepath.Join(dir, uploadPrefix+"1"), whole[:4], 0o600)); err != nil {
		t.Fatal(err)
	}
	again, err := openBlobs(dir, slog.New(slog.DiscardHandler))
	if err != nil || !again.has(h.Name()) {
		t.Fatalf("what was whole is gone: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("in the store: %v, %v", left, err)
	}
}

func TestATokenLetsOneMachineJoinOnceAndInTime(t *testing.T) {
	store, err := cluster.Open(t.Context(), cluster.Options{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	authority, err := identity.Init(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	j := &joiner{store: store, authority: authority}
	ctx := t.Context()
	_, csr, err := identity.NewAnonymousKeyAndCSR()
	if err != nil {
		t.Fatal(err)
	}
	join := func(token string) (*pb.JoinResponse, error) {
		res, err := j.Join(ctx, connect.NewRequest(&pb.JoinRequest{Token: token, CsrPem: csr}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	token, err := j.createToken(ctx, &pb.CreateTokenRequest{Role: "edge", Site: "a", Name: "edge-a"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = j.Join(ctx, connect.NewRequest(&pb.JoinRequest{Token: token, CsrPem: []byte("no request")}))
	refused(t, err, connect.CodeInvalidArgument, "certificate request") // … and the token is still good:
	res, err := join(token)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(res.GetCertificatePem())
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	want := identity.Identity{Role: identity.Agent, Kind: identity.Edge, Site: "a", Name: "edge-a"}
	if who, err := identity.FromCertificate(cert); err != nil || who != want {
		t.Errorf("the certificate is for %v (%v), want %v", who, err, want)
	}
	if res.GetKind() != "edge" || res.GetSite() != "a" || res.GetName() != "edge-a" || !bytes.Equal(res.GetCaPem(), authority.CAPEM()) {
		t.Errorf("answer is %v", res)
	}

	_, err = join(token)
	refused(t, err, connect.CodePermissionDenied, "used already")
	expired, err := identity.NewToken(authority.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.SaveToken(ctx, cluster.TokenRecord{ID: expired.ID(), Hash: expired.Hash(), Identity: want, Expires: time.Now().Add(-time.Second)}); err != nil {
		t.Fatal(err)
	}
	_, err = join(expired.Text())
	refused(t, err, connect.CodePermissionDenied, "expired")
	unknown, err := identity.NewToken(authority.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	_, err = join(unknown.Text())
	refused(t, err, connect.CodePermissionDenied, "not known")
	_, err = join("rubbish")
	refused(t, err, connect.CodeInvalidArgument)

	for _, c := range []struct {
		req   *pb.CreateTokenRequest
		texts []string
	}{
		{&pb.CreateTokenRequest{Role: "king", Name: "x"}, []string{`role "king" is not known`}},
		{&pb.CreateTokenRequest{Role: "host", Name: "x"}, []string{"needs the site", "hint: godwit token create"}},
		{&pb.CreateTokenRequest{Role: "viewer", Name: "../x"}, []string{"lower-case"}},
		{&pb.CreateTokenRequest{Role: "host", Site: "A", Name: "x"}, []string{"lower-case"}},
	} {
		_, err := j.createToken(ctx, c.req)
		refused(t, err, connect.CodeInvalidArgument, c.texts...)
	}
}
