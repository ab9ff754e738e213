package controller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sort"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/cluster/identity"
)

// errAgentDown is returned when a task is given for an agent without a session.
var errAgentDown = errors.New("agent is not connected")

// errRefused is what an agent's answer is when it has seen something newer than the task.
var errRefused = errors.New("superseded")

// silence is how long an agent may send nothing (it sends a heartbeat every second) before its session is dropped.
const silence = 5 * time.Second

// rejoinWithin is how long agents that live need to be connected again after the controller's death, at most: they notice it within
// their patience, and try again every two seconds.
const rejoinWithin = 6 * time.Second

// outcome of a task: a result, or nil when the session ended first and nobody knows.
type outcome func(*pb.TaskResult)

// agents holds the sessions. Tasks are given to an agent by name, and answered by callback, exactly once each.
type agents struct {
	store  *ledger
	logger *slog.Logger

	// began is when this controller did; for so long after that, an agent that it has not seen yet may be about to come back.
	began  time.Time
	rejoin time.Duration

	// connected is called after an agent's session has begun, noticed for each notice.
	connected func(name string)
	noticed   func(agent string, n *pb.Notice)

	mu struct {
		sync.Mutex
		sessions map[string]*session
		seen     map[string]bool // has had a session in this life
		gone     map[string]time.Time
		nextID   uint64
	}
}

type session struct {
	identity identity.Identity
	record   agentRecord
	facts    *pb.HostFacts
	holdings []*pb.Holding
	lastSeen time.Time
	beat     chan struct{} // closed, and made anew, at each heartbeat
	nodes    chan struct{} // holds one when the agent is to be told of the nodes of the DVS
	out      chan *pb.SessionResponse
	gone     context.Context
	drop     context.CancelFunc
	tasks    map[uint64]task
}

type task struct {
	done     outcome
	progress func(*pb.TaskProgress)
}

func newAgents(store *ledger, logger *slog.Logger) *agents {
	a := &agents{store: store, logger: logger, began: time.Now(), rejoin: rejoinWithin}
	a.mu.sessions, a.mu.seen, a.mu.gone = make(map[string]*session), make(map[string]bool), make(map[string]time.Time)
	// Ids differ between two lives of a controller, so that a late result is not taken for another task's.
	a.mu.nextID = uint64(time.Now().UnixNano())
	return a
}

// Session serves one agent until its stream breaks, it falls silent, or a newer session replaces it.
func (a *agents) Session(ctx context.Context, stream *connect.BidiStream[pb.SessionRequest, pb.SessionResponse]) error {
	who, err := requireRole(ctx, identity.Agent)
	if err != nil {
		return err
	}
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the first message of a session must be hello"))
	}
	s := &session{
		identity: who, facts: hello.GetFacts(), holdings: hello.GetHoldings(), lastSeen: time.Now(),
		beat: make(chan struct{}), nodes: make(chan struct{}, 1), out: make(chan *pb.SessionResponse, 64), tasks: make(map[uint64]task),
		record: agentRecord{Name: who.Name, Kind: who.Kind, Site: who.Site, Address: hello.GetAddress(), Underlay: hello.GetUnderlay(), DVS: hello.GetDvs(), LastSeen: time.Now()},
	}
	s.gone, s.drop = context.WithCancel(ctx)
	if err := a.remember(ctx, s); err != nil {
		return err
	}
	a.begin(s)
	defer a.end(s)

	received := make(chan error, 1)
	go func() {
		received <- a.receive(s, stream)
		s.drop()
	}()
	err = a.transmit(s, stream)
	s.drop()
	// Receive returns when the handler does; its error says more than ours if it came first.
	select {
	case rerr := <-received:
		if !errors.Is(rerr, io.EOF) {
			err = errors.Join(err, rerr)
		}
	default:
	}
	return err
}

