package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

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
	case len(spec.GetVolumes()) == 0:
		return invalid("storage: service %s has no volume to replicate", spec.GetName())
	}
	return nil
}

// changeStorage stores how the volumes are to be replicated from now on. A migration under way goes on with what was.
func (s *services) changeStorage(ctx context.Context, name string, asked *pb.StorageSpec) error {
	err := update(ctx, s.store, servicePrefix+name, func(r *serviceRecord) error {
		spec, err := r.spec()
		if err != nil {
			return err
		}
		spec.Storage = asked
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
func (s *services) replicate(ctx context.Context, name string, spec *pb.ServiceSpec, have replicaRecord) error {
	if spec.GetStorage() == nil && have.Host == "" {
		return nil
	}
	if _, err := s.store.Get(ctx, activePrefix+name); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, replicateTimeout)
	defer cancel()
	owner, _, err := s.store.Owner(ctx, name)
	if err != nil {
		return err
	}
	err = s.replicateTo(ctx, spec, owner, have)
	text := ""
	if err != nil {
		text = err.Error()
	}
	note, cancel := context.WithTimeout(s.work, replicateTimeout)
	defer cancel()
	return errors.Join(err, update(note, s.store, servicePrefix+name, func(r *serviceRecord) error {
		r.Replica.Error = text
		return nil
	}))
}

func (s *services) replicateTo(ctx context.Context, spec *pb.ServiceSpec, owner cluster.Owner, have replicaRecord) error {
	site := replicaSite(spec, owner.Site)
	if have.Host != "" && have.Site != site {
		if err := s.endReplication(ctx, spec, owner.Host, have); err != nil {
			return err
		}
		have = replicaRecord{}
	}
	if site == "" {
		return nil
	}
	if have.Host == "" {
		host, _, err := s.choose(ctx, &pb.ServiceSpec{Name: spec.GetName(), Server: new(pb.ServerSpec), Volumes: spec.GetVolumes()}, site)
		if err != nil {
			return err
		}
		have = replicaRecord{Site: site, Host: host.Name}
		// What is about to be made is known first, so that it can be removed.
		if err := s.recordReplica(ctx, spec.GetName(), have); err != nil {
			return err
		}
	}
	at, err := s.placeOf(ctx, have.Site, have.Host)
	if err != nil {
		return err
	}
	serial, err := s.store.NextEpoch(ctx)
	if err != nil {
		return err
	}
	ask := &pb.ReplicateService{Service: spec, Epoch: owner.Epoch, Serial: serial, Role: pb.ReplicaRole_REPLICA_ROLE_STANDBY, Replica: at.proto()}
	if err := s.askReplication(ctx, have.Host, ask); err != nil {
		return err
	}
	ask.Role = pb.ReplicaRole_REPLICA_ROLE_SOURCE
	if err := s.askReplication(ctx, owner.Host, ask); err != nil {
		return err
	}
	s.logger.Info("volumes are replicated", "service", spec.GetName(), "mode", spec.GetStorage().GetMode(), "from", owner.Host, "to", have.Host)
	return nil
}

func (s *services) askReplication(ctx context.Context, agent string, r *pb.ReplicateService) error {
	task := &pb.SessionResponse{Task: &pb.SessionResponse_Replicate{Replicate: proto.Clone(r).(*pb.ReplicateService)}}
	return s.agents.call(ctx, agent, task)
}

// recordReplica notes where the replica is, unless a migration has begun.
func (s *services) recordReplica(ctx context.Context, name string, where replicaRecord) error {
	return update(ctx, s.store, servicePrefix+name, func(r *serviceRecord) error {
		if r.Phase == serviceDeleting && where.Host != "" {
			return fmt.Errorf("service %s is being deleted", name)
		}
		r.Replica = where
		return nil
	}, cluster.Compare{Key: activePrefix + name})
}

// endReplication removes the replica, the primary's end first, so that nothing is shipped to what is going away.
func (s *services) endReplication(ctx context.Context, spec *pb.ServiceSpec, owner string, have replicaRecord) error {
	serial, err := s.store.NextEpoch(ctx)
	if err != nil {
		return err
	}
	for _, agent := range []string{owner, have.Host} {
		if err := s.askReplication(ctx, agent, &pb.ReplicateService{Service: spec, Epoch: serial, Serial: serial}); err != nil {
			return fmt.Errorf("end the replication of service %s: %w", spec.GetName(), err)
		}
	}
	return s.recordReplica(ctx, spec.GetName(), replicaRecord{})
}

// unreplicate ends the standing replication before a migration, whose session takes the volumes over. It is made again, towards
// the other side, when the migration has ended.
func (s *services) unreplicate(ctx context.Context, name string) error {
	var r serviceRecord
	if _, err := load(ctx, s.store, servicePrefix+name, &r); err != nil || r.Replica.Host == "" {
		return err
	}
	spec, err := r.spec()
	if err != nil {
		return err
	}
	owner, _, err := s.store.Owner(ctx, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, replicateTimeout)
	defer cancel()
	if err := s.endReplication(ctx, spec, owner.Host, r.Replica); err != nil {
		return precondition("%s\nhint: a planned migration ends the standing replication first, and needs the agent of %s for that", err, r.Replica.Host)
	}
	return nil
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
