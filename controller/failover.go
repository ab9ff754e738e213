package controller

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// Failover implements the API.
func (f *front) Failover(ctx context.Context, req *connect.Request[pb.FailoverRequest]) (*connect.Response[pb.FailoverResponse], error) {
	if err := mayOperate(ctx); err != nil {
		return nil, err
	}
	done, err := f.migrations.failover(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.FailoverResponse{Failover: done}), nil
}

// takeover is a failover that may be decided.
type takeover struct {
	failover *pb.Failover
	decided  bool // before, by the same request
	record   serviceRecord
	spec     *pb.ServiceSpec
	from     place
	// unchanged are the conditions under which it stays right.
	unchanged []cluster.Compare
}

// failover makes the standing replica of a service its owner, under a new epoch. The decision is one transaction: the owner, how the
// service is started there, and what the old site has to do when it is back. What follows is done, and tried again, in the
// background.
//
// That the old site is dead is the operator's word. What it still acknowledges until it is told is set aside there.
func (m *migrations) failover(ctx context.Context, req *pb.FailoverRequest) (*pb.Failover, error) {
	var t takeover
	err := agree(func() (err error) {
		if t, err = m.planFailover(ctx, req); err != nil || t.decided {
			return err
		}
		return m.decideFailover(ctx, t)
	})
	if err != nil {
		return nil, err
	}
	f, said := t.failover, "service is failed over"
	if t.decided {
		said = "a failover is asked for again that was decided"
	}
	m.logger.Warn(said, "service", req.GetService(), "from", f.GetFromHost(), "to", f.GetToHost(), "epoch", f.GetEpoch(), "forced", f.GetForced())
	m.services.reconcile(req.GetService())
	return f, nil
}

func (m *migrations) planFailover(ctx context.Context, req *pb.FailoverRequest) (t takeover, err error) {
	name := req.GetService()
	var rev int64
	if t.record, t.spec, rev, err = m.stored(ctx, name); err != nil {
		return t, err
	}
	var owner cluster.Owner
	if owner, t.unchanged, err = m.owned(ctx, name, rev); err != nil {
		return t, err
	}
	if t.record.Phase == serviceDeleting {
		return t, precondition("service %s is being deleted", name)
	}
	if last, err := t.record.lastFailover(); err != nil || req.GetRequest() != "" && last.GetRequest() == req.GetRequest() {
		t.failover, t.decided = last, true
		return t, err
	}
	if t.from, err = m.services.placeOf(ctx, owner.Site, owner.Host); err != nil {
		return t, err
	}
	if err := m.agents.settled(owner.Host); err != nil {
		return t, err
	}
	answers := m.agents.hasSession(owner.Host)
	replica, err := m.target(ctx, t.spec, owner, t.record.Replica, req)
	if err != nil {
		return t, err
	}
	switch to := req.GetToSite(); {
	case replica.Host == "":
		return t, precondition("service %s has no replica that could take over%s\nhint: 'storage: {replicateTo: SITE}' in its manifest asks for one, and has to be there before the site is lost", name, because(replica.Error))
	case to == owner.Site:
		return t, precondition("service %s is at site %s already", name, to)
	case to != "" && to != replica.Site:
		return t, precondition("the replica of service %s is at site %s, not at %s\nhint: godwit failover %s --to %s", name, replica.Site, to, name, replica.Site)
	case answers && !req.GetForce() && req.GetSnapshot() == "":
		return t, precondition("the agent of %s answers, so the service has not lost its site\nhint: 'godwit migrate %s --to %s' moves it without losing anything; --force fails it over all the same", owner.Host, name, replica.Site)
	}
	if err := unfenced(t.spec, owner.Host, answers, req); err != nil {
		return t, err
	}
	t.failover = &pb.Failover{
		FromSite: owner.Site, FromHost: owner.Host, ToSite: replica.Site, ToHost: replica.Host, Forced: answers, Mode: t.spec.GetStorage().GetMode(),
		Snapshot: req.GetSnapshot(), Request: req.GetRequest(),
	}
	if err := m.ready(ctx, t); err != nil {
		return t, err
	}
	return t, m.hasSnapshot(ctx, t)
}

