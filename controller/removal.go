package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// delete marks the service and waits until everything that was made for it is gone.
func (s *services) delete(ctx context.Context, name string) error {
	err := update(ctx, s.store, servicePrefix+name, func(r *serviceRecord) error {
		r.Phase = serviceDeleting
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
	changes := s.store.Watch(ctx, servicePrefix+name, 0)
	s.reconcile(name)
	for {
		if _, err := s.store.Get(ctx, servicePrefix+name); errors.Is(err, cluster.ErrNotFound) {
			return nil
		}
		select {
		case <-changes:
		case <-time.After(time.Second):
			s.reconcile(name)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// remove takes the service away from its owner's host and edge, then from the store.
func (s *services) remove(ctx context.Context, spec *pb.ServiceSpec, replica replicaRecord) error {
	name := spec.GetName()
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
	for _, agent := range []string{at.Edge, at.Host} {
		if err := s.agents.call(ctx, agent, task); err != nil {
			return err
		}
	}
	ops, err := s.removeReplica(ctx, spec, replica, task)
	if err != nil {
		return err
	}
	inherited, err := s.inherit(ctx, name, replica.Host)
	if err != nil {
		return err
	}
	ops = append(append(ops, inherited...), cluster.Op{Key: servicePrefix + name, Delete: true}, cluster.Op{Key: cluster.OwnerKey(name), Delete: true})
	for _, a := range spec.GetAddresses() {
		ops = append(ops, cluster.Op{Key: addressPrefix + spec.GetNetwork() + "/" + a, Delete: true})
	}
	if _, err := s.store.Txn(ctx, []cluster.Compare{{Key: cluster.OwnerKey(name), Revision: ownerRev}}, ops); err != nil {
		return fmt.Errorf("forget service %s: %w", name, err)
	}
	s.logger.Info("service deleted", "service", name)
	return nil
}
