package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/storage"
)

// keepTail is how long a demoted owner keeps what its volumes held.
const keepTail = 7 * 24 * time.Hour

// takeOver makes the standing replica of a service its primaries, at the epoch of a failover. Once that is done it does nothing.
//
// With a snapshot it goes back to that one before.
func (h *host) takeOver(ctx context.Context, spec *pb.ServiceSpec, epoch uint64, snapshot string) error {
	b, err := h.store.Standby(spec.GetName())
	if err == nil {
		err = h.promote(ctx, b, spec, epoch, snapshot)
	} else if errors.Is(err, storage.ErrNotFound) {
		err = h.promoted(spec, epoch)
	}
	if err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	h.logger.Warn("the standing replica has become the service's volumes", "service", spec.GetName(), "epoch", epoch)
	return h.book.change(spec.GetName(), true, func(e *entry) error {
		e.Replication = nil
		return nil
	})
}

// promote lets nobody of an older epoch write to the standby any more, and then makes it primaries.
func (h *host) promote(ctx context.Context, b *storage.Standby, spec *pb.ServiceSpec, epoch uint64, snapshot string) error {
	if b.Status().Epoch < epoch-1 {
		if _, err := h.store.CreateStandby(ctx, spec.GetName(), h.volumesOf(spec), epoch-1); err != nil {
			return err
		}
	}
	if snapshot != "" {
		if err := b.Restore(ctx, snapshot); err != nil {
			return err
		}
	}
	return b.Promote(ctx, epoch)
}

// promoted finds all volumes to be primaries of the epoch.
func (h *host) promoted(spec *pb.ServiceSpec, epoch uint64) error {
	for _, v := range lying(spec) {
		have, err := h.store.Volume(volumeName(spec.GetName(), v))
		if err != nil {
			return err
		}
		if st := have.Status(); st.Role != storage.RolePrimary || st.Epoch != epoch {
			return fmt.Errorf("volume %s is %s at epoch %d, and there is no standby", st.Name, st.Role, st.Epoch)
		}
	}
	return nil
}

// former says whether volumes of the service are here that were the owner's under an older epoch.
func (h *host) former(r *pb.ReplicateService) bool {
	for _, spec := range lying(r.GetService()) {
		v, err := h.store.Volume(volumeName(r.GetService().GetName(), spec))
		if err != nil {
			continue
		}
		if st := v.Status(); st.Role != storage.RoleReplica && st.Epoch < r.GetEpoch() {
			return true
		}
	}
	return false
}

// fenceServer sees to it that nothing of an epoch older than this one is started here any more, and ends what runs.
func (h *host) fenceServer(ctx context.Context, name string, epoch uint64) error {
	if err := h.overtake(name, epoch); err != nil {
		return err
	}
	if err := h.platform.Destroy(ctx, name); err != nil {
		return err
	}
	return h.net.Detach(ctx, name)
}

// overtake refuses from now on what is older than an epoch under which the service runs elsewhere.
func (h *host) overtake(name string, epoch uint64) error {
	return h.book.change(name, true, func(e *entry) error {
		if e.Home, e.Spec, e.Importing = 0, nil, nil; e.Journal.Epoch < epoch {
			e.Journal, e.Figures = migration.Journal{Epoch: epoch}, nil
		}
		return nil
	})
}

// demote makes the volumes of a service that has another owner the replicas of that one's. What they hold is kept as a
// snapshot: writes that the new owner never got are in there.
func (h *host) demote(ctx context.Context, r *pb.ReplicateService) error {
	service := r.GetService()
	name := service.GetName()
	var volumes []string
	for _, v := range lying(service) {
		volumes = append(volumes, volumeName(name, v))
	}
	b, err := h.store.Demote(ctx, name, volumes, r.GetEpoch(), tailSnapshot(r.GetEpoch()), keepTail)
	if err != nil {
		return err
	}
	h.logger.Warn("the service has another owner: its volumes here are demoted, and follow that one's", "service", name,
		"epoch", r.GetEpoch(), "tail", b.Status().Tail, "kept", tailSnapshot(r.GetEpoch()))
	return nil
}

// tailSnapshot is the name of what a demoted owner held.
func tailSnapshot(epoch uint64) string { return fmt.Sprintf("before-failover-%d", epoch) }
