package node_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

// startNode runs a node in this process and returns its socket.
func startNode(t testing.TB, o node.Options) (*node.Node, string) {
	t.Helper()
	n, err := node.New(o)
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

func connect(t testing.TB, path string, o dvs.Options) *dvs.Session {
	t.Helper()
	if o.Container == "" {
		o.Container = "c"
	}
	s, err := dvs.Connect(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func bind(t testing.TB, s *dvs.Session, name string, o dvs.BindOptions) *dvs.Endpoint {
	t.Helper()
	e, err := s.Bind(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// echo answers every request with its payload until the endpoint fails.
func echo(t testing.TB, e *dvs.Endpoint) {
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		for {
			m, err := e.ReceiveRequest(ctx)
			if err != nil {
				return
			}
			_ = e.Reply(m, m.Payload)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func ways(t *testing.T, f func(t *testing.T, o dvs.Options)) {
	t.Run("direct", func(t *testing.T) { f(t, dvs.Options{}) })
	t.Run("through the node", func(t *testing.T) { f(t, dvs.Options{NodeOnly: true}) })
}

func limit(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestASendRecReturnsItsReply(t *testing.T) {
	ways(t, func(t *testing.T, o dvs.Options) {
		n, path := startNode(t, node.Options{Name: "a"})
		echo(t, bind(t, connect(t, path, o), "echo", dvs.BindOptions{}))
		c := connect(t, path, o)
		for i := range 200 {
			want := fmt.Sprint("message ", i)
			got, err := c.SendRec(limit(t, 20*time.Second), "echo", []byte(want))
			if err != nil || string(got) != want {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		big := make([]byte, 3<<20)
		for i := range big {
			big[i] = byte(i * 7)
		}
		got, err := c.SendRec(limit(t, 20*time.Second), "echo", big)
		if err != nil || string(got) != string(big) {
			t.Fatalf("a long message: %d bytes, %v", len(got), err)
		}
		if st := n.Stats(); o.NodeOnly == (st.Relayed == 0) {
			t.Errorf("the node relayed %d messages and introduced %d", st.Relayed, st.Introductions)
		}
	})
}

func TestADeathIsToldAtOnce(t *testing.T) {
	ways(t, func(t *testing.T, o dvs.Options) {
		_, path := startNode(t, node.Options{Name: "a"})
		s := connect(t, path, o)
		e := bind(t, s, "x", dvs.BindOptions{})
		c := connect(t, path, o)
		got := make(chan error, 1)
		go func() {
			_, err := c.SendRec(t.Context(), "x", nil)
			got <- err
		}()
		if _, err := e.ReceiveRequest(limit(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if err := <-got; !errors.Is(err, dvs.ErrOutcomeUnknown) || !errors.Is(err, dvs.ErrDestinationDied) {
			t.Fatal(err)
		}
	})
}
