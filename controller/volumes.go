package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// longestSnapshot is how long the name of a snapshot may be.
const longestSnapshot = 40

// RunVolumeTask hands a task to the host that can do it, and passes on what that tells.
func (f *front) RunVolumeTask(ctx context.Context, req *connect.Request[pb.RunVolumeTaskRequest], stream *connect.ServerStream[pb.RunVolumeTaskResponse]) error {
	if err := mayOperate(ctx); err != nil {
		return err
	}
	task := proto.Clone(req.Msg.GetTask()).(*pb.VolumeTask)
	if task == nil {
		return invalid("no task given")
	}
	agent, err := f.services.volumeAgent(ctx, task)
	if err != nil {
		return err
	}
	if task.GetVerb() == pb.VolumeVerb_VOLUME_VERB_EXPORT && task.GetSnapshot() == "" && !task.GetRunning() {
		task.Snapshot = "export-" + task.GetTransfer()[:8]
		forget, err := f.services.snapshotOfNow(ctx, task.GetService(), task.GetSnapshot())
		if err != nil {
			return err
		}
		defer forget()
	}
	result, err := f.services.runTask(ctx, agent.Name, task, func(p *pb.TaskProgress) error {
		return stream.Send(&pb.RunVolumeTaskResponse{Done: p.GetDone(), Total: p.GetTotal(), Message: p.GetMessage()})
	})
	if err != nil {
		return err
	}
	result.Host, result.Site = agent.Name, agent.Site
	return stream.Send(&pb.RunVolumeTaskResponse{Result: result})
}

// volumeAgent checks a task, completes it and finds the host for it: snapshots are kept where the replica is, all else is asked of
// the owner.
func (s *services) volumeAgent(ctx context.Context, t *pb.VolumeTask) (agentState, error) {
	var none agentState
	if t.GetService() == "" {
		alone, service, volume, err := s.used(ctx, t.GetVolume())
		if err != nil {
			return none, err
		}
		if t.Service, t.Volume = service, volume; service == "" {
			return s.aloneAgent(ctx, alone, t)
		}
	}
	var r serviceRecord
	if _, err := load(ctx, s.store, servicePrefix+t.GetService(), &r); errors.Is(err, cluster.ErrNotFound) {
		return none, notFound("service", t.GetService())
	} else if err != nil {
		return none, err
	}
	spec, err := r.spec()
	if err != nil {
		return none, err
	}
	if v := t.GetVolume(); v != "" && !slices.ContainsFunc(spec.GetVolumes(), func(o *pb.VolumeSpec) bool { return o.GetName() == v }) {
		return none, notFound("volume", t.GetService()+"/"+v)
	}
	t.Names = nil
	for _, v := range spec.GetVolumes() {
		if t.GetVolume() == "" || v.GetName() == t.GetVolume() {
			t.Names = append(t.Names, hostName(t.GetService(), v))
		}
	}
	owner, _, err := s.store.Owner(ctx, t.GetService())
	if err != nil {
		return none, err
	}
	host := owner.Host
	switch t.GetVerb() {
	case pb.VolumeVerb_VOLUME_VERB_LOCATE:
		return s.agents.connectedAgent(ctx, host)
	case pb.VolumeVerb_VOLUME_VERB_VERIFY:
		if t.Local = t.GetLocal() || r.Replica.Host == ""; t.GetLocal() {
			return s.agents.connectedAgent(ctx, host)
		}
	case pb.VolumeVerb_VOLUME_VERB_EXPORT:
		switch {
		case t.GetVolume() == "" || !api.IsTransferName(t.GetTransfer()):
			return none, invalid("export: want one volume, and the name of a transfer")
		case t.GetRunning():
			return s.agents.connectedAgent(ctx, host)
		case slices.ContainsFunc(spec.GetVolumes(), func(v *pb.VolumeSpec) bool { return v.GetName() == t.GetVolume() && v.GetExternal() != "" }):
			return none, precondition("volume %s/%s is external: it has no replica to take a consistent point from\nhint: --running copies it while it changes; what keeps it may have snapshots of its own", t.GetService(), t.GetVolume())
		}
		if host = r.Replica.Host; host == "" {
			return none, precondition("service %s runs, and has no replica to take a consistent point from%s\nhint: put 'storage: {replicateTo: SITE}' into its manifest and apply that; or --running copies its disk while it changes, which a file system has to be repaired from",
				t.GetService(), because(r.Replica.Error))
		}
	case pb.VolumeVerb_VOLUME_VERB_OPEN:
		if t.GetVolume() == "" || t.GetSnapshot() == "" || !api.IsTransferName(t.GetTransfer()) {
			return none, invalid("open: want one volume, a snapshot, and the name of a transfer")
		}
		host = r.Replica.Host
	case pb.VolumeVerb_VOLUME_VERB_SNAPSHOT:
		if n := t.GetSnapshot(); !api.IsName(n) || len(n) > longestSnapshot {
			return none, invalid("snapshot %q: want a name of lower-case letters, digits and dashes, at most %d", n, longestSnapshot)
		}
	case pb.VolumeVerb_VOLUME_VERB_LIST_SNAPSHOTS, pb.VolumeVerb_VOLUME_VERB_DELETE_SNAPSHOT:
		host = r.Replica.Host
	}
	if r.Replica.Host == "" {
		return none, precondition("the volumes of service %s have no replica%s\nhint: put 'storage: {replicateTo: SITE}' into its manifest and apply that; it may run meanwhile",
			t.GetService(), because(r.Replica.Error))
	}
	return s.agents.connectedAgent(ctx, host)
}

