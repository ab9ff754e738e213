package controller

import (
	"context"
	"maps"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
)

// dvsSession is an agent that says where its node of the DVS is, and hears where the others are.
type dvsSession struct {
	t      *testing.T
	end    context.CancelFunc
	stream *connect.BidiStreamForClient[pb.SessionRequest, pb.SessionResponse]
}

func (w *world) dvsSession(who, dvs string) *dvsSession {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), soon)
	w.t.Cleanup(cancel)
	s := &dvsSession{t: w.t, end: cancel, stream: godwitv1connect.NewAgentServiceClient(client(w.t, who), w.server.URL).Session(ctx)}
	hello := &pb.Hello{Address: "192.0.2.1:7444", Dvs: dvs, Facts: goodFacts()}
	if err := s.stream.Send(&pb.SessionRequest{Message: &pb.SessionRequest_Hello{Hello: hello}}); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// hears returns when the agent is told of exactly these nodes.
func (s *dvsSession) hears(want map[string]string) {
	s.t.Helper()
	var last map[string]string
	for {
		m, err := s.stream.Receive()
		if err != nil {
			s.t.Fatalf("told of %v, want %v: %v", last, want, err)
		}
		if last = m.GetDvs().GetAddresses(); maps.Equal(last, want) {
			return
		}
	}
}

func TestHostsThatRunANodeOfTheDVSAreToldOfEachOther(t *testing.T) {
	w := newWorld(t)
	a := w.dvsSession("agent/host/west/a", "192.0.2.1:7445")
	a.hears(map[string]string{"a": "192.0.2.1:7445"})
	w.agent("host", "west", "plain")
	w.dvsSession("agent/edge/west/edge", "192.0.2.9:7445") // an edge runs none, whatever it says
	b := w.dvsSession("agent/host/east/b", "192.0.2.2:7445")
	both := map[string]string{"a": "192.0.2.1:7445", "b": "192.0.2.2:7445"}
	a.hears(both)
	b.hears(both)

	t.Run("a host that is away stays listed, one with a new address is told anew, and one without a node is left out", func(t *testing.T) {
		b.end()
		moved := map[string]string{"a": "192.0.2.7:7445", "b": "192.0.2.2:7445"}
		a = w.dvsSession("agent/host/west/a", "192.0.2.7:7445")
		a.hears(moved)
		b = w.dvsSession("agent/host/east/b", "")
		a.hears(map[string]string{"a": "192.0.2.7:7445"})
	})

	t.Run("a new controller knows them from the store", func(t *testing.T) {
		w.kill()
		w.live()
		b = w.dvsSession("agent/host/east/b", "192.0.2.2:7445")
		b.hears(map[string]string{"a": "192.0.2.7:7445", "b": "192.0.2.2:7445"})
	})

	hosts, err := w.as(asViewer).Get(w.ctx(), connect.NewRequest(&pb.GetRequest{Kind: "host", Name: "b"}))
	if err != nil || hosts.Msg.GetObjects()[0].GetHost().GetDvs() != "192.0.2.2:7445" {
		t.Fatalf("get host: %v, %v", hosts, err)
	}
}
