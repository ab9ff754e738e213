package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
)

// shop is an HTTP service that knows nothing of the DVS. What it was asked is kept where all that run it see it.
type shop struct {
	mu    sync.Mutex
	asked map[string]int // by what was asked
	by    map[string]int // by who answered
}

func (s *shop) serve(name string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.asked[r.URL.Path+string(body)]++
		s.by[name]++
		s.mu.Unlock()
		fmt.Fprintf(w, "%s %s by %s", r.Method, r.URL.Path, name)
	}))
}

// say runs a command until the test ends, and returns its first line.
func (d dvsTest) say(words ...string) string {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	a := &app{in: strings.NewReader(""), out: io.Discard, err: w, now: noon, env: func(name string) string {
		return map[string]string{"GODWIT_DVS": d.socket}[name]
	}}
	var wg sync.WaitGroup
	wg.Go(func() {
		if code := a.run(ctx, append([]string{"dvs"}, words...)); code != exitOK {
			d.t.Errorf("%v: exit %d", words, code)
		}
		_ = w.Close()
	})
	lines := bufio.NewReader(r)
	first := make(chan string, 1)
	wg.Go(func() {
		for n := 0; ; n++ {
			line, err := lines.ReadString('\n')
			if n == 0 {
				first <- line
			} else if line != "" {
				d.t.Log(line)
			}
			if err != nil {
				return
			}
		}
	})
	d.t.Cleanup(func() { cancel(); wg.Wait() })
	if words[len(words)-1] == "--standby" {
		return ""
	}
	return <-first
}

// An HTTP service and its clients, neither of which knows of the DVS, go on talking while the endpoint between them moves to and fro.
func TestDVSHTTP(t *testing.T) {
	directory := t.TempDir()
	address := freeAddresses(t, 2)
	a := startDVSNode(t, filepath.Join(directory, "a"), "--name", "a", "--listen", address[0], "--peer", "b="+address[1])
	b := startDVSNode(t, filepath.Join(directory, "b"), "--name", "b", "--listen", address[1], "--peer", "a="+address[0])
	s := &shop{asked: map[string]int{}, by: map[string]int{}}
	first, second := s.serve("first"), s.serve("second")
	defer first.Close()
	defer second.Close()
	where := []string{"--container", "shop", "--endpoint", "web"}
	a.say(append([]string{"http", "serve", "--to", first.Listener.Addr().String()}, where...)...)
	b.say(append(append([]string{"http", "serve", "--to", second.Listener.Addr().String()}, where...), "--standby")...)
	said := a.say(append([]string{"http", "connect", "--listen", "127.0.0.1:0"}, where...)...)
	url, _, _ := strings.Cut(said, " ")

	if out, err := exec.CommandContext(t.Context(), "curl", "-s", "-d", "x", url+"/curl").CombinedOutput(); err == nil && string(out) != "POST /curl by first" {
		t.Errorf("curl prints %s", out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	var mu sync.Mutex
	answers := 0
	for c := range 4 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				resp, err := http.Post(fmt.Sprintf("%s/%d/%d", url, c, i), "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				text, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("answer %d of client %d: %s %s, %v", i, c, resp.Status, text, err)
					return
				}
				mu.Lock()
				answers++
				mu.Unlock()
			}
		})
	}
	progress := func() {
		t.Helper()
		mu.Lock()
		want := answers + 100
		mu.Unlock()
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && !t.Failed(); time.Sleep(time.Millisecond) {
			mu.Lock()
			done := answers >= want
			mu.Unlock()
			if done {
				return
			}
		}
		t.Error("no answers")
	}
	progress()
	for _, move := range []struct {
		from dvsTest
		to   string
	}{{a, "b"}, {b, "a"}, {a, "b"}} {
		done, err := dvshost.NewClient(move.from.socket).Move(ctx, dvshost.MoveRequest{Container: "shop", Name: "web", To: move.to})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("to %s: held %.1f ms", done.To, done.HeldMs)
		progress()
	}
	cancel()
	clients.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for what, n := range s.asked {
		if n != 1 {
			t.Errorf("%s was asked %d times", what, n)
		}
	}
	if s.by["first"] == 0 || s.by["second"] == 0 {
		t.Errorf("answered by %v", s.by)
	}
	a.refused(exitUsage, "--container CONTAINER --endpoint NAME", "http", "serve")
	a.refused(exitUsage, "bad --to", append([]string{"http", "serve"}, where...)...)
	a.refused(exitUsage, "bad --listen", append([]string{"http", "connect"}, where...)...)
}
