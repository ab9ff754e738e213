package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// ChangeVolume implements the API.
func (f *front) ChangeVolume(ctx context.Context, req *connect.Request[pb.ChangeVolumeRequest]) (*connect.Response[pb.ChangeVolumeResponse], error) {
	if err := mayOperate(ctx); err != nil {
		return nil, err
	}
	unchanged, err := f.migrations.changeVolume(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ChangeVolumeResponse{Unchanged: unchanged}), nil
}

// changeVolume has a service started anew, where it is and under a new epoch, with a volume that is larger or has another content.
// The epoch tells the agent whether it has done so already: the content of a running guest is never replaced twice.
func (m *migrations) changeVolume(ctx context.Context, req *pb.ChangeVolumeRequest) (unchanged bool, err error) {
	name := req.GetService()
	c, err := m.planChange(ctx, req)
	if err != nil || c.unchanged {
		return c.unchanged, err
	}
	// The replica has the old size, or follows writes: it is made anew afterwards, by comparing what can be.
	if err := m.services.unreplicate(ctx, name); err != nil {
		return false, err
	}
	defer m.services.reconcile(name)
	if c, err = m.planChange(ctx, req); err != nil {
		return false, err
	}
	return false, m.decideChange(ctx, req, c)
}

// change is a change of a volume that may be decided.
type change struct {
	record    serviceRecord
	spec      *pb.ServiceSpec
	volume    *pb.VolumeSpec // in spec
	owner     cluster.Owner
	unchanged bool
	unmoved   []cluster.Compare // the conditions under which it stays right
}

func (m *migrations) planChange(ctx context.Context, req *pb.ChangeVolumeRequest) (c change, err error) {
	name := req.GetService()
	var rev int64
	if c.record, c.spec, rev, err = m.stored(ctx, name); err != nil {
		return c, err
	}
	at := slices.IndexFunc(c.spec.GetVolumes(), func(v *pb.VolumeSpec) bool { return v.GetName() == req.GetVolume() })
	if at < 0 {
		return c, notFound("volume", name+"/"+req.GetVolume())
	}
	c.volume = c.spec.GetVolumes()[at]
	if c.owner, c.unmoved, err = m.owned(ctx, name, rev); err != nil {
		return c, err
	}
	host, err := m.agents.connectedAgent(ctx, c.owner.Host)
	more := req.GetSize() - c.volume.GetSize()
	switch {
	case err != nil:
		return c, err
	case c.record.Phase != serviceRunning && c.record.Phase != serviceFailed:
		return c, precondition("service %s is %s: %s\nhint: wait until it runs: godwit get service %s --watch", name, c.record.Phase, c.record.Message, name)
	case req.GetSize()%4096 != 0 || req.GetSize() < 0:
		return c, invalid("size is %d bytes: want a positive multiple of 4096", req.GetSize())
	case req.GetSize() > 0 && more < 0:
		return c, invalid("volume %s/%s has %d bytes: volumes grow only", name, req.GetVolume(), c.volume.GetSize())
	case more > host.Facts.GetDiskFree():
		return c, precondition("host %s has %d MiB free, %d MiB more are needed\nhint: make room there, or migrate the service to a host that has it", host.Name, host.Facts.GetDiskFree()>>20, more>>20)
	case req.GetImage() != "" && !m.services.blobs.has(req.GetImage()):
		return c, invalid("no blob %q has been uploaded", req.GetImage())
	}
	c.unchanged = req.GetImage() == "" && more <= 0
	return c, nil
}

func (m *migrations) decideChange(ctx context.Context, req *pb.ChangeVolumeRequest, c change) error {
	name := req.GetService()
	epoch, err := m.store.NextEpoch(ctx)
	if err != nil {
		return err
	}
	r, owner := c.record, c.owner
	r.Phase, r.Message, r.Restart = serviceStarting, fmt.Sprintf("restarted, because volume %s changes", req.GetVolume()), true
	c.volume.Size = max(c.volume.GetSize(), req.GetSize())
	if req.GetImage() != "" {
		r.Refill = maps.Clone(r.Refill)
		if r.Refill == nil {
			r.Refill = make(map[string]string)
		}
		r.Refill[req.GetVolume()] = req.GetImage()
	}
	if r.Spec, err = protojson.Marshal(c.spec); err != nil {
		return fmt.Errorf("encode service %s: %w", name, err)
	}
	owner.Epoch = epoch
	record, err := encode(r)
	if err != nil {
		return err
	}
	value, err := owner.Encode()
	if err != nil {
		return err
	}
	ops := []cluster.Op{{Key: servicePrefix + name, Value: record}, {Key: cluster.OwnerKey(name), Value: value}}
	if err := m.decide(ctx, name, c.unmoved, ops); err != nil {
		return err
	}
	m.logger.Info("service is restarted with another volume", "service", name, "volume", req.GetVolume(), "size", c.volume.GetSize(), "image", req.GetImage(), "epoch", epoch)
	return nil
}