func (a *agents) transmit(s *session, stream *connect.BidiStream[pb.SessionRequest, pb.SessionResponse]) error {
	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	for {
		select {
		case m := <-s.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-s.nodes:
			if err := a.tellNodes(s, stream); err != nil {
				return err
			}
		case <-watch.C:
			a.mu.Lock()
			quiet := time.Since(s.lastSeen)
			a.mu.Unlock()
			if quiet > silence {
				return connect.NewError(connect.CodeUnavailable, fmt.Errorf("nothing heard from agent %s for %s", s.identity.Name, quiet.Round(time.Millisecond)))
			}
		case <-s.gone.Done():
			return nil
		}
	}
}

func (a *agents) receive(s *session, stream *connect.BidiStream[pb.SessionRequest, pb.SessionResponse]) error {
	for {
		m, err := stream.Receive()
		if err != nil {
			return err
		}
		a.mu.Lock()
		s.lastSeen = time.Now()
		a.mu.Unlock()
		switch m := m.GetMessage().(type) {
		case *pb.SessionRequest_Result:
			a.mu.Lock()
			t, ok := s.tasks[m.Result.GetId()]
			delete(s.tasks, m.Result.GetId())
			a.mu.Unlock()
			if ok {
				t.done(m.Result)
			}
		case *pb.SessionRequest_Progress:
			a.mu.Lock()
			t, ok := s.tasks[m.Progress.GetId()]
			a.mu.Unlock()
			if ok && t.progress != nil {
				t.progress(m.Progress)
			}
		case *pb.SessionRequest_Notice:
			a.noticed(s.identity.Name, m.Notice)
		case *pb.SessionRequest_Heartbeat:
			a.mu.Lock()
			s.facts, s.holdings = m.Heartbeat.GetFacts(), m.Heartbeat.GetHoldings()
			close(s.beat)
			s.beat = make(chan struct{})
			a.mu.Unlock()
		}
	}
}

func (a *agents) remember(ctx context.Context, s *session) error {
	r := s.record
	if s.facts != nil {
		facts, err := protojson.Marshal(s.facts)
		if err != nil {
			return fmt.Errorf("encode facts of %s: %w", r.Name, err)
		}
		r.Facts = facts
	}
	b, err := encode(r)
	if err != nil {
		return err
	}
	_, err = a.store.Put(ctx, agentPrefix+r.Name, b, cluster.Any)
	return err
}

func (a *agents) begin(s *session) {
	a.mu.Lock()
	old := a.mu.sessions[s.identity.Name]
	a.mu.sessions[s.identity.Name], a.mu.seen[s.identity.Name] = s, true
	a.mu.Unlock()
	if old != nil {
		old.drop()
		a.orphan(old)
	}
	a.logger.Info("agent connected", "agent", s.identity.Name, "site", s.identity.Site, "kind", s.identity.Kind, "address", s.record.Address)
	a.nodesChanged()
	a.connected(s.identity.Name)
}

func (a *agents) end(s *session) {
	s.drop()
	a.mu.Lock()
	current := a.mu.sessions[s.identity.Name] == s
	if current {
		delete(a.mu.sessions, s.identity.Name)
		a.mu.gone[s.identity.Name] = time.Now()
	}
	a.mu.Unlock()
	if current {
		a.logger.Warn("agent disconnected", "agent", s.identity.Name, "site", s.identity.Site)
	}
	a.orphan(s)
}

// orphan answers the tasks of a session that has ended with "nobody knows".
func (a *agents) orphan(s *session) {
	a.mu.Lock()
	tasks := s.tasks
	s.tasks = make(map[uint64]task)
	a.mu.Unlock()
	for _, t := range tasks {
		t.done(nil)
	}
}

// give hands a task to an agent. done is called once, unless an error is returned.
func (a *agents) give(name string, m *pb.SessionResponse, progress func(*pb.TaskProgress), done outcome) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.mu.sessions[name]
	if s == nil || s.gone.Err() != nil {
		return fmt.Errorf("%s: %w", name, errAgentDown)
	}
	a.mu.nextID++
	m.Id = a.mu.nextID
	select {
	case s.out <- m:
		s.tasks[m.GetId()] = task{done: done, progress: progress}
		return nil
	default:
		return fmt.Errorf("%s: %w: its queue of tasks is full", name, errAgentDown)
	}
}

