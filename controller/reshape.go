package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// ChangeVolume implements the API.
func (f *front) ChangeVolume(ctx context.Context, req *connect.Request[pb.ChangeVolumeRequest]) (*connect.Response[pb.ChangeVolumeResponse], error) {
	if err := mayOperate(ctx); err != nil {
		return nil, err
	}
	unchanged, err := f.migrations.changeVolume(ctx, proto.Clone(req.Msg).(*pb.ChangeVolumeRequest))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ChangeVolumeResponse{Unchanged: unchanged}), nil
}

// changeVolume has a service started anew, where it is and under a new epoch, with a volume that is larger or has another content.
// The epoch tells the agent whether it has done so already: the content of a running guest is never replaced twice. A volume that no
// service uses is changed without that.
func (m *migrations) changeVolume(ctx context.Context, req *pb.ChangeVolumeRequest) (unchanged bool, err error) {
	if req.GetService() == "" {
		var alone volumeRecord
		if alone, req.Service, req.Volume, err = m.services.used(ctx, req.GetVolume()); err != nil {
			return false, err
		}
		if req.GetService() == "" {
			return m.services.volumes.change(ctx, alone, req)
		}
	}
	name := req.GetService()
	c, err := m.planChange(ctx, req)
	if err != nil || c.unchanged {
		return c.unchanged, err
	}
	defer m.services.reconcile(name)
	return false, agree(func() error {
		// The replica has the old size, or follows writes: it is made anew afterwards, by comparing what can be.
		return m.services.unreplicated(ctx, name, func() error {
			c, err := m.planChange(ctx, req)
			if err != nil {
				return err
			}
			return m.decideChange(ctx, req, c)
		})
	})
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
	switch {
	case err != nil:
		return c, err
	case c.record.Phase != serviceRunning && c.record.Phase != serviceFailed:
		return c, precondition("service %s is %s: %s\nhint: wait until it runs: godwit get service %s --watch", name, c.record.Phase, c.record.Message, name)
	case c.volume.GetExternal() != "":
		return c, precondition("volume %s/%s is external: what is at %s is not Godwit's to change", name, req.GetVolume(), c.volume.GetExternal())
	}
	c.unchanged, err = m.services.volumes.mayChange(name+"/"+req.GetVolume(), c.volume, req, host)
	return c, err
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
	ops, err := m.services.volumes.resized(ctx, c.volume)
	if err != nil {
		return err
	}
	ops = append(ops, cluster.Op{Key: servicePrefix + name, Value: record}, cluster.Op{Key: cluster.OwnerKey(name), Value: value})
	if err := m.decide(ctx, name, c.unmoved, ops); err != nil {
		return err
	}
	m.logger.Info("service is restarted with another volume", "service", name, "volume", req.GetVolume(), "size", c.volume.GetSize(), "image", req.GetImage(), "epoch", epoch)
	return nil
}
