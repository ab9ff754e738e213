package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
)

// serve serves over plain HTTP/2 on a unix socket until the test ends, and returns a client of it.
func serve(t *testing.T, handler http.Handler) *Client {
	t.Helper()
	// The path of a socket is short by law, and t.TempDir's is not.
	dir, err := os.MkdirTemp("", "api-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	server.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	client, err := Dial("unix://"+filepath.Join(dir, "s"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestServersAreNamedInTheseWaysOnly(t *testing.T) {
	for server, hint := range map[string]string{
		"192.0.2.1":              "https://HOST:PORT",
		"http://192.0.2.1:80":    "https://HOST:PORT",
		"https://192.0.2.1:1/x":  "https://HOST:PORT",
		"":                       "https://HOST:PORT",
		"unix://":                "unix:///path",
		"https://192.0.2.1:7443": "--identity",
		"[2001:db8::1]:7443":     "--identity",
		"host.example:7443":      "--identity",
	} {
		if _, err := Dial(server, nil); !strings.Contains(Hint(err), hint) {
			t.Errorf("bad %q: error %v with hint %q, want one with %q", server, err, Hint(err), hint)
		}
	}
	for server, socket := range map[string]string{"unix:///run/x": "/run/x", "unix:/run/x": "/run/x", "/run/x": "/run/x"} {
		client, err := Dial(server, nil)
		if err != nil || client.socket != socket {
			t.Errorf("OK %q: %v, %v", server, client, err)
		}
	}
}

func TestAMissingControllerSaysWhatToDo(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "s")
	client, err := Dial("unix://"+missing, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Get(context.Background(), "site", "")
	if !Unreachable(err) || !strings.Contains(Hint(err), "godwit controller") || !strings.Contains(err.Error(), missing) {
		t.Errorf("got %v with hint %q", err, Hint(err))
	}
	if listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: missing}); err != nil {
		t.Fatal(err)
	} else {
		listener.SetUnlinkOnClose(false)
		listener.Close()
	}
	if _, err = client.Get(context.Background(), "site", ""); !Unreachable(err) || !strings.Contains(err.Error(), "nothing answers") {
		t.Errorf("a dead socket: %v with hint %q", err, Hint(err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err = client.Get(ctx, "site", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call: %v", err)
	}
}

func TestHintsTravelWithErrors(t *testing.T) {
	handler := &scripted{fail: NewError(connect.CodeFailedPrecondition, "wait", "service %s is busy", "shop")}
	mux := http.NewServeMux()
	mux.Handle(godwitv1connect.NewGodwitServiceHandler(handler))
	err := serve(t, mux).Delete(context.Background(), "service", "shop")
	own := (*Error)(nil)
	if !errors.As(err, &own) || own.Code != connect.CodeFailedPrecondition || own.Hint != "wait" ||
		err.Error() != "delete service shop: service shop is busy" {
		t.Errorf("got %#v", err)
	}
}

// scripted fails Delete with an error, and plays one list of migrations for each watch, each followed by its error.
type scripted struct {
	godwitv1connect.UnimplementedGodwitServiceHandler
	fail    error
	watches [][]string
	errs    []error
	calls   int
}

func (s *scripted) Delete(context.Context, *connect.Request[godwitv1.DeleteRequest]) (*connect.Response[godwitv1.DeleteResponse], error) {
	return nil, s.fail
}

func (s *scripted) WatchMigration(_ context.Context, _ *connect.Request[godwitv1.WatchMigrationRequest], stream *connect.ServerStream[godwitv1.WatchMigrationResponse]) error {
	call := min(s.calls, len(s.watches)-1)
	s.calls++
	for _, phase := range s.watches[call] {
		if err := stream.Send(&godwitv1.WatchMigrationResponse{Migration: &godwitv1.Migration{Name: "m", Phase: phase}}); err != nil {
			return err
		}
	}
	return s.errs[call]
}

func TestFollowingAMigration(t *testing.T) {
	away := connect.NewError(connect.CodeUnavailable, errors.New("shutting down"))
	for name, test := range map[string]struct {
		watches  [][]string
		errs     []error
		patience time.Duration
		until    string
		last     string
		lost     int
		wantErr  string
	}{
		"to its end":                        {watches: [][]string{{"preparing", "completed"}}, errs: []error{nil}, last: "completed"},
		"to its abort":                      {watches: [][]string{{"preparing", "aborted"}}, errs: []error{nil}, last: "aborted"},
		"until it is enough":                {watches: [][]string{{"preparing", "converging", "completed"}}, errs: []error{nil}, until: "converging", last: "converging"},
		"across two deaths":                 {watches: [][]string{{"preparing"}, {"converging"}, {"completed"}}, errs: []error{away, away, nil}, patience: time.Minute, last: "completed", lost: 2},
		"across a stream that just ends":    {watches: [][]string{{"preparing"}, {"completed"}}, errs: []error{nil, nil}, patience: time.Minute, last: "completed", lost: 1},
		"without patience":                  {watches: [][]string{{"preparing"}}, errs: []error{away}, last: "preparing", wantErr: "shutting down"},
		"not when it does not exist":        {watches: [][]string{nil}, errs: []error{connect.NewError(connect.CodeNotFound, errors.New("no m"))}, patience: time.Minute, wantErr: "no m"},
		"an error after the end is no more": {watches: [][]string{{"completed"}}, errs: []error{away}, last: "completed"},
	} {
		t.Run(name, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.Handle(godwitv1connect.NewGodwitServiceHandler(&scripted{watches: test.watches, errs: test.errs}))
			lost, back := 0, 0
			last, err := serve(t, mux).FollowMigration(context.Background(), "m", Follow{
				Patience: test.patience,
				Seen: func(m *godwitv1.Migration) error {
					if m.GetPhase() == test.until {
						return ErrStop
					}
					return nil
				},
				Lost: func(error) { lost++ },
				Back: func() { back++ },
			})
			if last.GetPhase() != test.last || lost != test.lost || back != test.lost {
				t.Errorf("last %v, lost %d, back %d", last, lost, back)
			}
			if test.wantErr == "" && err != nil || test.wantErr != "" && (err == nil || !strings.Contains(err.Error(), test.wantErr)) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// store keeps blobs, and lies about one.
type store struct {
	blobs map[string][]byte
	puts  int
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, BlobPath)
	content, there := s.blobs[name]
	switch {
	case r.Method == http.MethodPut:
		s.puts++
		s.blobs[name], _ = io.ReadAll(r.Body)
	case !there:
		http.Error(w, "no blob "+name+"\nhint: upload it", http.StatusNotFound)
	default:
		w.Write(content)
	}
}

func TestBlobsAreUploadedOnceAndVerifiedOnTheWayBack(t *testing.T) {
	ctx := context.Background()
	served := &store{blobs: map[string][]byte{}}
	client := serve(t, served)
	content := bytes.Repeat([]byte("godwit"), 300_000)
	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	var told int64
	name, err := client.Upload(ctx, path, func(done, total int64) {
		if done <= told || total != int64(len(content)) {
			t.Errorf("progress %d of %d after %d", done, total, told)
		}
		told = done
	})
	if err != nil || !IsBlobName(name) || told != int64(len(content)) || !bytes.Equal(served.blobs[name], content) {
		t.Fatalf("%s, %v, told of %d", name, err, told)
	}
	spec := &godwitv1.ServiceSpec{Server: &godwitv1.ServerSpec{Kernel: path, Initrd: name}, Volumes: []*godwitv1.VolumeSpec{{Image: path}, {}}}
	if err := client.UploadFiles(ctx, spec, nil); err != nil || served.puts != 1 {
		t.Errorf("%v, uploaded %d times", err, served.puts)
	}
	if spec.GetServer().GetKernel() != name || spec.GetServer().GetInitrd() != name || spec.GetVolumes()[0].GetImage() != name || spec.GetVolumes()[1].GetImage() != "" {
		t.Errorf("the files are not replaced: %v", spec)
	}
	var back bytes.Buffer
	if err := client.Download(ctx, name, &back); err != nil || !bytes.Equal(back.Bytes(), content) {
		t.Errorf("%d bytes came back: %v", back.Len(), err)
	}
	served.blobs[name][0] ^= 1
	if err := client.Download(ctx, name, io.Discard); err == nil || !strings.Contains(err.Error(), "does not match") {
		t.Errorf("a changed blob: %v", err)
	}
	missing := "b3-" + strings.Repeat("0", 64)
	if err := client.Download(ctx, missing, io.Discard); !NotFound(err) || Hint(err) != "upload it" {
		t.Errorf("a missing blob: %v with hint %q", err, Hint(err))
	}
	for _, bad := range []string{"", "b3-", "b3-../../etc/passwd", strings.ToUpper(name), missing + "0"} {
		if err := client.Download(ctx, bad, io.Discard); err == nil || IsBlobName(bad) {
			t.Errorf("%q is taken for a blob's name", bad)
		}
	}
	if _, err := client.Upload(ctx, filepath.Dir(path), nil); err == nil || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("a directory: %v", err)
	}
}
