package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
	"github.com/godwit-project/godwit/wan"
)

// replicate makes, changes or ends this end of the standing replication of a service's volumes, which has the service's name.
// What it wishes is in the book before it is acted on, so that an agent that comes back goes on with it.
func (h *host) replicate(ctx context.Context, r *pb.ReplicateService) error {
	if err := h.mayReplicate(r); err != nil {
		return err
	}
	raw, err := protojson.Marshal(r)
	if err != nil {
		return fmt.Errorf("replicate %s: %w", r.GetService().GetName(), err)
	}
	err = h.book.change(r.GetService().GetName(), true, func(e *entry) error {
		if e.Replication = raw; r.GetRole() == pb.ReplicaRole_REPLICA_ROLE_UNSPECIFIED {
			e.Replication = nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch r.GetRole() {
	case pb.ReplicaRole_REPLICA_ROLE_SOURCE:
		return h.protect(ctx, r)
	case pb.ReplicaRole_REPLICA_ROLE_STANDBY:
		return h.standBy(ctx, r)
	}
	return h.endReplication(ctx, r.GetService().GetName(), r.GetEpoch())
}

// mayReplicate refuses to end what was made under a newer owner than whom that was decided under. Its serial does not tell: it may be
// newer than the wish of a failover that made a replica of what is here.
func (h *host) mayReplicate(r *pb.ReplicateService) error {
	if r.GetRole() != pb.ReplicaRole_REPLICA_ROLE_UNSPECIFIED {
		return nil
	}
	name := r.GetService().GetName()
	if b, err := h.store.Standby(name); err == nil && b.Status().Epoch > r.GetEpoch() {
		return fmt.Errorf("end the replication of %s: %w: its replica is here under epoch %d, newer than %d", name, storage.ErrStale, b.Status().Epoch, r.GetEpoch())
	}
	return nil
}

// endReplication removes both ends of a standing replication, whichever is here, up to that epoch.
func (h *host) endReplication(ctx context.Context, service string, epoch uint64) error {
	return errors.Join(h.store.Unprotect(ctx, service, epoch), h.store.DeleteStandby(ctx, service, epoch))
}

// protect has the volumes replicated to the other end, in the newest mode and limits.
func (h *host) protect(ctx context.Context, r *pb.ReplicateService) error {
	service, asked := r.GetService(), r.GetService().GetStorage()
	spec := storage.GroupSpec{
		Name: service.GetName(), Epoch: r.GetEpoch(), Mode: asked.GetMode(),
		Limits: storage.Limits{Bytes: asked.GetMaxLagBytes(), Lag: time.Duration(asked.GetMaxLagMs()) * time.Millisecond},
	}
	for _, v := range lying(service) {
		spec.Volumes = append(spec.Volumes, volumeName(service.GetName(), v))
	}
	_, err := h.store.Protect(ctx, spec, h.dialReplica(r))
	return err
}

// dialReplica opens the group's stream. How urgent it is follows the mode: writers wait for it in flush and sync mode, and in
// async mode it gives way to them.
func (h *host) dialReplica(r *pb.ReplicateService) storage.Dialer {
	class := wan.Sync
	if r.GetService().GetStorage().GetMode() == storage.ModeAsync {
		class = wan.Async
	}
	return func(ctx context.Context) (net.Conn, error) {
		name := r.GetService().GetName()
		return h.dialer.Dial(ctx, r.GetReplica().GetHostAddress(), wan.Hello{
			Kind: streamGroup, Service: name, Name: name, Epoch: r.GetEpoch(), Class: class,
		})
	}
}

// standBy makes the replicas. Their exports are not served: nobody waits for them here. Where the service ran here under an older
// epoch, and somebody else owns it now, it is stopped and its volumes become the replicas.
func (h *host) standBy(ctx context.Context, r *pb.ReplicateService) error {
	service := r.GetService()
	if h.former(r) {
		err := h.fenceServer(ctx, service.GetName(), r.GetEpoch())
		if err == nil {
			err = h.forgetExternal(service, r.GetEpoch())
		}
		if err != nil {
			return err
		}
		return h.demote(ctx, r)
	}
	_, err := h.store.CreateStandby(ctx, service.GetName(), h.volumesOf(service), r.GetEpoch())
	return err
}

// volumesOf are the volumes of a service as the store knows them.
func (h *host) volumesOf(service *pb.ServiceSpec) []storage.Spec {
	var volumes []storage.Spec
	for _, v := range lying(service) {
		volumes = append(volumes, h.spec(volumeName(service.GetName(), v), v))
	}
	return volumes
}

// resumeReplication goes on with what the agent before this one did. Standbys the store has brought back already.
func (h *host) resumeReplication(ctx context.Context) {
	for _, name := range h.book.services() {
		var raw []byte
		h.book.view(name, func(e entry) { raw = e.Replication })
		if raw == nil {
			continue
		}
		r := new(pb.ReplicateService)
		err := protojson.Unmarshal(raw, r)
		if err == nil && r.GetRole() == pb.ReplicaRole_REPLICA_ROLE_SOURCE {
			err = h.protect(ctx, r)
		}
		if err != nil {
			h.logger.Error("the volumes of a service are not replicated any more", "service", name, "err", err)
		}
	}
}

// acceptGroup lets in the stream of a group whose standby is here, at its epoch.
func (h *host) acceptGroup(_ context.Context, hello wan.Hello, _ tls.ConnectionState) (func(context.Context, *wan.Stream), error) {
	b, err := h.store.Standby(hello.Service)
	if err != nil {
		return nil, err
	}
	if have := b.Status().Epoch; have != hello.Epoch {
		return nil, fmt.Errorf("the replica of service %s is at epoch %d, not %d", hello.Service, have, hello.Epoch)
	}
	return func(ctx context.Context, s *wan.Stream) {
		if err := b.Serve(ctx, s); err != nil && ctx.Err() == nil {
			h.logger.Warn("replication of a group ended", "service", hello.Service, "epoch", hello.Epoch, "err", err)
		}
	}, nil
}

// isOf says whether a volume is a replica of that standby.
func (h *host) isOf(volume, standby string) bool {
	v, err := h.store.Volume(volume)
	return err == nil && v.Standby() == standby
}

// volumes reports on the volumes of a service, or (with "") on those that stand alone, with what their group or standby says.
func (h *host) volumes(service string) []*pb.Volume {
	var out []*pb.Volume
	groups, standbys := h.store.Groups(), h.store.Standbys()
	for _, v := range h.store.Volumes() {
		if owner, _, _ := cutName(v.Name); owner != service {
			continue
		}
		o := viewVolume(v)
		if o.Service, o.Backing = service, backingFile; v.Device {
			o.Backing = backingDevice
		}
		lost := int64(0)
		for _, g := range groups {
			if slices.Contains(g.Volumes, v.Name) {
				addGroup(o, g)
				lost = g.Lost
			}
		}
		for _, b := range standbys {
			if h.isOf(v.Name, b.Name) {
				addStandby(o, b)
			}
		}
		o.Alert = h.alert(o, lost)
		out = append(out, o)
	}
	return append(out, h.externals(service)...)
}

// cutName finds the service and the volume of a name of the store; one that stands alone is of no service.
func cutName(name string) (service, volume string, ofService bool) {
	service, volume, ofService = strings.Cut(name, ".")
	if !ofService {
		return "", name, false
	}
	return service, volume, true
}
