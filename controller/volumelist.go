package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
)

// listVolumes are what the connected hosts say that they have: a volume that is being moved is there twice, once as replica. Those
// that stand alone are known also when their host says nothing.
func (f *front) listVolumes(ctx context.Context) ([]*pb.Object, error) {
	agents, err := f.services.agents.all(ctx)
	if err != nil {
		return nil, err
	}
	alone, err := list[volumeRecord](ctx, f.services.store, volumePrefix)
	if err != nil {
		return nil, err
	}
	all := held(agents)
	for _, v := range all {
		if at := slices.IndexFunc(alone, func(r volumeRecord) bool { return r.Name == v.GetName() }); at >= 0 {
			alone[at].describe(v)
		}
	}
	left, err := f.services.leftovers(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, l := range left {
		more, err := l.volumes()
		if err != nil {
			return nil, err
		}
		for _, v := range more {
			if !has(all, v.GetName(), v.GetHost()) {
				all = append(all, v)
			}
		}
	}
	for _, r := range alone {
		told := func(v *pb.Volume) bool { return v.GetName() == r.Name && (r.Service != "" || v.GetHost() == r.Host) }
		if !slices.ContainsFunc(all, told) {
			all = append(all, r.missing(agents))
		}
	}
	slices.SortStableFunc(all, func(a, b *pb.Volume) int { return strings.Compare(a.GetName(), b.GetName()) })
	out := make([]*pb.Object, 0, len(all))
	for _, v := range all {
		out = append(out, &pb.Object{Kind: &pb.Object_Volume{Volume: v}})
	}
	return out, nil
}

// held are the volumes that hosts tell of.
func held(agents []agentState) []*pb.Volume {
	var all []*pb.Volume
	for _, a := range agents {
		for _, h := range a.Holdings {
			for _, told := range h.GetVolumes() {
				v := proto.Clone(told).(*pb.Volume) // the session's own is read by others
				v.Site, v.Host = a.Site, a.Name
				all = append(all, v)
			}
		}
	}
	return all
}

// has says whether a volume of that name is there on that host.
func has(all []*pb.Volume, name, host string) bool {
	return slices.ContainsFunc(all, func(v *pb.Volume) bool { return v.GetName() == name && v.GetHost() == host })
}

// describe adds what only the store knows of a volume that a host tells of.
func (r volumeRecord) describe(v *pb.Volume) {
	v.Standalone, v.Service, v.Phase = true, r.Service, r.Phase
	if r.Phase != volumeReady {
		v.Error = r.trouble()
	}
}

// trouble says what is the matter with a volume that is not ready.
func (r volumeRecord) trouble() string { return r.Phase + because(r.Message) }

// missing is a volume whose host says nothing of it.
func (r volumeRecord) missing(agents []agentState) *pb.Volume {
	v := &pb.Volume{Name: r.Name, Site: r.Site, Host: r.Host, Size: r.Size, Epoch: r.Epoch, Standalone: true, Service: r.Service, Phase: r.Phase, Error: r.trouble()}
	for _, a := range agents {
		switch {
		case a.Name != r.Host:
		case !a.Ready:
			v.Error = fmt.Sprintf("the agent of %s is down (last seen %s)", a.Name, a.LastSeen.UTC().Format(time.RFC3339))
			v.Alert = v.GetError() + ": start it (systemctl start godwit-agent)"
		case r.Phase == volumeReady:
			v.Error = "" // its next heartbeat tells of it
		}
	}
	return v
}