// hasSnapshot finds the snapshot that the service is to go back to: that is the point, then.
func (m *migrations) hasSnapshot(ctx context.Context, t takeover) error {
	f := t.failover
	if f.GetSnapshot() == "" {
		return nil
	}
	found, err := m.services.snapshot(ctx, t.spec.GetName(), f.GetSnapshot())
	if err != nil {
		return err
	}
	if found != nil {
		f.Point, f.PointTime = found.GetPoint(), found.GetTime()
		return nil
	}
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("service %s has no snapshot %q\nhint: godwit volume snapshot list %s", t.spec.GetName(), f.GetSnapshot(), t.spec.GetName()))
}

// ready says why the replica cannot take over, and notes how far it is.
func (m *migrations) ready(ctx context.Context, t takeover) error {
	name, to := t.spec.GetName(), t.failover.GetToHost()
	at, err := m.services.placeOf(ctx, t.failover.GetToSite(), to)
	if err != nil {
		return err
	}
	if err := m.agents.returning(to, at.Edge); err != nil {
		return err
	}
	host, err := m.agents.connectedAgent(ctx, to)
	if err == nil {
		_, err = m.agents.connectedAgent(ctx, at.Edge)
	}
	if err != nil {
		return err
	}
	if why := unfit(&pb.ServiceSpec{Server: t.spec.GetServer()}, host.Site, host.Facts); why != "" {
		return precondition("host %s cannot run service %s: %s", to, name, why)
	}
	for _, v := range copied(t.spec.GetVolumes()) {
		held := host.volume(hostName(name, v))
		switch {
		case held.GetRole() != "replica":
			return precondition("host %s has no replica of volume %s of service %s\nhint: godwit get volumes", to, v.GetName(), name)
		case !held.GetComplete():
			return precondition("the replica of service %s at %s is incomplete: its first copy was never finished, and there is nothing to start from", name, to)
		}
		t.failover.Point, t.failover.PointTime = held.GetPoint(), held.GetPointTime()
	}
	return nil
}

// volume is what a host says of one, by the name that it has there; empty when there is none.
func (a agentState) volume(name string) *pb.Volume {
	for _, h := range a.Holdings {
		for _, v := range h.GetVolumes() {
			if v.GetName() == name {
				return v
			}
		}
	}
	return nil
}

// decideFailover stores it. From then on the old owner's epoch is over.
func (m *migrations) decideFailover(ctx context.Context, t takeover) error {
	name, f := t.spec.GetName(), t.failover
	why := fmt.Sprintf("the service was failed over to %s", f.GetToSite())
	replicated, what := t.record.Replica.Host != "", demote
	if !replicated {
		what = removeAll
	}
	host, err := m.services.leave(ctx, t.spec, t.from.Host, t.from.Site, what, why)
	if err != nil {
		return err
	}
	edge, err := m.services.leave(ctx, t.spec, t.from.Edge, t.from.Site, leaveRoute, why)
	if err != nil {
		return err
	}
	if f.Epoch, err = m.store.NextEpoch(ctx); err != nil {
		return err
	}
	f.At = timestamppb.New(time.Now())
	r := t.record
	if r.Failover, err = protojson.Marshal(f); err != nil {
		return fmt.Errorf("encode failover of service %s: %w", name, err)
	}
	r.Phase, r.Message, r.Promote, r.Restore = serviceStarting, "failed over from "+f.GetFromSite(), replicated, f.GetSnapshot()
	if replicated {
		r.Replica = replicaRecord{Site: f.GetFromSite(), Host: f.GetFromHost()}
	}
	ops := make([]cluster.Op, 0, 4)
	for _, l := range []leftoverRecord{host, edge} {
		op, err := l.op()
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	record, err := encode(r)
	if err != nil {
		return err
	}
	owner, err := cluster.Owner{Service: name, Site: f.GetToSite(), Host: f.GetToHost(), Epoch: f.GetEpoch()}.Encode()
	if err != nil {
		return err
	}
	ops = append(ops, cluster.Op{Key: servicePrefix + name, Value: record}, cluster.Op{Key: cluster.OwnerKey(name), Value: owner})
	return m.decide(ctx, name, t.unchanged, ops)
}

// lastFailover reads it; nil when there was none.
func (r serviceRecord) lastFailover() (*pb.Failover, error) {
	if len(r.Failover) == 0 {
		return nil, nil
	}
	f := new(pb.Failover)
	if err := protojson.Unmarshal(r.Failover, f); err != nil {
		return nil, fmt.Errorf("read stored failover: %w", err)
	}
	return f, nil
}
