package node_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs/node"
)

// wired is a node of this process, and its connection to another one, which the test can cut.
type wired struct {
	*node.Node
	path string
}

// wiring is the connection between two nodes of a pair.
type wiring struct {
	mu     sync.Mutex
	cut    bool
	live   []net.Conn
	accept func(net.Conn)
	// secure, if set, makes both ends of a connection secure.
	secure func(client, server net.Conn) (net.Conn, net.Conn)
}

func (w *wiring) dial(context.Context) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return nil, net.ErrClosed
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	b, err := l.Accept()
	if err != nil {
		return nil, err
	}
	w.live = append(w.live, a, b)
	if w.secure != nil {
		a, b = w.secure(a, b)
	}
	w.accept(b)
	return a, nil
}

// sever breaks the connection, and lets none be made while keep is true.
func (w *wiring) sever(keep bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = keep
	for _, c := range w.live {
		_ = c.Close()
	}
	w.live = nil
}

func pair(t testing.TB) (a, b wired) {
	a, b, _ = severable(t, 20*time.Second)
	return a, b
}

func severable(t testing.TB, timeout time.Duration) (a, b wired, w *wiring) {
	t.Helper()
	return linkedWith(t, timeout, node.LinkOptions{})
}

func linkedWith(t testing.TB, timeout time.Duration, o node.LinkOptions) (a, b wired, w *wiring) {
	t.Helper()
	a.Node, a.path = startNode(t, node.Options{Name: "a", PeerTimeout: timeout})
	b.Node, b.path = startNode(t, node.Options{Name: "b", PeerTimeout: timeout})
	return a, b, join(t, a, b, "a", "b", o)
}

// join links two nodes of this process, of those names; the second one dials.
func join(t testing.TB, a, b wired, nameA, nameB string, o node.LinkOptions) *wiring {
	t.Helper()
	var wg sync.WaitGroup
	t.Cleanup(func() { a.Close(); b.Close(); wg.Wait() })
	w := &wiring{accept: func(c net.Conn) { wg.Go(func() { _ = a.Accept(c) }) }}
	if err := a.LinkWith(nameB, nil, o); err != nil {
		t.Fatal(err)
	}
	if err := b.LinkWith(nameA, w.dial, o); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a link", func() bool { return up(a, nameB) && up(b, nameA) })
	return w
}

func up(n wired, peer string) bool {
	return slices.ContainsFunc(n.Links(), func(l node.LinkInfo) bool { return l.Node == peer && l.Up })
}
