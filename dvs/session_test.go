package dvs_test

import (
	"bufio"
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// script is a node that says what the test wants, in the order that it wants.
type script struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

// listen returns the socket of a node that does not answer by itself.
func listen(t *testing.T) (*net.UnixListener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, path
}

// accept takes in a program.
func accept(t *testing.T, l *net.UnixListener) *script {
	t.Helper()
	_ = l.SetDeadline(time.Now().Add(30 * time.Second))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	n := &script{t, c, bufio.NewReader(c)}
	n.expect(wire.KindHello)
	n.say(wire.Welcome{Version: wire.Version, MaxPayload: wire.MaxPayload, Node: "n"}.Append(nil))
	return n
}

func (n *script) say(frame []byte) {
	n.t.Helper()
	if _, err := n.c.Write(frame); err != nil {
		n.t.Fatal(err)
	}
}

// expect reads up to a frame of that kind.
func (n *script) expect(k wire.Kind) []byte {
	n.t.Helper()
	_ = n.c.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		f, err := wire.Read(n.r)
		if err != nil {
			n.t.Fatalf("waiting for %s: %v", k, err)
		}
		if f.Kind == k {
			return f.Body
		}
	}
}

// A caller can be told of an endpoint, and its request can come by a ring, before the owner has read the node's answer to its own Bind: the
// two ways are not ordered. The request waits for the answer then, and is executed.
func TestARequestThatComesBeforeTheAnswerToBindIsExecuted(t *testing.T) {
	l, path := listen(t)
	type bound struct {
		e   *dvs.Endpoint
		err error
	}
	got := make(chan bound, 1)
	go func() {
		s, err := dvs.Connect(context.Background(), path, dvs.Options{Container: "c", NodeOnly: true})
		if err != nil {
			got <- bound{err: err}
			return
		}
		e, err := s.Bind(context.Background(), "s", dvs.BindOptions{})
		got <- bound{e, err}
	}()
	n := accept(t, l)
	m, err := wire.ParseBind(n.expect(wire.KindBind))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(seq, line uint64) {
		r := endpoint.Request{Kind: endpoint.SendRec, To: endpoint.Resolve("c", "s"), Caller: 9, Seq: seq, Line: line, Payload: []byte{byte(seq)}}
		n.say(wire.AppendRequest(nil, r))
	}
	ask(1, 5)
	n.say(wire.Answer{Call: m.Call, Version: endpoint.Version{Epoch: 5}}.Append(nil))
	b := <-got
	if b.err != nil {
		t.Fatal(b.err)
	}
	defer b.e.Session().Close()
	answered := func(seq uint64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		r, err := b.e.ReceiveRequest(ctx)
		if err != nil || r.Payload[0] != byte(seq) {
			t.Fatalf("received %v, %v", r, err)
		}
		if err := b.e.Reply(r, r.Payload); err != nil {
			t.Fatal(err)
		}
		a, err := wire.ParseReply(n.expect(wire.KindReply))
		if err != nil || a.Seq != seq || a.Code != endpoint.OK {
			t.Fatalf("replied %+v, %v", a, err)
		}
	}
	answered(1)
	// The same when the node learns later that the name was bound before, and gives the owner a newer version.
	ask(2, 8)
	n.say(wire.Order{Endpoint: endpoint.Resolve("c", "s"), Order: wire.OrderVersion, Version: endpoint.Version{Epoch: 8}}.Append(nil))
	answered(2)
	// What is for a line before is refused: that state is lost.
	ask(3, 7)
	if a, err := wire.ParseReply(n.expect(wire.KindReply)); err != nil || a.Code != endpoint.OtherLine {
		t.Fatalf("replied %+v, %v", a, err)
	}
}
