package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// replicateTimeout bounds one attempt to make or end a standing replication. It is tried again when one of its agents connects.
const replicateTimeout = 15 * time.Second

// checkStorage finds what is wrong with the wish for a standing replication, and fills in what users may leave out.
func checkStorage(spec *pb.ServiceSpec) error {
	s := spec.GetStorage()
	if s == nil {
		return nil
	}
	if s.GetMode() == "" {
		s.Mode = "async"
	}
	switch {
	case !api.IsName(s.GetReplicateTo()):
		return invalid("storage.replicateTo: %q is no name of a site", s.GetReplicateTo())
	case s.GetReplicateTo() == spec.GetSite():
		return invalid("storage.replicateTo is %s, where the service itself is: name another site", spec.GetSite())
	case s.GetMode() != "async" && s.GetMode() != "flush" && s.GetMode() != "sync":
		return invalid("storage.mode is %q: want async, flush or sync", s.GetMode())
	case s.GetMaxLagMs() < 0 || s.GetMaxLagBytes() < 0:
		return invalid("storage: maxLag and maxLagBytes cannot be negative")
	case len(copied(spec.GetVolumes())) == 0:
		return invalid("storage: service %s has no volume to replicate: external ones are reached from both sites", spec.GetName())
	}
	return nil
}

// changeStorage stores how the volumes are to be replicated from now on. A migration under way goes on with what was.
//
// A service that was moved may be told to keep its replica where it was started. The site that the manifest says it is at is then the
// other one of the two: with the old one there would be no other for the replica after a failover to it.
func (s *services) changeStorage(ctx context.Context, name, from string, asked *pb.StorageSpec) error {
	err := update(ctx, s.store, servicePrefix+name, func(r *serviceRecord) error {
		spec, err := r.spec()
		if err != nil {
			return err
		}
		if spec.Storage = asked; asked.GetReplicateTo() == spec.GetSite() {
			spec.Site = from
		}
		r.Spec, err = protojson.Marshal(spec)
		return err
	}, cluster.Compare{Key: activePrefix + name})
	if errors.Is(err, cluster.ErrConflict) {
		return precondition("service %s is being migrated\nhint: apply again when the migration has ended", name)
	}
	return err
}

// replicaSite is where the replica of a service belongs that is at the given site: after a move to the replica's site, at the one
// that the service was started at. Empty when none is asked for.
func replicaSite(spec *pb.ServiceSpec, at string) string {
	to := spec.GetStorage().GetReplicateTo()
	if to == at {
		return spec.GetSite()
	}
	return to
}

// replicate makes the standing replication of a service that runs what the store says that it should be. Its trouble is told in
// the service's status and is no trouble of the service. It leaves a service alone that is being migrated.
func (s *services) replicate(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, replicateTimeout)
	defer cancel()
	leave, err := s.replicas.enter(ctx, name)
	if err != nil {
		return err
	}
	defer leave()
	o, have, err := s.withOwner(ctx, name)
	if err != nil || o.spec.GetStorage() == nil && have.Host == "" {
		return err
	}
	if _, err := s.store.Get(ctx, activePrefix+name); !errors.Is(err, cluster.ErrNotFound) {
		return err // nil: it is being migrated
	}
	err = s.replicateTo(ctx, o, have)
	if err == nil && have.Error == "" {
		return nil // nothing to note: a record that does not change stands in nobody's way
	}
	text := textOf(err)
	note, cancel := context.WithTimeout(s.work, replicateTimeout)
	defer cancel()
	return errors.Join(err, update(note, s.store, servicePrefix+name, func(r *serviceRecord) error {
		r.Replica.Error = text
		return nil
	}))
}

func (s *services) replicateTo(ctx context.Context, o ownedService, have replicaRecord) error {
	spec, owner := o.spec, o.owner
	site := replicaSite(spec, owner.Site)
	if have.Host != "" && have.Site != site {
		if err := s.endReplication(ctx, o, have, "the replica was given up, or is elsewhere"); err != nil {
			return err
		}
		have = replicaRecord{}
	}
	if site == "" {
		return nil
	}
	if have.Host == "" {
		host, _, err := s.choose(ctx, &pb.ServiceSpec{Name: spec.GetName(), Server: new(pb.ServerSpec), Volumes: copied(spec.GetVolumes())}, site, "")
		if err != nil {
			return err
		}
		have = replicaRecord{Site: site, Host: host.Name}
		// What is about to be made is known first, so that it can be removed.
		if err := s.recordReplica(ctx, o, have); err != nil {
			return err
		}
	}
	if !s.agents.hasSession(have.Host) {
		down := fmt.Errorf("the agent of %s is down: the replica there is made, or goes on, when it is back", have.Host)
		return errors.Join(down, s.replicateFrom(ctx, spec, owner, have, pb.ReplicaRole_REPLICA_ROLE_SOURCE))
	}
	if err := s.sweepAt(ctx, spec.GetName(), have.Host); err != nil {
		return err
	}
	if err := s.replicateFrom(ctx, spec, owner, have, pb.ReplicaRole_REPLICA_ROLE_STANDBY, pb.ReplicaRole_REPLICA_ROLE_SOURCE); err != nil {
		return err
	}
	s.logger.Info("volumes are replicated", "service", spec.GetName(), "mode", spec.GetStorage().GetMode(), "from", owner.Host, "to", have.Host)
	return nil
}

