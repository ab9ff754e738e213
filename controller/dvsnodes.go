package controller

import (
	"fmt"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster/identity"
)

// nodesChanged has every host that runs a node of the DVS be told of all of them. It is called whenever an agent has connected: then only can
// what they say have changed.
func (a *agents) nodesChanged() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.mu.sessions {
		if !s.record.runsNode() {
			continue
		}
		select {
		case s.nodes <- struct{}{}:
		default: // it is to be told already
		}
	}
}

// tellNodes tells one. Hosts that are not connected count: their nodes may run all the same.
func (a *agents) tellNodes(s *session, stream *connect.BidiStream[pb.SessionRequest, pb.SessionResponse]) error {
	records, err := list[agentRecord](s.gone, a.store, agentPrefix)
	if err != nil {
		return fmt.Errorf("tell %s of the nodes of the DVS: %w", s.identity.Name, err)
	}
	addresses := map[string]string{}
	for _, r := range records {
		if r.runsNode() {
			addresses[r.Name] = r.DVS
		}
	}
	return stream.Send(&pb.SessionResponse{Task: &pb.SessionResponse_Dvs{Dvs: &pb.DVSNodes{Addresses: addresses}}})
}

func (r agentRecord) runsNode() bool { return r.Kind == identity.Host && r.DVS != "" }
