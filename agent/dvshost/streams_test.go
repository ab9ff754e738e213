package dvshost_test

import (
	"context"
	"strings"
	"testing"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

// Programs of two nodes that talk much get a connection of their own, whichever of the nodes has dialled the other. (That what passes there is
// sealed where links are secure is dvs/node's; that it learns that they are, TestALinkShowsThatItIsSecure's.)
func TestProgramsOfTwoNodesGetAStream(t *testing.T) {
	ca := newAuthority(t)
	for what, streams := range map[string]string{"one address": "127.0.0.1:0", "that of the link": "0.0.0.0:0"} {
		nodes := startNodes(t, func(o *dvshost.NodeOptions) { o.TLS, o.Streams = ca.node(o.Name), streams }, "a", "b")
		for server, client := range map[string]string{"a": "b", "b": "a"} {
			e, err := nodes[server].session(t, "shop").Bind(patient(t), server, dvs.BindOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					m, err := e.Receive(ctx, dvs.Any)
					if err != nil {
						return
					}
					_ = e.Reply(m, m.Payload)
				}
			}()
			s := nodes[client].session(t, "shop")
			given := func() uint64 {
				stats, err := nodes[client].Stats(patient(t))
				if err != nil {
					t.Fatal(err)
				}
				return stats.Streams
			}
			for before, asking := given(), patient(t); given() == before; {
				if _, err := s.SendRec(asking, server, []byte("much")); err != nil {
					t.Fatalf("%s: %s asks %s: %v", what, client, server, err)
				}
			}
			cancel()
			<-done
		}
	}
}

func TestStreamsNeedAnAddress(t *testing.T) {
	for streams, want := range map[string]string{"nowhere": "want HOST:PORT", "192.0.2.1:0": "loopback addresses only"} {
		directory := t.TempDir()
		err := dvshost.Serve(patient(t), dvshost.NodeOptions{Name: "a", Socket: directory + "/a", Listen: "127.0.0.1:0", Streams: streams})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", streams, err)
		}
	}
}
