package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// delete marks the service and waits until everything that was made for it is gone; with volumes also those that stand alone and
// that it uses.
func (s *services) delete(ctx context.Context, name string, volumes bool) error {
	err := update(ctx, s.store, servicePrefix+name, func(r *serviceRecord) error {
		r.Phase, r.Discard = serviceDeleting, r.Discard || volumes
		return nil
	}, cluster.Compare{Key: activePrefix + name})
	switch {
	case errors.Is(err, cluster.ErrConflict):
		return precondition("service %s is being migrated\nhint: wait for the migration, or godwit migration abort it", name)
	case errors.Is(err, cluster.ErrNotFound):
		return notFound("service", name)
	case err != nil:
		return err
	}
	return awaitGone(ctx, s.store, servicePrefix+name, func() { s.reconcile(name) })
}

// awaitGone returns when there is no record any more, and has somebody work on that meanwhile.
func awaitGone(ctx context.Context, store *ledger, key string, work func()) error {
	changes := store.Watch(ctx, key, 0)
	work()
	for {
		if _, err := store.Get(ctx, key); errors.Is(err, cluster.ErrNotFound) {
			return nil
		}
		select {
		case <-changes:
		case <-time.After(time.Second):
			work()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// remove takes the service away from its owner's host and edge, then from the store.
func (s *services) remove(ctx context.Context, spec *pb.ServiceSpec, r serviceRecord) error {
	name, replica := spec.GetName(), r.Replica
	owner, ownerRev, err := s.store.Owner(ctx, name)
	if err != nil {
		return err
	}
	at, err := s.placeOf(ctx, owner.Site, owner.Host)
	if err != nil {
		return err
	}
	// An epoch of its own: after an aborted migration the agents have seen a newer one than the owner's.
	epoch, err := s.store.NextEpoch(ctx)
	if err != nil {
		return err
	}
	task := &pb.SessionResponse{Task: &pb.SessionResponse_Stop{Stop: &pb.StopService{Service: name, Epoch: epoch, Spec: spec}}}
	// The edge first: nobody shall be led to a machine that is going away.
	if err := s.agents.call(ctx, at.Edge, task); err != nil {
		return err
	}
	atHome := proto.Clone(task).(*pb.SessionResponse)
	atHome.GetStop().Keep = !r.Discard
	if err := s.agents.call(ctx, at.Host, atHome); err != nil {
		return err
	}
	ops, err := s.removeReplica(ctx, spec, replica, task)
	if err != nil {
		return err
	}
	inherited, err := s.inherit(ctx, name, replica.Host)
	if err != nil {
		return err
	}
	detached, err := s.volumes.detach(ctx, spec, owner, epoch, r.Discard)
	if err != nil {
		return err
	}
	ops = append(append(append(ops, inherited...), detached...), cluster.Op{Key: servicePrefix + name, Delete: true}, cluster.Op{Key: cluster.OwnerKey(name), Delete: true})
	for _, key := range externalKeys(spec) {
		ops = append(ops, cluster.Op{Key: key, Delete: true})
	}
	for _, a := range spec.GetAddresses() {
		ops = append(ops, cluster.Op{Key: addressPrefix + spec.GetNetwork() + "/" + a, Delete: true})
	}
	if _, err := s.store.Txn(ctx, []cluster.Compare{{Key: cluster.OwnerKey(name), Revision: ownerRev}}, ops); err != nil {
		return fmt.Errorf("forget service %s: %w", name, err)
	}
	s.logger.Info("service deleted", "service", name)
	return nil
}
