package node_test

import (
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

// limited is what limits a node's guests, and nobody else.
func limited(name string) node.Options {
	return node.Options{
		Name: name, PeerTimeout: 20 * time.Second,
		Permit: func(p node.Program, _, name string) node.Mask {
			if p.Name == "guest" && name != "open" {
				return node.MaySendRec
			}
			return node.MayAll
		},
		Unlimited: func(p node.Program, _ string) bool { return p.Name != "guest" },
	}
}

// A node that limits some programs costs those that it does not limit nothing: they share memory, and have streams. The limited ones pass through it.
func TestLine10WhoMayDoEverythingPaysNothing(t *testing.T) {
	var a, b wired
	a.Node, a.path = startNode(t, node.Options{Name: "a", PeerTimeout: 20 * time.Second})
	b.Node, b.path = startNode(t, limited("b"))
	join(t, a, b, "a", "b", node.LinkOptions{})
	serveStreams(t, a)
	echo(t, bind(t, connect(t, a.path, dvs.Options{}), "s", dvs.BindOptions{}))
	echo(t, bind(t, connect(t, b.path, dvs.Options{}), "here", dvs.BindOptions{}))
	for _, name := range []string{"s", "here"} {
		guest := connect(t, b.path, dvs.Options{Program: "guest"})
		for range 300 {
			if _, err := guest.SendRec(patient(t), name, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		wantErr(t, guest.Send(patient(t), name, nil), dvs.ErrDenied)
	}
	if s := b.Stats(); s.Introductions != 0 || s.Streams != 0 {
		t.Errorf("a guest goes past the node: %+v", s)
	}
	friend := connect(t, b.path, dvs.Options{})
	talkByStream(t, a, b, friend)
	if _, err := friend.SendRec(patient(t), "here", nil); err != nil {
		t.Fatal(err)
	}
	if n := b.Stats().Introductions; n != 1 {
		t.Errorf("%d introductions", n)
	}
}

// A server that its own node limits gets no stream either: on that it could ask whatever its peer is bound to.
func TestLine10ALimitedServerGetsNoStream(t *testing.T) {
	var a, b wired
	a.Node, a.path = startNode(t, limited("a"))
	b.Node, b.path = startNode(t, node.Options{Name: "b", PeerTimeout: 20 * time.Second})
	join(t, a, b, "a", "b", node.LinkOptions{})
	serveStreams(t, a)
	echo(t, bind(t, connect(t, a.path, dvs.Options{Program: "guest"}), "open", dvs.BindOptions{}))
	client := connect(t, b.path, dvs.Options{})
	for range 300 {
		if _, err := client.SendRec(patient(t), "open", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := a.Stats().Streams, b.Stats().Streams; a+b != 0 {
		t.Errorf("%d and %d streams", a, b)
	}
}

// What is in a container that a node does not share with another is unknown there, and what the other says of it is passed over. The rest is as ever.
func TestLine02AContainerThatIsNotShared(t *testing.T) {
	for _, who := range []string{"who has it does not share it", "the other does not share it"} {
		t.Run(who, func(t *testing.T) {
			options := map[string]node.Options{"a": {Name: "a", PeerTimeout: 20 * time.Second}, "b": {Name: "b", PeerTimeout: 20 * time.Second}}
			name := map[bool]string{true: "a", false: "b"}[who == "who has it does not share it"]
			o := options[name]
			o.Share = func(_, container string) bool { return container != "secret" }
			options[name] = o
			var a, b wired
			a.Node, a.path = startNode(t, options["a"])
			b.Node, b.path = startNode(t, options["b"])
			join(t, a, b, "a", "b", node.LinkOptions{})
			serveStreams(t, a)
			for _, container := range []string{"secret", "open"} { // in this order: when the second is known there, the first would be
				echo(t, bind(t, connect(t, a.path, dvs.Options{Container: container}), "s", dvs.BindOptions{}))
			}
			inside := connect(t, b.path, dvs.Options{Container: "open"})
			if _, err := inside.SendRec(patient(t), "s", nil); err != nil {
				t.Fatal(err)
			}
			_, err := connect(t, b.path, dvs.Options{Container: "secret"}).SendRec(dvs.NoWait(patient(t)), "s", nil)
			wantErr(t, err, dvs.ErrNotBound)
			for _, e := range b.Endpoints() {
				if e.Container == "secret" && e.Node != "" {
					t.Errorf("b knows %+v", e)
				}
			}
			// Both have one of that name then, and neither hears of the other's.
			own := bind(t, connect(t, b.path, dvs.Options{Container: "secret"}), "s", dvs.BindOptions{})
			waiting(t, own)
			if _, err := connect(t, a.path, dvs.Options{Container: "secret"}).SendRec(patient(t), "s", nil); err != nil {
				t.Error(err)
			}
			if n := own.Pending(); n != 0 {
				t.Errorf("%d messages came from elsewhere", n)
			}
			if _, err := inside.SendRec(patient(t), "s", nil); err != nil {
				t.Error(err)
			}
		})
	}
}
