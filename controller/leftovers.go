package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/controller/failover"
)

// What an agent that was out of reach has still to do for a service.
const (
	endStandby = failover.EndStandby
	removeAll  = failover.RemoveAll
	leaveRoute = failover.LeaveRoute
	demote     = failover.Demote
)

// leftoverTimeout bounds how long somebody waits for an agent to do away with what is left there. It is tried again when the agent
// connects.
const leftoverTimeout = 10 * time.Second

// roleLeftover is the role of volumes that a host may still have which is out of reach.
const roleLeftover = "leftover"

// leftoverRecord is what an agent has still to do for a service, also when the service is no more. It is written in the same
// transaction as the decision that made it a leftover, so that nobody has to wait for the agent. The epoch is a fresh one: an
// agent that has seen a newer one refuses, and then nothing is left to do.
type leftoverRecord struct {
	Service string    `json:"service"`
	Agent   string    `json:"agent"`
	Site    string    `json:"site"`
	What    string    `json:"what"`
	Why     string    `json:"why"`
	Epoch   uint64    `json:"epoch"`
	Since   time.Time `json:"since"`
	// Spec is the protojson of the ServiceSpec.
	Spec json.RawMessage `json:"spec"`
}

func (l leftoverRecord) key() string { return leftoverPrefix + l.Service + "/" + l.Agent }

// op writes the record.
func (l leftoverRecord) op() (cluster.Op, error) {
	value, err := encode(l)
	return cluster.Op{Key: l.key(), Value: value}, err
}

func (l leftoverRecord) spec() (*pb.ServiceSpec, error) { return serviceRecord{Spec: l.Spec}.spec() }

// leave makes the record of what an agent has still to do. A host that was to become a standby and is not to be one any more has
// primaries: it removes them all.
func (s *services) leave(ctx context.Context, spec *pb.ServiceSpec, agent, site, what, why string) (leftoverRecord, error) {
	l, err := newLeftover(spec, failover.Leftover{Agent: agent, Site: site, What: what}, why)
	if err != nil {
		return l, err
	}
	var before leftoverRecord
	_, err = load(ctx, s.store, l.key(), &before)
	switch {
	case err == nil && before.What != endStandby && what == endStandby:
		l.What = removeAll
	case err != nil && !errors.Is(err, cluster.ErrNotFound):
		return l, err
	}
	l.Epoch, err = s.store.NextEpoch(ctx)
	return l, err
}

func newLeftover(spec *pb.ServiceSpec, l failover.Leftover, why string) (leftoverRecord, error) {
	raw, err := protojson.Marshal(spec)
	if err != nil {
		return leftoverRecord{}, fmt.Errorf("encode service %s: %w", spec.GetName(), err)
	}
	return leftoverRecord{
		Service: spec.GetName(), Agent: l.Agent, Site: l.Site, What: l.What, Why: why, Epoch: l.Epoch, Since: time.Now().UTC(), Spec: raw,
	}, nil
}

// left is what is decided about it.
func (l leftoverRecord) left() failover.Leftover {
	return failover.Leftover{Agent: l.Agent, Site: l.Site, What: l.What, Epoch: l.Epoch}
}

// leftovers lists them, of one service or (with "") of all.
func (s *services) leftovers(ctx context.Context, service string) ([]leftoverRecord, error) {
	prefix := leftoverPrefix
	if service != "" {
		prefix += service + "/"
	}
	return list[leftoverRecord](ctx, s.store, prefix)
}

// sweepAt has the named agents, if anything of the service is left there, do away with it. That they cannot is an error.
func (s *services) sweepAt(ctx context.Context, service string, agents ...string) error {
	for _, agent := range agents {
		var l leftoverRecord
		_, err := load(ctx, s.store, leftoverRecord{Service: service, Agent: agent}.key(), &l)
		if err == nil {
			err = s.finish(ctx, l)
		}
		if err != nil && !errors.Is(err, cluster.ErrNotFound) {
			return err
		}
	}
	return nil
}

// finish has an agent do what it has still to do, and forgets that then.
func (s *services) finish(ctx context.Context, l leftoverRecord) error {
	ctx, cancel := context.WithTimeout(ctx, leftoverTimeout)
	defer cancel()
	fate, err := s.askLeftover(ctx, l)
	if fate == failover.Renew {
		if l, err = s.renew(ctx, l); err == nil {
			fate, err = s.askLeftover(ctx, l)
		}
	}
	if fate != failover.Forget {
		return fmt.Errorf("what %s has left of service %s: %w", l.Agent, l.Service, err)
	}
	var now leftoverRecord
	rev, err := load(ctx, s.store, l.key(), &now)
	if err == nil && now.Epoch == l.Epoch {
		err = s.store.Delete(ctx, l.key(), rev)
	}
	if err != nil && !errors.Is(err, cluster.ErrNotFound) && !errors.Is(err, cluster.ErrConflict) {
		return err
	}
	s.logger.Info("nothing is left to do", "agent", l.Agent, "service", l.Service, "what", l.What, "why", l.Why)
	return nil
}

