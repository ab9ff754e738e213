package node_test

import (
	"net"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/dvs/ring"
	"github.com/godwit-project/godwit/dvs/socket"
	"github.com/godwit-project/godwit/dvs/wire"
)

// intruder is a program that speaks the framing by hand.
type intruder struct {
	*socket.Conn
	t testing.TB
}

func intrude(t testing.TB, path string, direct bool) intruder {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := socket.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	i := intruder{conn, t}
	i.say(wire.Hello{Version: wire.Version, Direct: direct, Caller: 77, Container: "c"}.Append(nil))
	i.hear(wire.KindWelcome)
	return i
}

func (i intruder) say(frame []byte) {
	i.t.Helper()
	if err := i.Send(frame); err != nil {
		i.t.Fatal(err)
	}
}

// hear reads until a frame of that kind comes.
func (i intruder) hear(k wire.Kind) wire.Frame {
	i.t.Helper()
	for {
		f, err := i.Read()
		if err != nil {
			i.t.Fatalf("waiting for %s: %v", k, err)
		}
		if f.Kind == k {
			return f
		}
	}
}

// A peer that writes nonsense into a ring is cut off; everybody else goes on, and so does it over the node.
func TestAPeerThatDamagesARingIsCutOff(t *testing.T) {
	damages := map[string]func(ring []byte){
		"position": func(ring []byte) { ring[7] = 0xff },
		"length":   func(ring []byte) { copy(ring[4096:], []byte{255, 255, 255, 255}); ring[0] = 200 },
		"kind":     func(ring []byte) { copy(ring[4096:], []byte{1, 0, 0, 0, 99}); ring[0] = 5 },
		"message":  func(ring []byte) { copy(ring[4096:], []byte{2, 0, 0, 0, 16, 1}); ring[0] = 6 },
	}
	for what, damage := range damages {
		t.Run(what, func(t *testing.T) {
			_, path := startNode(t, node.Options{Name: "a"})
			e := bind(t, connect(t, path, dvs.Options{}), "s", dvs.BindOptions{})
			echo(t, e)
			i := intrude(t, path, true)
			if _, err := i.Files(5); err != nil {
				t.Fatal(err)
			}
			i.say(wire.Watch{Name: "s"}.Append(nil))
			m, err := wire.ParseIntroduce(i.hear(wire.KindIntroduce).Body)
			if err != nil {
				t.Fatal(err)
			}
			fds, err := i.Files(3)
			if err != nil {
				t.Fatal(err)
			}
			rings, err := unix.Mmap(fds[0], 0, ring.Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			page, err := unix.Mmap(fds[1], 0, ring.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Ftruncate(fds[0], 0); err == nil {
				t.Error("shared memory can be shrunk")
			}
			damage(rings[int(m.Side)*ring.Size/2:])
			page[128+m.PeerChannel/8] |= 1 << (m.PeerChannel % 8)
			page[64] |= 1
			page[0] = 2 // the bell is rung
			if _, err := unix.Write(fds[2], []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
				t.Fatal(err)
			}
			i.hear(wire.KindRevoke)
			got, err := connect(t, path, dvs.Options{}).SendRec(patient(t), "s", []byte("fine"))
			if string(got) != "fine" || err != nil {
				t.Errorf("others: %q, %v", got, err)
			}
			id := endpoint.Resolve("c", "s")
			i.say(wire.AppendRequest(nil, endpoint.Request{Kind: endpoint.SendRec, To: id, Caller: 77, Seq: 1, Line: 1, Payload: []byte("me")}))
			r, err := wire.ParseReply(i.hear(wire.KindReply).Body)
			if err != nil || string(r.Payload) != "me" {
				t.Errorf("over the node: %+v, %v", r, err)
			}
		})
	}
}

// Over the node nobody can ask or answer in somebody else's name.
func TestNobodySpeaksForAnother(t *testing.T) {
	_, path := startNode(t, node.Options{Name: "a"})
	e := bind(t, connect(t, path, dvs.Options{NodeOnly: true}), "s", dvs.BindOptions{})
	i := intrude(t, path, false)
	id := endpoint.Resolve("c", "s")
	i.say(wire.Watch{Name: "s"}.Append(nil))
	i.hear(wire.KindRoute)
	i.say(wire.AppendRequest(nil, endpoint.Request{Kind: endpoint.SendRec, To: id, Caller: 78, Seq: 1, Line: 1, Payload: []byte("false")}))
	i.say(wire.AppendRequest(nil, endpoint.Request{Kind: endpoint.SendRec, To: id, Caller: 77, Seq: 1, Line: 1, Payload: []byte("true")}))
	m, err := e.ReceiveRequest(patient(t))
	if err != nil || string(m.Payload) != "true" {
		t.Errorf("received %q, %v", m.Payload, err)
	}
	c := connect(t, path, dvs.Options{NodeOnly: true})
	got := make(chan string, 1)
	go func() {
		b, _ := c.SendRec(patient(t), "s", []byte("who?"))
		got <- string(b)
	}()
	m, err = e.ReceiveRequest(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	for caller := range slices.Values([]uint64{1, 2, 3}) {
		i.say(wire.AppendReply(nil, endpoint.Reply{To: id, Caller: caller, Seq: 1, Payload: []byte("false")}))
	}
	if err := e.Reply(m, []byte("true")); err != nil {
		t.Fatal(err)
	}
	if b := <-got; b != "true" {
		t.Errorf("answered %q", b)
	}
}