// aloneAgent is volumeAgent for a volume that no service uses: nothing changes it, and it has no replica.
func (s *services) aloneAgent(ctx context.Context, r volumeRecord, t *pb.VolumeTask) (agentState, error) {
	t.Names = []string{r.Name}
	switch t.GetVerb() {
	case pb.VolumeVerb_VOLUME_VERB_LOCATE:
	case pb.VolumeVerb_VOLUME_VERB_VERIFY:
		t.Local = true
	case pb.VolumeVerb_VOLUME_VERB_EXPORT:
		if t.GetSnapshot() != "" || !api.IsTransferName(t.GetTransfer()) {
			return agentState{}, invalid("export of volume %s: want the name of a transfer and no snapshot: it has none", r.Name)
		}
		t.Running = true
	default:
		return agentState{}, precondition("volume %s is in no service's use, and has no replica where snapshots are kept\nhint: godwit volume export %s --to FILE copies it", r.Name, r.Name)
	}
	if r.Phase != volumeReady {
		return agentState{}, precondition("volume %s is %s%s", r.Name, r.Phase, because(r.Message))
	}
	return s.agents.connectedAgent(ctx, r.Host)
}

const (
	// keptWithin bounds the wait for a snapshot to be there, keptLookAgain is the pause between two looks.
	keptWithin    = 10 * time.Second
	keptLookAgain = 50 * time.Millisecond
)

// runTask is agents.runVolumeTask; a snapshot is there when it returns. The owner can only say that the replica was told.
func (s *services) runTask(ctx context.Context, agent string, t *pb.VolumeTask, tell func(*pb.TaskProgress) error) (*pb.VolumeResult, error) {
	result, err := s.agents.runVolumeTask(ctx, agent, t, tell)
	if err != nil || t.GetVerb() != pb.VolumeVerb_VOLUME_VERB_SNAPSHOT {
		return result, err
	}
	waiting, cancel := context.WithTimeout(ctx, keptWithin)
	defer cancel()
	for {
		kept, err := s.snapshot(waiting, t.GetService(), t.GetSnapshot())
		if kept != nil {
			return result, nil
		}
		select {
		case <-waiting.Done():
			return nil, precondition("the replica of service %s was told to keep snapshot %s, and has not%s\nhint: godwit get volumes -o wide shows its trouble", t.GetService(), t.GetSnapshot(), because(textOf(err)))
		case <-time.After(keptLookAgain):
		}
	}
}

