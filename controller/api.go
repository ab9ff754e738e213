package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/cluster/identity"
	"github.com/godwit-project/godwit/migration"
)

// front is the API that users call: it checks who asks, and hands over.
type front struct {
	services   *services
	migrations *migrations
	joiner     *joiner
}

func mayOperate(ctx context.Context) error {
	_, err := requireRole(ctx, identity.Operator)
	return err
}

func mayView(ctx context.Context) error {
	_, err := requireRole(ctx, identity.Operator, identity.Viewer)
	return err
}

func (f *front) Apply(ctx context.Context, req *connect.Request[pb.ApplyRequest]) (*connect.Response[pb.ApplyResponse], error) {
	if err := mayOperate(ctx); err != nil {
		return nil, err
	}
	spec := req.Msg.GetService()
	if spec == nil {
		return nil, invalid("no service given")
	}
	outcome, err := f.services.apply(ctx, spec)
	if err != nil {
		return nil, err
	}
	objects, err := f.objects(ctx, "service", spec.GetName())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ApplyResponse{Service: objects[0].GetService(), Outcome: outcome}), nil
}

func (f *front) Get(ctx context.Context, req *connect.Request[pb.GetRequest]) (*connect.Response[pb.GetResponse], error) {
	if err := mayView(ctx); err != nil {
		return nil, err
	}
	objects, err := f.objects(ctx, req.Msg.GetKind(), req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.GetResponse{Objects: objects}), nil
}

// CreateVolume implements the API.
func (f *front) CreateVolume(ctx context.Context, req *connect.Request[pb.CreateVolumeRequest]) (*connect.Response[pb.CreateVolumeResponse], error) {
	if err := mayOperate(ctx); err != nil {
		return nil, err
	}
	outcome, err := f.services.volumes.create(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.CreateVolumeResponse{Outcome: outcome}), nil
}

