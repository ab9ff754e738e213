package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
	"github.com/godwit-project/godwit/migration"
)

// fakeAgent answers tasks as its script says, with a real journal. It keeps what it knows over sessions.
type fakeAgent struct {
	t                *testing.T
	kind, site, name string
	lazy             bool // sends heartbeats in their rhythm only, not also after each step

	mu       sync.Mutex
	facts    *pb.HostFacts
	holdings []*pb.Holding
	journals map[string]*migration.Journal
	gates    map[string]*gate
	failures map[string]string
	refusals map[string]string
	figures  map[string]*pb.StepFigures
	tasks    []string // what came, in order, doubled ones too: a step's id, "start" or "stop"
	session  *fakeSession
}

// gate stops a task: arrived is closed when it has come, and it goes on when open is closed.
type gate struct {
	arrived, open chan struct{}
	once          sync.Once
}

type fakeSession struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	out    chan *pb.SessionRequest
}

func newFakeAgent(t *testing.T, kind, site, name string) *fakeAgent {
	a := &fakeAgent{
		t: t, kind: kind, site: site, name: name, journals: make(map[string]*migration.Journal), gates: make(map[string]*gate),
		failures: make(map[string]string), refusals: make(map[string]string), figures: make(map[string]*pb.StepFigures),
	}
	if kind == "host" {
		a.facts = goodFacts()
	}
	return a
}

// stopAt makes the next task of that name wait.
func (a *fakeAgent) stopAt(task string) *gate {
	g := &gate{arrived: make(chan struct{}), open: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gates[task] = g
	return g
}

// failAt makes every task of that name fail.
func (a *fakeAgent) failAt(task, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failures[task] = reason
}

// refuseAt makes every task of that name refused.
func (a *fakeAgent) refuseAt(task, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refusals[task] = reason
}

func (a *fakeAgent) measure(step string, f *pb.StepFigures) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.figures[step] = f
}

func (a *fakeAgent) count(task string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, s := range a.tasks {
		if s == task {
			n++
		}
	}
	return n
}

func (a *fakeAgent) came() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.tasks)
}

// wait returns when the task has come to the gate.
func (g *gate) wait(t *testing.T) {
	t.Helper()
	select {
	case <-g.arrived:
	case <-time.After(soon):
		t.Fatal("the task that was waited for did not come")
	}
}

// connect opens a session; what was at work in the one before is forgotten, as after a restart.
func (a *fakeAgent) connect(url string) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &fakeSession{cancel: cancel, out: make(chan *pb.SessionRequest, 64)}
	stream := godwitv1connect.NewAgentServiceClient(client(a.t, "agent/"+a.kind+"/"+a.site+"/"+a.name), url).Session(ctx)
	a.mu.Lock()
	a.session = s
	hello := &pb.Hello{Address: "192.0.2.1:7000", Facts: a.facts, Holdings: a.holdings}
	a.mu.Unlock()
	if a.kind == "edge" {
		hello.Underlay = "198.51.100.1"
	}
	if err := stream.Send(&pb.SessionRequest{Message: &pb.SessionRequest_Hello{Hello: hello}}); err != nil {
		a.t.Errorf("agent %s: %v", a.name, err)
		return
	}
	s.done.Go(func() {
		defer cancel()
		for {
			m, err := stream.Receive()
			if err != nil {
				return
			}
			s.done.Go(func() { a.carryOut(ctx, s, m) })
		}
	})
	s.done.Go(func() {
		beat := time.NewTicker(time.Second)
		defer beat.Stop()
		for {
			var m *pb.SessionRequest
			select {
			case m = <-s.out:
			case <-beat.C:
				m = a.heartbeat()
			case <-ctx.Done():
				_ = stream.CloseRequest()
				return
			}
			if stream.Send(m) != nil {
				return
			}
		}
	})
}

func (a *fakeAgent) disconnect() {
	a.mu.Lock()
	s := a.session
	a.session = nil
	a.mu.Unlock()
	if s != nil {
		s.cancel()
		s.done.Wait()
	}
}

func (a *fakeAgent) heartbeat() *pb.SessionRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &pb.SessionRequest{Message: &pb.SessionRequest_Heartbeat{Heartbeat: &pb.Heartbeat{Facts: a.facts, Holdings: a.holdings}}}
}

// tell sends what is true now, and then a notice.
func (a *fakeAgent) tell(n *pb.Notice) {
	a.mu.Lock()
	s := a.session
	a.mu.Unlock()
	s.out <- a.heartbeat()
	s.out <- &pb.SessionRequest{Message: &pb.SessionRequest_Notice{Notice: n}}
}

func (a *fakeAgent) holds(service, server string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.setHolding(service, server)
}