// snapshot finds one at the replica; nil when it is not there.
func (s *services) snapshot(ctx context.Context, service, name string) (*pb.VolumeSnapshot, error) {
	ask := &pb.VolumeTask{Service: service, Verb: pb.VolumeVerb_VOLUME_VERB_LIST_SNAPSHOTS}
	agent, err := s.volumeAgent(ctx, ask)
	if err != nil {
		return nil, err
	}
	found, err := s.agents.runVolumeTask(ctx, agent.Name, ask, func(*pb.TaskProgress) error { return nil })
	if err != nil {
		return nil, err
	}
	for _, one := range found.GetSnapshots() {
		if one.GetName() == name {
			return one, nil
		}
	}
	return nil, nil
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// snapshotOfNow names this moment of a service for as long as somebody reads it; forget gives it up.
func (s *services) snapshotOfNow(ctx context.Context, service, name string) (forget func(), err error) {
	const longest = 24 * time.Hour
	run := func(ctx context.Context, t *pb.VolumeTask) error {
		t.Service, t.Snapshot = service, name
		agent, err := s.volumeAgent(ctx, t)
		if err == nil {
			_, err = s.runTask(ctx, agent.Name, t, func(*pb.TaskProgress) error { return nil })
		}
		return err
	}
	if err := run(ctx, &pb.VolumeTask{Verb: pb.VolumeVerb_VOLUME_VERB_SNAPSHOT, KeepSeconds: int64(longest / time.Second)}); err != nil {
		return nil, err
	}
	return func() {
		ctx, cancel := context.WithTimeout(s.work, replicateTimeout)
		defer cancel()
		if err := run(ctx, &pb.VolumeTask{Verb: pb.VolumeVerb_VOLUME_VERB_DELETE_SNAPSHOT}); err != nil {
			s.logger.Warn("the snapshot of an export is left until its time is over", "service", service, "snapshot", name, "err", err)
		}
	}, nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// connectedAgent is the state of an agent that has a session.
func (a *agents) connectedAgent(ctx context.Context, name string) (agentState, error) {
	all, err := a.all(ctx)
	if err != nil {
		return agentState{}, err
	}
	for _, st := range all {
		if st.Name == name && st.Ready {
			return st, nil
		}
	}
	return agentState{}, precondition("the agent of %s is down\nhint: start it (systemctl start godwit-agent), then try again", name)
}

// runVolumeTask gives an agent a task and waits for its result; a session that is lost meanwhile is an error, as nobody knows how
// far the task came. tell is called from here alone.
func (a *agents) runVolumeTask(ctx context.Context, agent string, t *pb.VolumeTask, tell func(*pb.TaskProgress) error) (*pb.VolumeResult, error) {
	answered := make(chan *pb.TaskResult, 1)
	told := make(chan *pb.TaskProgress, 1)
	report := func(p *pb.TaskProgress) {
		select {
		case told <- p:
		default: // the one before has not been told yet
		}
	}
	err := a.give(agent, &pb.SessionResponse{Task: &pb.SessionResponse_Volume{Volume: t}}, report, func(r *pb.TaskResult) { answered <- r })
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	for {
		select {
		case p := <-told:
			if err := tell(p); err != nil {
				return nil, err
			}
		case r := <-answered:
			switch {
			case r == nil:
				return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("the agent of %s was lost meanwhile\nhint: try again", agent))
			case r.GetError() != "":
				return nil, precondition("%s: %s", agent, r.GetError())
			case r.GetVolume() == nil:
				return new(pb.VolumeResult), nil
			}
			return r.GetVolume(), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