// askLeftover has the agent do it, and says what becomes of it then; with an error it is not forgotten.
func (s *services) askLeftover(ctx context.Context, l leftoverRecord) (failover.Fate, error) {
	owner, _, err := s.store.Owner(ctx, l.Service)
	if err != nil && (l.What == demote || !errors.Is(err, cluster.ErrNotFound)) {
		return failover.Keep, err
	}
	if stateOf(serviceRecord{}, owner).Outdated(l.left()) {
		return failover.Forget, nil
	}
	task, err := s.leftoverTask(ctx, l, owner)
	if err == nil {
		err = s.agents.callOnce(ctx, l.Agent, task)
	}
	switch {
	case err == nil:
		return l.left().Answered(failover.Done), nil
	case errors.Is(err, errRefused):
		return l.left().Answered(failover.Refused), err
	}
	return l.left().Answered(failover.Unknown), err
}

// renew gives a leftover a fresh epoch, unless it is another one by now.
func (s *services) renew(ctx context.Context, l leftoverRecord) (leftoverRecord, error) {
	epoch, err := s.store.NextEpoch(ctx)
	if err != nil {
		return l, err
	}
	renewed := l
	renewed.Epoch = epoch
	err = update(ctx, s.store, l.key(), func(now *leftoverRecord) error {
		if now.Epoch != l.Epoch {
			return errors.New("something else is left there by now")
		}
		*now = renewed
		return nil
	})
	return renewed, err
}

// leftoverTask is what the agent is asked. The owner is the one of which it is known that it is not the agent's host.
func (s *services) leftoverTask(ctx context.Context, l leftoverRecord, owner cluster.Owner) (*pb.SessionResponse, error) {
	spec, err := l.spec()
	if err != nil {
		return nil, err
	}
	switch l.What {
	case removeAll, leaveRoute:
		return &pb.SessionResponse{Task: &pb.SessionResponse_Stop{Stop: &pb.StopService{Service: l.Service, Epoch: l.Epoch, Spec: spec}}}, nil
	case endStandby:
		return replicateTask(&pb.ReplicateService{Service: spec, Epoch: l.Epoch, Serial: l.Epoch}), nil
	}
	at, err := s.placeOf(ctx, l.Site, l.Agent)
	if err != nil {
		return nil, err
	}
	return replicateTask(&pb.ReplicateService{
		Service: spec, Epoch: owner.Epoch, Serial: l.Epoch, Role: pb.ReplicaRole_REPLICA_ROLE_STANDBY, Replica: at.proto(),
	}), nil
}

func replicateTask(r *pb.ReplicateService) *pb.SessionResponse {
	return &pb.SessionResponse{Task: &pb.SessionResponse_Replicate{Replicate: r}}
}

// inherit makes what agents, but for one, have still to do for a service that is being deleted independent of it.
func (s *services) inherit(ctx context.Context, service, except string) ([]cluster.Op, error) {
	all, err := s.leftovers(ctx, service)
	if err != nil {
		return nil, err
	}
	var ops []cluster.Op
	for _, l := range all {
		if l.What == removeAll || l.What == leaveRoute || l.Agent == except {
			continue
		}
		spec, err := l.spec()
		if err != nil {
			return nil, err
		}
		if l, err = s.leave(ctx, spec, l.Agent, l.Site, removeAll, "the service was deleted"); err != nil {
			return nil, err
		}
		op, err := l.op()
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// removeReplica has the replica's host remove what it has of a service that is being deleted. When that is out of reach, ops
// make a record of it.
func (s *services) removeReplica(ctx context.Context, spec *pb.ServiceSpec, replica replicaRecord, stop *pb.SessionResponse) (ops []cluster.Op, err error) {
	if replica.Host == "" {
		return nil, nil
	}
	trying, cancel := context.WithTimeout(ctx, leftoverTimeout)
	defer cancel()
	err = s.agents.callOnce(trying, replica.Host, stop)
	if err == nil {
		return []cluster.Op{{Key: leftoverRecord{Service: spec.GetName(), Agent: replica.Host}.key(), Delete: true}}, nil
	}
	if !errors.Is(err, errAgentDown) && trying.Err() == nil {
		return nil, err
	}
	s.logger.Warn("the replica of a service is out of reach, to be removed when its host is back", "service", spec.GetName(), "host", replica.Host)
	left, err := s.leave(ctx, spec, replica.Host, replica.Site, removeAll, "the service was deleted")
	if err != nil {
		return nil, err
	}
	op, err := left.op()
	return []cluster.Op{op}, err
}

// volumes are what the agent, if it is a host's, may still have, as users see it.
func (l leftoverRecord) volumes() ([]*pb.Volume, error) {
	if l.What == leaveRoute {
		return nil, nil
	}
	spec, err := l.spec()
	if err != nil {
		return nil, err
	}
	fate := "removed"
	if l.What == demote {
		fate = "made the replica"
	}
	var out []*pb.Volume
	for _, v := range copied(spec.GetVolumes()) {
		out = append(out, &pb.Volume{
			Name: hostName(l.Service, v), Standalone: v.GetVolume() != "", Service: l.Service, Site: l.Site, Host: l.Agent, Size: v.GetSize(), Role: roleLeftover, Epoch: l.Epoch,
			Error: strings.Join([]string{"to be", fate, "when", l.Agent, "is back:", l.Why}, " "),
		})
	}
	return out, nil
}