func (a *fakeAgent) carryOut(ctx context.Context, s *fakeSession, m *pb.SessionResponse) {
	r := &pb.TaskResult{Id: m.GetId()}
	var err error
	switch task := m.GetTask().(type) {
	case *pb.SessionResponse_Step:
		r.Figures, err = a.step(ctx, task.Step)
		if !a.lazy {
			s.send(ctx, a.heartbeat()) // so that the controller does not look at what was true before the step
		}
	case *pb.SessionResponse_Start:
		what := "start"
		if task.Start.GetPromote() && a.kind == "host" {
			what = strings.TrimSpace("promote " + task.Start.GetRestore())
		}
		if task.Start.GetRestart() && a.kind == "host" {
			what = fmt.Sprint("restart ", task.Start.GetService().GetVolumes()[0].GetSize(), task.Start.GetRefill())
		}
		if err = a.pass(ctx, what); err == nil && a.kind == "host" {
			a.holds(task.Start.GetService().GetName(), "running")
		}
	case *pb.SessionResponse_Replicate:
		err = a.pass(ctx, "replicate "+task.Replicate.GetRole().String())
	case *pb.SessionResponse_Place:
		p := task.Place
		what := fmt.Sprint("place ", p.GetName(), " ", p.GetSize(), p.GetImage())
		if p.GetRemove() {
			what = "remove " + p.GetName()
		}
		if err = a.pass(ctx, what); err == nil {
			a.shelves(p)
			s.send(ctx, a.heartbeat())
		}
	case *pb.SessionResponse_Volume:
		err = a.pass(ctx, task.Volume.GetVerb().String())
		r.Volume = &pb.VolumeResult{Compared: 7, Snapshots: []*pb.VolumeSnapshot{{Name: "before", Point: 3}}}
	case *pb.SessionResponse_Stop:
		what := "stop"
		if task.Stop.GetKeep() && len(task.Stop.GetSpec().GetVolumes()) > 0 && task.Stop.GetSpec().GetVolumes()[0].GetVolume() != "" {
			what = "stop and keep"
		}
		if err = a.pass(ctx, what); err == nil {
			err = a.stale(task.Stop)
		}
		if err == nil {
			a.holds(task.Stop.GetService(), "")
		}
	}
	if err != nil {
		r.Error, r.Refused = err.Error(), errors.Is(err, errRefused)
	}
	s.send(ctx, &pb.SessionRequest{Message: &pb.SessionRequest_Result{Result: r}})
}

func (s *fakeSession) send(ctx context.Context, m *pb.SessionRequest) {
	select {
	case s.out <- m:
	case <-ctx.Done():
	}
}

// pass notes that a task came, lets it wait at its gate, and fails it if it shall fail.
func (a *fakeAgent) pass(ctx context.Context, task string) error {
	a.mu.Lock()
	a.tasks = append(a.tasks, task)
	g := a.gates[task]
	a.mu.Unlock()
	if g != nil {
		g.once.Do(func() { close(g.arrived) })
		select {
		case <-g.open:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if why := a.failures[task]; why != "" {
		return fmt.Errorf("%s", why)
	}
	if why := a.refusals[task]; why != "" {
		return fmt.Errorf("%w: %s", errRefused, why)
	}
	return nil
}

func (a *fakeAgent) step(ctx context.Context, s *pb.MigrationStep) (*pb.StepFigures, error) {
	id, service := migration.StepID(s.GetStep()), s.GetService().GetName()
	a.mu.Lock()
	j := a.journals[service]
	if j == nil {
		j = new(migration.Journal)
		a.journals[service] = j
	}
	verdict, reason := j.Admit(s.GetEpoch(), id)
	figures := a.figures[s.GetStep()]
	a.mu.Unlock()
	switch verdict {
	case migration.Refuse:
		return nil, fmt.Errorf("%s refused: %s", id, reason)
	case migration.AlreadyDone:
		a.mu.Lock()
		a.tasks = append(a.tasks, s.GetStep()+" again")
		a.mu.Unlock()
		return figures, nil
	case migration.Run:
	}
	if err := a.pass(ctx, s.GetStep()); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch id {
	case "server/destination/commit":
		a.setHolding(service, "running")
	case "server/source/release":
		a.setHolding(service, "")
	}
	if figures != nil {
		figures = proto.Clone(figures).(*pb.StepFigures)
	}
	return figures, j.Record(s.GetEpoch(), id)
}

// stale refuses, as edges do, to stop a service under an epoch older than one seen.
func (a *fakeAgent) stale(s *pb.StopService) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if j := a.journals[s.GetService()]; a.kind == "edge" && j != nil && s.GetEpoch() < j.Epoch {
		return fmt.Errorf("detach %s at epoch %d: epoch %d has been seen", s.GetService(), s.GetEpoch(), j.Epoch)
	}
	return nil
}

// keeps says that the agent has a standing replica of specOf's volume.
func (a *fakeAgent) keeps(service string, complete bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holdings = append(a.holdings, &pb.Holding{Service: service, Server: "absent", Volumes: []*pb.Volume{{
		Name: service + ".root", Service: service, Role: "replica", Mode: "standby", Complete: complete, Point: 7,
	}}})
}

// shelves does with a volume that stands alone what is wished.
func (a *fakeAgent) shelves(p *pb.PlaceVolume) {
	a.mu.Lock()
	defer a.mu.Unlock()
	shelf := &pb.Holding{}
	rest := slices.Clone(a.holdings)
	if at := slices.IndexFunc(rest, func(h *pb.Holding) bool { return h.GetService() == "" }); at >= 0 {
		shelf, rest = proto.Clone(rest[at]).(*pb.Holding), slices.Delete(rest, at, at+1)
	}
	shelf.Volumes = slices.DeleteFunc(shelf.GetVolumes(), func(v *pb.Volume) bool { return v.GetName() == p.GetName() })
	if !p.GetRemove() {
		shelf.Volumes = append(shelf.Volumes, &pb.Volume{Name: p.GetName(), Size: p.GetSize(), Role: "primary", Mode: "local", Epoch: p.GetEpoch()})
	}
	a.holdings = append(rest, shelf)
}

// setHolding is called with mu held.
func (a *fakeAgent) setHolding(service, server string) {
	a.holdings = slices.DeleteFunc(slices.Clone(a.holdings), func(h *pb.Holding) bool { return h.GetService() == service })
	if server != "" {
		a.holdings = append(a.holdings, &pb.Holding{Service: service, Server: server})
	}
}
