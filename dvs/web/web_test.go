package web_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/dvs/web"
)

// startNode runs a node in this process and returns its socket.
func startNode(t *testing.T, name string) (*node.Node, string) {
	t.Helper()
	n, err := node.New(node.Options{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.Serve(l) })
	t.Cleanup(func() { n.Close(); wg.Wait() })
	return n, path
}

// join links two nodes over loopback.
func join(t *testing.T, a, b *node.Node) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _ = a.Accept(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); a.Close(); wg.Wait() })
	dial := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
	if err := errors.Join(a.Link("b", nil), b.Link("a", dial)); err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, path string) *dvs.Session {
	t.Helper()
	s, err := dvs.Connect(t.Context(), path, dvs.Options{Container: "c"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// counter is an HTTP service that knows nothing of the DVS: it counts how often each word was posted.
type counter struct {
	mu    sync.Mutex
	words map[string]int
	slow  time.Duration
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	select {
	case <-time.After(c.slow):
	case <-r.Context().Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.words[string(b)]++
	w.Header().Set("X-Path", r.URL.RequestURI())
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(bytes.ToUpper(b))
}

func (c *counter) snapshot() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b []byte
	for w, n := range c.words {
		b = fmt.Appendf(b, "%s %d\n", w, n)
	}
	return b, nil
}

func (c *counter) restore(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.words = map[string]int{}
	for line := range strings.Lines(string(b)) {
		var w string
		var n int
		if _, err := fmt.Sscan(line, &w, &n); err != nil {
			return err
		}
		c.words[w] = n
	}
	return nil
}

// serve puts a service behind an endpoint.
func serve(t *testing.T, path string, c http.Handler, o dvs.BindOptions, v web.Service) chan error {
	t.Helper()
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	v.Address = server.Listener.Addr().String()
	s := connect(t, path)
	got := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		e, err := s.Bind(context.Background(), "web", o)
		if err == nil {
			err = v.Serve(context.Background(), e)
		}
		got <- err
	})
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return got
}

func listen(t *testing.T, path string, c *web.Client) string {
	t.Helper()
	c.Session, c.Endpoint = connect(t, path), "web"
	server := httptest.NewServer(c)
	t.Cleanup(func() { server.Close(); c.Close() })
	return server.URL
}

func post(url, body string) (*http.Response, string, error) {
	resp, err := http.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// An unmodified service and unmodified clients: while the service moves there and back, every request is executed once and answered.
func TestRequestsAreDeliveredOnceWhileTheServiceMoves(t *testing.T) {
	a, pathA := startNode(t, "a")
	b, pathB := startNode(t, "b")
	join(t, a, b)
	services := []*counter{{words: map[string]int{}}, {}, {}}
	options := func(c *counter, standby bool) dvs.BindOptions {
		return dvs.BindOptions{Snapshot: c.snapshot, Restore: c.restore, Standby: standby}
	}
	first := serve(t, pathA, services[0], options(services[0], false), web.Service{})
	urls := []string{listen(t, pathA, &web.Client{}), listen(t, pathB, &web.Client{})}

	const clients, each = 6, 40
	var wg sync.WaitGroup
	half := make(chan struct{}, clients)
	for i := range clients {
		wg.Go(func() {
			for k := range each {
				word := fmt.Sprintf("w%d-%d", i, k)
				resp, got, err := post(urls[i%2]+"/some/path?x=1", word)
				if err != nil || got != strings.ToUpper(word) || resp.StatusCode != http.StatusCreated || resp.Header.Get("X-Path") != "/some/path?x=1" {
					t.Errorf("%s: %q, %+v, %v", word, got, resp, err)
				}
				if k == each/4 {
					half <- struct{}{}
				}
			}
		})
	}
	for range clients {
		<-half
	}
	serve(t, pathB, services[1], options(services[1], true), web.Service{})
	move(t, a, b, 50)
	if err := <-first; !errors.Is(err, dvs.ErrMoved) {
		t.Errorf("the old place ended with %v", err)
	}
	serve(t, pathA, services[2], options(services[2], true), web.Service{})
	move(t, b, a, 51)
	wg.Wait()
	for i := range clients {
		for k := range each {
			if word := fmt.Sprintf("w%d-%d", i, k); services[2].words[word] != 1 {
				t.Errorf("%s was executed %d times", word, services[2].words[word])
			}
		}
	}
}

// move carries the endpoint from one node to the other, once its standby is there.
func move(t *testing.T, from, to *node.Node, epoch uint64) {
	t.Helper()
	names := map[*node.Node]string{from: "a", to: "b"}
	if epoch%2 == 1 {
		names[from], names[to] = "b", "a"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	standby := func() bool {
		for _, i := range to.Endpoints() {
			if i.Name == "web" && i.Standby {
				return true
			}
		}
		return false
	}
	for !standby() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	for _, s := range []struct {
		at    *node.Node
		parts string
	}{
		{to, "process/destination/prepare"},
		{from, "endpoint/source/prepare"},
		{from, "process/source/converge"},
		{from, "endpoint/source/quiesce"},
		{to, "endpoint/destination/commit"},
		{from, "endpoint/source/commit"},
	} {
		p := strings.Split(s.parts, "/")
		peer := names[to]
		if s.at == to {
			peer = names[from]
		}
		if err := s.at.Do(ctx, node.Command{Container: "c", Endpoint: "web", Participant: p[0], Role: p[1], Verb: p[2], Epoch: epoch, Peer: peer}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLimitsAreAnsweredWithAStatus(t *testing.T) {
	_, path := startNode(t, "a")
	c := &counter{words: map[string]int{}}
	serve(t, path, c, dvs.BindOptions{}, web.Service{MaxBody: 2000})
	url := listen(t, path, &web.Client{MaxBody: 3000, Timeout: 300 * time.Millisecond})
	want := func(what string, code int, body, text string) {
		t.Helper()
		resp, got, err := post(url, body)
		if err != nil || resp.StatusCode != code || !strings.Contains(got, text) {
			t.Errorf("%s: %+v %q, %v", what, resp, got, err)
		}
	}
	want("fine", http.StatusCreated, "x", "X")
	want("a request that is too long", http.StatusRequestEntityTooLarge, strings.Repeat("x", 3001), "too large")
	want("an answer that is too long", http.StatusBadGateway, strings.Repeat("x", 2001), "longer than 2000")
	c.mu.Lock()
	c.slow = time.Second
	c.mu.Unlock()
	want("a slow service", http.StatusGatewayTimeout, "y", "no answer in time")
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != http.StatusNotImplemented {
		t.Errorf("an upgrade: %+v, %v", resp, err)
	}
	if err == nil {
		_ = resp.Body.Close()
	}
}

func TestAnEndpointThatIsNotThereIsUnavailable(t *testing.T) {
	_, path := startNode(t, "a")
	url := listen(t, path, &web.Client{Timeout: 50 * time.Millisecond})
	resp, got, err := post(url, "x")
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%+v %q, %v", resp, got, err)
	}
}

func TestAServiceThatIsDownIsABadGateway(t *testing.T) {
	_, path := startNode(t, "a")
	e, err := connect(t, path).Bind(t.Context(), "web", dvs.BindOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = web.Service{Address: "127.0.0.1:1"}.Serve(context.Background(), e) })
	t.Cleanup(func() { e.Session().Close(); wg.Wait() })
	url := listen(t, path, &web.Client{})
	if resp, got, err := post(url, "x"); err != nil || resp.StatusCode != http.StatusBadGateway || !strings.Contains(got, "127.0.0.1:1") {
		t.Errorf("%+v %q, %v", resp, got, err)
	}
	reply, err := connect(t, path).SendRec(t.Context(), "web", []byte("no HTTP at all"))
	if err != nil || !bytes.HasPrefix(reply, []byte("HTTP/1.1 400 ")) {
		t.Errorf("%q, %v", reply, err)
	}
}

// FuzzAnswer gives a client whatever an endpoint may answer.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"))
	f.Add([]byte("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := httptest.NewRecorder()
		if err := web.Answer(w, httptest.NewRequest(http.MethodGet, "/", nil), b); err == nil && w.Code < 100 {
			t.Errorf("code %d", w.Code)
		}
	})
}