// replicateFrom tells the ends of a standing replication of their roles, in that order. An owner alone goes on without the other
// end, in the newest mode.
func (s *services) replicateFrom(ctx context.Context, spec *pb.ServiceSpec, owner cluster.Owner, have replicaRecord, roles ...pb.ReplicaRole) error {
	at, err := s.placeOf(ctx, have.Site, have.Host)
	if err != nil {
		return err
	}
	serial, err := s.store.NextEpoch(ctx)
	if err != nil {
		return err
	}
	for _, role := range roles {
		agent := have.Host
		if role == pb.ReplicaRole_REPLICA_ROLE_SOURCE {
			agent = owner.Host
		}
		ask := &pb.ReplicateService{Service: spec, Epoch: owner.Epoch, Serial: serial, Role: role, Replica: at.proto()}
		if err := s.agents.callOnce(ctx, agent, replicateTask(ask)); err != nil {
			return err
		}
	}
	return nil
}

// recordReplica notes where the replica of a service is that has none, unless a migration has begun, or somebody else owns it.
func (s *services) recordReplica(ctx context.Context, o ownedService, where replicaRecord) error {
	name := o.owner.Service
	return update(ctx, s.store, servicePrefix+name, func(r *serviceRecord) error {
		if r.Phase == serviceDeleting {
			return fmt.Errorf("service %s is being deleted", name)
		}
		r.Replica = where
		return nil
	}, o.unmoved()...)
}

// endReplication removes the replica, the primary's end first, so that nothing is shipped to what is going away. A replica that is
// out of reach is remembered, and removed when its host is back: nobody waits for it.
func (s *services) endReplication(ctx context.Context, o ownedService, have replicaRecord, why string) error {
	spec := o.spec
	serial, err := s.store.NextEpoch(ctx)
	if err == nil {
		err = s.stillOwned(ctx, o) // a former owner is the replica by now
	}
	if err != nil {
		return err
	}
	if err := s.agents.call(ctx, o.owner.Host, replicateTask(&pb.ReplicateService{Service: spec, Epoch: o.owner.Epoch, Serial: serial})); err != nil {
		return fmt.Errorf("end the replication of service %s: %w", spec.GetName(), err)
	}
	left, err := s.leave(ctx, spec, have.Host, have.Site, endStandby, why)
	if err != nil {
		return err
	}
	if err := s.leaveReplica(ctx, o, left); err != nil {
		return err
	}
	if err := s.sweepAt(ctx, spec.GetName(), have.Host); err != nil {
		s.logger.Warn("a replica is left, to be removed later", "service", spec.GetName(), "host", have.Host, "err", err)
	}
	return nil
}

// leaveReplica turns the replica of a service into a leftover, in one step, unless a migration has begun, or somebody else owns it: after a
// failover that is the host of the replica, and what it was to remove is the only copy.
func (s *services) leaveReplica(ctx context.Context, o ownedService, left leftoverRecord) error {
	op, err := left.op()
	if err != nil {
		return err
	}
	for {
		var r serviceRecord
		rev, err := load(ctx, s.store, servicePrefix+left.Service, &r)
		if err != nil {
			return err
		}
		r.Replica = replicaRecord{}
		value, err := encode(r)
		if err != nil {
			return err
		}
		key := servicePrefix + left.Service
		compares := append([]cluster.Compare{{Key: key, Revision: rev}}, o.unmoved()...)
		_, err = s.store.Txn(ctx, compares, []cluster.Op{{Key: key, Value: value}, op})
		var conflict *cluster.ConflictError
		if !errors.As(err, &conflict) || conflict.Key != key {
			return err
		}
	}
}

// unreplicated ends the standing replication before a migration, whose session takes the volumes over, and decides on that, in decide, before
// anybody can make it again. It is made again, towards the other side, when the migration has ended.
func (s *services) unreplicated(ctx context.Context, name string, decide func() error) error {
	ending, cancel := context.WithTimeout(ctx, replicateTimeout)
	defer cancel()
	leave, err := s.replicas.enter(ending, name)
	if err != nil {
		return precondition("the replication of service %s is being made at this moment: %s\nhint: try again", name, err)
	}
	defer leave()
	o, have, err := s.withOwner(ending, name)
	if err == nil && have.Host != "" {
		err = s.endReplication(ending, o, have, "the service was migrated")
		switch {
		case errors.Is(err, cluster.ErrConflict):
			return changedMeanwhile("service", name)
		case err != nil && !errors.Is(err, errDeposed):
			return precondition("%s\nhint: a planned migration ends the standing replication first, and needs the agent of %s for that", err, o.owner.Host)
		}
	}
	if err != nil {
		return err
	}
	return decide()
}

// replicaConcerns says whether an agent that has connected has a part in the standing replication of a service, or may have.
func (s *services) replicaConcerns(spec *pb.ServiceSpec, owner cluster.Owner, have replicaRecord, all []agentState, agent string) bool {
	if spec.GetStorage() == nil && have.Host == "" {
		return false
	}
	if agent == owner.Host || agent == have.Host {
		return true
	}
	site := replicaSite(spec, owner.Site)
	for _, a := range all {
		if a.Name == agent && a.Site == site {
			return have.Host == ""
		}
	}
	return false
}