func (f *front) Delete(ctx context.Context, req *connect.Request[pb.DeleteRequest]) (*connect.Response[pb.DeleteResponse], error) {
	if err := mayOperate(ctx); err != nil {
		return nil, err
	}
	var err error
	switch kind := req.Msg.GetKind(); kind {
	case "service":
		err = f.services.delete(ctx, req.Msg.GetName(), req.Msg.GetVolumes())
	case "volume":
		err = f.services.volumes.delete(ctx, req.Msg.GetName())
	default:
		err = invalid("a %s cannot be deleted: only services and volumes can", kind)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(new(pb.DeleteResponse)), nil
}

func (f *front) Migrate(ctx context.Context, req *connect.Request[pb.MigrateRequest]) (*connect.Response[pb.MigrateResponse], error) {
	if err := mayOperate(ctx); err != nil {
		return nil, err
	}
	m, err := f.migrations.start(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.MigrateResponse{Migration: m}), nil
}

func (f *front) WatchMigration(ctx context.Context, req *connect.Request[pb.WatchMigrationRequest], stream *connect.ServerStream[pb.WatchMigrationResponse]) error {
	if err := mayView(ctx); err != nil {
		return err
	}
	return f.migrations.watch(ctx, req.Msg.GetName(), func(m *pb.Migration) error {
		return stream.Send(&pb.WatchMigrationResponse{Migration: m})
	})
}

func (f *front) ContinueMigration(ctx context.Context, req *connect.Request[pb.ContinueMigrationRequest]) (*connect.Response[pb.ContinueMigrationResponse], error) {
	if err := mayOperate(ctx); err != nil {
		return nil, err
	}
	m, err := f.migrations.tell(ctx, req.Msg.GetName(), migration.Continue{At: time.Now()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ContinueMigrationResponse{Migration: m}), nil
}

func (f *front) AbortMigration(ctx context.Context, req *connect.Request[pb.AbortMigrationRequest]) (*connect.Response[pb.AbortMigrationResponse], error) {
	if err := mayOperate(ctx); err != nil {
		return nil, err
	}
	m, err := f.migrations.tell(ctx, req.Msg.GetName(), migration.Abort{At: time.Now(), Reason: req.Msg.GetReason()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.AbortMigrationResponse{Migration: m}), nil
}

func (f *front) CreateToken(ctx context.Context, req *connect.Request[pb.CreateTokenRequest]) (*connect.Response[pb.CreateTokenResponse], error) {
	if err := mayOperate(ctx); err != nil {
		return nil, err
	}
	token, err := f.joiner.createToken(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.CreateTokenResponse{Token: token}), nil
}

// objects lists a kind, or the one object that is named; of a volume, all copies.
func (f *front) objects(ctx context.Context, kind, name string) ([]*pb.Object, error) {
	kind = strings.TrimSuffix(kind, "s")
	listers := map[string]func(context.Context) ([]*pb.Object, error){
		"site": f.sites, "host": f.hosts, "edge": f.edges, "service": f.listServices, "volume": f.listVolumes, "migration": f.listMigrations,
	}
	lister, ok := listers[kind]
	if !ok {
		return nil, invalid("kind %q is not known: site, host, edge, service, volume or migration", kind)
	}
	all, err := lister(ctx)
	if err != nil || name == "" {
		return all, err
	}
	named := slices.DeleteFunc(all, func(o *pb.Object) bool { return nameOf(o) != name })
	if len(named) == 0 {
		return nil, notFound(kind, name)
	}
	return named, nil
}

func nameOf(o *pb.Object) string {
	switch k := o.GetKind().(type) {
	case *pb.Object_Site:
		return k.Site.GetName()
	case *pb.Object_Host:
		return k.Host.GetName()
	case *pb.Object_Edge:
		return k.Edge.GetName()
	case *pb.Object_Service:
		return k.Service.GetSpec().GetName()
	case *pb.Object_Volume:
		return k.Volume.GetName()
	case *pb.Object_Migration:
		return k.Migration.GetName()
	}
	return ""
}

func (f *front) sites(ctx context.Context) ([]*pb.Object, error) {
	agents, err := f.services.agents.all(ctx)
	if err != nil {
		return nil, err
	}
	sites := make(map[string]*pb.Site)
	for _, a := range agents {
		s := sites[a.Site]
		if s == nil {
			s = &pb.Site{Name: a.Site}
			sites[a.Site] = s
		}
		if a.Kind == "edge" {
			s.Edges++
		} else {
			s.Hosts++
		}
	}
	services, err := f.listServices(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range services {
		if s := sites[o.GetService().GetStatus().GetSite()]; s != nil {
			s.Services++
		}
	}
	out := make([]*pb.Object, 0, len(sites))
	for _, s := range sites {
		out = append(out, &pb.Object{Kind: &pb.Object_Site{Site: s}})
	}
	sort.Slice(out, func(i, j int) bool { return nameOf(out[i]) < nameOf(out[j]) })
	return out, nil
}

func (f *front) hosts(ctx context.Context) ([]*pb.Object, error) {
	return f.agentObjects(ctx, "host", func(a agentState) *pb.Object {
		return &pb.Object{Kind: &pb.Object_Host{Host: &pb.Host{
			Name: a.Name, Site: a.Site, Address: a.Address, Dvs: a.DVS, Ready: a.Ready, LastSeen: timestamppb.New(a.LastSeen), Facts: a.Facts,
		}}}
	})
}

func (f *front) edges(ctx context.Context) ([]*pb.Object, error) {
	return f.agentObjects(ctx, "edge", func(a agentState) *pb.Object {
		return &pb.Object{Kind: &pb.Object_Edge{Edge: &pb.Edge{
			Name: a.Name, Site: a.Site, Address: a.Address, Underlay: a.Underlay, Ready: a.Ready, LastSeen: timestamppb.New(a.LastSeen),
		}}}
	})
}

func (f *front) agentObjects(ctx context.Context, kind string, view func(agentState) *pb.Object) ([]*pb.Object, error) {
	agents, err := f.services.agents.all(ctx)
	if err != nil {
		return nil, err
	}
	var out []*pb.Object
	for _, a := range agents {
		if a.Kind == kind {
			out = append(out, view(a))
		}
	}
	return out, nil
}

func (f *front) listServices(ctx context.Context) ([]*pb.Object, error) {
	s := f.services
	records, err := list[serviceRecord](ctx, s.store, servicePrefix)
	if err != nil {
		return nil, err
	}
	agents, err := s.agents.all(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]*pb.Object, 0, len(records))
	for _, r := range records {
		spec, err := r.spec()
		if err != nil {
			return nil, err
		}
		owner, _, err := s.store.Owner(ctx, spec.GetName())
		if errors.Is(err, cluster.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("owner of service %s: %w", spec.GetName(), err)
		}
		status := &pb.ServiceStatus{
			Phase: r.Phase, Site: owner.Site, Host: owner.Host, Epoch: owner.Epoch, Message: r.Message,
			ReplicaSite: r.Replica.Site, ReplicaHost: r.Replica.Host, ReplicaError: r.Replica.Error,
		}
		if status.GetMessage() == "" {
			status.Message = troubleOf(agents, owner)
		}
		if status.Failover, err = r.lastFailover(); err != nil {
			return nil, err
		}
		if o, err := s.store.Get(ctx, activePrefix+spec.GetName()); err == nil {
			status.Phase, status.Migration = "migrating", string(o.Value)
		}
		out = append(out, &pb.Object{Kind: &pb.Object_Service{Service: &pb.Service{Spec: spec, Status: status}}})
	}
	return out, nil
}

// troubleOf is what the owner's host says of a service's virtual server that should run and does not.
func troubleOf(agents []agentState, owner cluster.Owner) string {
	for _, a := range agents {
		for _, h := range a.Holdings {
			if a.Name == owner.Host && h.GetService() == owner.Service {
				return h.GetTrouble()
			}
		}
	}
	return ""
}

func (f *front) listMigrations(ctx context.Context) ([]*pb.Object, error) {
	records, err := list[migrationRecord](ctx, f.migrations.store, migrationPrefix)
	if err != nil {
		return nil, err
	}
	sort.Slice(records, func(i, j int) bool { return records[i].State.Spec.Epoch < records[j].State.Spec.Epoch })
	out := make([]*pb.Object, 0, len(records))
	for _, r := range records {
		v, err := f.migrations.view(ctx, r.State.Spec.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, &pb.Object{Kind: &pb.Object_Migration{Migration: v}})
	}
	return out, nil
}