// call hands a task to an agent and waits, over lost sessions, until it is answered or ctx ends. m must be idempotent.
func (a *agents) call(ctx context.Context, name string, m *pb.SessionResponse) error {
	const again = 300 * time.Millisecond
	for {
		err := a.callOnce(ctx, name, m)
		if !errors.Is(err, errAgentDown) {
			return err
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// callOnce is call in the session of the moment: without one, or when it is lost, the error is an errAgentDown.
func (a *agents) callOnce(ctx context.Context, name string, m *pb.SessionResponse) error {
	answered := make(chan *pb.TaskResult, 1)
	err := a.give(name, proto.Clone(m).(*pb.SessionResponse), nil, func(r *pb.TaskResult) { answered <- r })
	if err != nil {
		return err
	}
	select {
	case r := <-answered:
		switch {
		case r == nil:
			return fmt.Errorf("%s: %w", name, errAgentDown)
		case r.GetError() != "":
			return &taskError{agent: name, text: r.GetError(), refused: r.GetRefused()}
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("agent %s does not answer: %w", name, ctx.Err())
	}
}

// taskError is what an agent answered.
type taskError struct {
	agent, text string
	refused     bool
}

func (e *taskError) Error() string { return fmt.Sprintf("agent %s: %s", e.agent, e.text) }

// Is says that the agent knows of something newer, so that asking again is of no use.
func (e *taskError) Is(target error) bool { return target == errRefused && e.refused }

// hasSession says whether an agent is connected.
func (a *agents) hasSession(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.mu.sessions[name]
	return s != nil && s.gone.Err() == nil
}

// settled says whether it is known if those agents are there: a controller that has just been started has to wait for them.
func (a *agents) settled(names ...string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range names {
		if !a.mu.seen[name] && time.Since(a.began) < a.rejoin {
			return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the controller was started a moment ago, and does not know yet whether the agent of %s is there\nhint: try again in %v", name, a.rejoin))
		}
	}
	return nil
}

// returning says that an agent is away which is to be expected back any moment: those who need it may ask again.
func (a *agents) returning(names ...string) error {
	if err := a.settled(names...); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range names {
		if a.mu.sessions[name] == nil && time.Since(a.mu.gone[name]) < a.rejoin {
			return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the agent of %s went away a moment ago, and may be back soon\nhint: try again in %v", name, a.rejoin))
		}
	}
	return nil
}

// awaitBeat waits for the agent's next heartbeat. It returns false when none will come: no session, or it or ctx ended.
func (a *agents) awaitBeat(ctx context.Context, name string) bool {
	a.mu.Lock()
	s := a.mu.sessions[name]
	if s == nil {
		a.mu.Unlock()
		return false
	}
	beat := s.beat
	a.mu.Unlock()
	select {
	case <-beat:
		return true
	case <-s.gone.Done():
		return false
	case <-ctx.Done():
		return false
	}
}

// agentState is a snapshot of one agent, connected or not.
type agentState struct {
	agentRecord
	Ready    bool
	Facts    *pb.HostFacts
	Holdings []*pb.Holding
}

// all returns every agent that has ever joined, by name.
func (a *agents) all(ctx context.Context) ([]agentState, error) {
	records, err := list[agentRecord](ctx, a.store, agentPrefix)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	states := make([]agentState, 0, len(records))
	for _, r := range records {
		st := agentState{agentRecord: r}
		if s := a.mu.sessions[r.Name]; s != nil {
			st.agentRecord, st.Ready, st.Facts, st.Holdings = s.record, true, s.facts, s.holdings
			st.LastSeen = s.lastSeen
		} else if len(r.Facts) > 0 {
			st.Facts = new(pb.HostFacts)
			if err := protojson.Unmarshal(r.Facts, st.Facts); err != nil {
				return nil, fmt.Errorf("read facts of %s: %w", r.Name, err)
			}
		}
		states = append(states, st)
	}
	sort.Slice(states, func(i, j int) bool { return states[i].Name < states[j].Name })
	return states, nil
}
