package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/controller/failover"
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
	state    failover.State
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
	decided, err := t.record.failovers()
	if err != nil {
		return t, err
	}
	wish := failover.Wish{Request: req.GetRequest(), To: req.GetToSite(), Snapshot: req.GetSnapshot(), Force: req.GetForce()}
	t.state = stateOf(t.record, owner)
	t.state.External = len(externalKeys(t.spec)) > 0
	for _, f := range decided {
		t.state.Requests = append(t.state.Requests, f.GetRequest())
	}
	if t.decided, err = t.state.Decided(wish); err != nil {
		return t, refusal(err)
	}
	if t.decided {
		t.failover = decided[slices.Index(t.state.Requests, wish.Request)]
		return t, nil
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
	to := failover.Place{Site: replica.Site, Host: replica.Host}
	if err := t.state.Refuse(wish, failover.Candidate{Place: to, Because: because(replica.Error), Answers: answers}); err != nil {
		return t, refusal(err)
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

// refusal is an error of package failover as a caller of the API sees it.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	return connect.NewError(connect.CodeFailedPrecondition, err)
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
	var held []failover.Held
	for _, v := range copied(t.spec.GetVolumes()) {
		has := host.volume(hostName(name, v))
		held = append(held, failover.Held{Volume: v.GetName(), Replica: has.GetRole() == "replica", Complete: has.GetComplete()})
		t.failover.Point, t.failover.PointTime = has.GetPoint(), has.GetPointTime()
	}
	return refusal(t.state.Unready(failover.Place{Site: t.failover.GetToSite(), Host: to}, held))
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
	attempt := failover.Attempt{
		To: failover.Place{Site: f.GetToSite(), Host: f.GetToHost()}, Edge: t.from.Edge, Request: f.GetRequest(), Snapshot: f.GetSnapshot(),
	}
	for _, epoch := range []*uint64{&attempt.HostLeft, &attempt.EdgeLeft, &attempt.Epoch} {
		var err error
		if *epoch, err = m.store.NextEpoch(ctx); err != nil {
			return err
		}
	}
	next := t.state.Decide(attempt)
	f.Epoch, f.At = next.Owner.Epoch, timestamppb.New(time.Now())
	ops := make([]cluster.Op, 0, 4)
	for _, l := range next.Left {
		left, err := newLeftover(t.spec, l, "the service was failed over to "+f.GetToSite())
		if err != nil {
			return err
		}
		op, err := left.op()
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	r := t.record
	if err := r.remember(f, len(next.Requests)); err != nil {
		return err
	}
	r.Phase, r.Message, r.Promote, r.Restore = next.Phase, next.Message, next.Promote, next.Restore
	if next.Promote {
		r.Replica = replicaRecord{Site: next.Replica.Site, Host: next.Replica.Host}
	}
	record, err := encode(r)
	if err != nil {
		return err
	}
	owner, err := cluster.Owner{Service: name, Site: next.Owner.Site, Host: next.Owner.Host, Epoch: next.Owner.Epoch}.Encode()
	if err != nil {
		return err
	}
	ops = append(ops, cluster.Op{Key: servicePrefix + name, Value: record}, cluster.Op{Key: cluster.OwnerKey(name), Value: owner})
	return m.decide(ctx, name, t.unchanged, ops)
}

// remember stores a failover as the newest, and of those before as many as make most together: package failover decides how many are.
func (r *serviceRecord) remember(f *pb.Failover, most int) error {
	raw, err := protojson.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode failover to %s: %w", f.GetToHost(), err)
	}
	before := r.remembered()
	r.Failover, r.Earlier = raw, before[max(0, len(before)+1-most):]
	return nil
}

// remembered are the failovers as they are stored, the newest last.
func (r serviceRecord) remembered() []json.RawMessage {
	if len(r.Failover) == 0 {
		return nil
	}
	return append(slices.Clone(r.Earlier), r.Failover)
}

// failovers are those that are remembered, the newest last.
func (r serviceRecord) failovers() ([]*pb.Failover, error) {
	var all []*pb.Failover
	for _, raw := range r.remembered() {
		f := new(pb.Failover)
		if err := protojson.Unmarshal(raw, f); err != nil {
			return nil, fmt.Errorf("read stored failover: %w", err)
		}
		all = append(all, f)
	}
	return all, nil
}

// lastFailover is the newest; nil when there was none.
func (r serviceRecord) lastFailover() (*pb.Failover, error) {
	all, err := r.failovers()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[len(all)-1], nil
}
