package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/migration"
)

// The runner's clock: how often limits and retries are looked at, and how often what is outstanding is sent again.
const (
	tickEvery   = 250 * time.Millisecond
	resendEvery = 5 * time.Second
)

// message is one thing for a runner to do: feed an event, or send again what is outstanding for an agent.
type message struct {
	event   migration.Event
	figures *pb.StepFigures
	step    migration.StepID // of figures, and of an answer that never came (lost)
	lost    bool
	agent   string     // has connected
	answer  chan error // of an operator's event
}

// runner drives one migration: the shell around package migration, with the duties that its package comment numbers. One
// goroutine owns the record; mu guards what views read.
type runner struct {
	m     *migrations
	name  string
	spec  *pb.ServiceSpec // the goroutine's own
	inbox chan message
	ended chan struct{}             // closed when nobody reads inbox any more
	sent  map[migration.StepID]bool // given to an agent, and not answered

	mu       sync.Mutex
	rec      migrationRecord
	rev      int64
	progress map[migration.StepID]*pb.TaskProgress
	changed  chan struct{}
}

// load reads the record anew: at the beginning, and when another runner was faster.
func (r *runner) load(ctx context.Context) error {
	var rec migrationRecord
	rev, err := load(ctx, r.m.store, migrationPrefix+r.name, &rec)
	if err != nil {
		return fmt.Errorf("load migration %s: %w", r.name, err)
	}
	spec := new(pb.ServiceSpec)
	if err := protojson.Unmarshal(rec.Spec, spec); err != nil {
		return fmt.Errorf("load migration %s: %w", r.name, err)
	}
	r.mu.Lock()
	r.rec, r.rev = rec, rev
	r.mu.Unlock()
	r.spec = spec
	return nil
}

// service is whose migration it is.
func (r *runner) service() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rec.State.Spec.Service
}

// post hands a message to the runner. One that has ended is not waited for.
func (r *runner) post(ctx context.Context, m message) error {
	select {
	case r.inbox <- m:
		return nil
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run feeds events until the migration has ended or ctx does.
func (r *runner) run(ctx context.Context, recovered bool) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	resend := time.NewTicker(resendEvery)
	defer resend.Stop()
	r.resend("")
	again := recovered
	for again || !r.rec.State.Terminal() {
		if again {
			if err := r.recover(ctx); err != nil {
				return err
			}
			again = false
			if recovered {
				recovered = false
				r.addNote(fmt.Sprintf("%s a new controller took over in phase %s", time.Now().UTC().Format(time.RFC3339), r.rec.State.Phase))
			}
			continue
		}
		var err error
		select {
		case m := <-r.inbox:
			err = r.handle(ctx, m)
		case now := <-tick.C:
			err = r.feed(ctx, migration.Tick{At: now})
		case <-resend.C:
			r.resend("")
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil && ctx.Err() == nil {
			r.m.logger.Error("migration state could not be stored, trying again", "migration", r.name, "err", err)
			again = true
		}
	}
	r.m.logger.Info("migration ended", "migration", r.name, "service", r.spec.GetName(), "phase", r.rec.State.Phase, "reason", r.rec.State.Reason)
	return nil
}

// recover loads the state anew and asks the agents what is true. A store that does not answer is waited for.
func (r *runner) recover(ctx context.Context) error {
	const pause = time.Second
	for {
		err := r.load(ctx)
		if err == nil {
			err = r.feed(ctx, migration.Recovered{At: time.Now()})
		}
		if err == nil {
			return nil
		}
		r.m.logger.Error("migration could not be taken over, trying again", "migration", r.name, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *runner) handle(ctx context.Context, m message) error {
	switch {
	case m.agent != "":
		r.resend(m.agent)
		return nil
	case m.lost:
		// Perhaps the agent is back already, and what waited for it has been sent but for this.
		delete(r.sent, m.step)
		r.resend(r.agentOf(m.step))
		return nil
	}
	if m.step != "" {
		delete(r.sent, m.step)
	}
	if m.figures != nil {
		r.keep(m.step, m.figures)
	}
	err := r.feed(ctx, m.event)
	if m.answer != nil && ctx.Err() == nil {
		m.answer <- err
		return nil
	}
	return err
}

// feed takes the state one event further: persist what must be, then act. Losing the compare-and-swap means that another
// runner is ahead: its state is taken over.
func (r *runner) feed(ctx context.Context, e migration.Event) error {
	before := r.rec.State
	after, actions, err := migration.Step(before, e)
	switch {
	case errors.Is(err, migration.ErrAhead):
		if err := r.load(ctx); err != nil {
			return err
		}
		after, actions, err = migration.Step(r.rec.State, migration.Recovered{At: time.Now()})
		before = r.rec.State
	case errors.Is(err, migration.ErrEvent):
		// An agent of another version, or garbage: no reason to stand still.
		r.m.logger.Warn("event ignored", "migration", r.name, "event", e.String(), "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	r.note(before, after, e)
	if migration.DurableFirst(before, after) {
		if err := r.persist(ctx, before, after); err != nil {
			if !errors.Is(err, cluster.ErrConflict) {
				return err
			}
			return r.takeOver(ctx, e)
		}
	}
	r.mu.Lock()
	r.rec.State = after
	r.mu.Unlock()
	for _, a := range actions {
		r.send(a)
	}
	r.publish()
	return nil
}

// takeOver goes on from what somebody else has stored, while e was fed. What an operator wants is wanted of that too.
func (r *runner) takeOver(ctx context.Context, e migration.Event) error {
	r.m.logger.Warn("another controller is ahead, taking over its state", "migration", r.name)
	if err := r.load(ctx); err != nil {
		return err
	}
	owner, _, err := r.m.store.Owner(ctx, r.spec.GetName())
	if err != nil {
		return err
	}
	if owner.Epoch > r.rec.State.Spec.Epoch {
		return r.feed(ctx, migration.Superseded{At: time.Now(), By: owner.Epoch})
	}
	if err := r.feed(ctx, migration.Recovered{At: time.Now()}); err != nil {
		return err
	}
	switch e.(type) {
	case migration.Continue, migration.Abort:
		return r.feed(ctx, e)
	}
	return nil
}

// note logs what an operator will want to know, and keeps the troubles for the report.
func (r *runner) note(before, after migration.State, e migration.Event) {
	if f, ok := e.(migration.Failed); ok {
		r.m.logger.Warn("step failed", "migration", r.name, "step", f.Step, "epoch", f.Epoch, "err", f.Reason)
		if !before.Phase.BeforeCommit() {
			r.addNote(fmt.Sprintf("%s failed in phase %s and is tried again: %s", f.Step, before.Phase, f.Reason))
		}
	}
	if before.Phase != after.Phase {
		r.m.logger.Info("migration phase", "migration", r.name, "service", r.spec.GetName(), "phase", after.Phase, "epoch", after.Spec.Epoch, "reason", after.Reason)
	}
}

func (r *runner) addNote(text string) {
	const most = 32
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.rec.Notes); n < most && (n == 0 || r.rec.Notes[n-1] != text) {
		r.rec.Notes = append(r.rec.Notes, text)
	}
}

// keep stores what an agent measured with the record; it is written with the next decision.
func (r *runner) keep(step migration.StepID, f *pb.StepFigures) {
	raw, err := protojson.Marshal(f)
	if err != nil {
		r.m.logger.Warn("figures dropped", "migration", r.name, "step", step, "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	figures := make(map[string]json.RawMessage, len(r.rec.Figures)+1)
	for k, v := range r.rec.Figures {
		figures[k] = v
	}
	figures[string(step)] = raw
	r.rec.Figures = figures
}

// persist writes the state, in one transaction with what the decision means for others: the owner at Commit, the end of
// the claim on the service at the end. Every write is conditional on nobody else having written since.
func (r *runner) persist(ctx context.Context, before, after migration.State) error {
	rec := r.rec
	rec.State = after
	if after.Terminal() {
		rec.Ended = time.Now()
	}
	value, err := encode(rec)
	if err != nil {
		return err
	}
	key, service := migrationPrefix+r.name, after.Spec.Service
	compares := []cluster.Compare{{Key: key, Revision: r.rev}}
	ops := []cluster.Op{{Key: key, Value: value}}
	if after.Decision == migration.DecisionCommit && before.Decision != migration.DecisionCommit {
		owner, rev, err := r.m.store.Owner(ctx, service)
		if err != nil {
			return err
		}
		if owner.Epoch != rec.PreviousEpoch {
			return fmt.Errorf("migration %s: the service's owner has epoch %d, not the %d that this began with: %w", r.name, owner.Epoch, rec.PreviousEpoch, cluster.ErrConflict)
		}
		next, err := cluster.Owner{Service: service, Site: rec.Destination.Site, Host: rec.Destination.Host, Epoch: after.Spec.Epoch}.Encode()
		if err != nil {
			return err
		}
		compares = append(compares, cluster.Compare{Key: cluster.OwnerKey(service), Revision: rev})
		ops = append(ops, cluster.Op{Key: cluster.OwnerKey(service), Value: next})
	}
	if after.Terminal() {
		ops = append(ops, cluster.Op{Key: activePrefix + service, Delete: true})
	}
	rev, err := r.m.store.Txn(ctx, compares, ops)
	if err != nil {
		return fmt.Errorf("store migration %s in phase %s: %w", r.name, after.Phase, err)
	}
	r.mu.Lock()
	r.rec, r.rev = rec, rev
	r.mu.Unlock()
	return nil
}

// agentOf says which agent carries out a step: server and storage live on the host, network on the edge.
func (r *runner) agentOf(id migration.StepID) string {
	at := r.rec.Source
	if id.Role() == migration.Destination {
		at = r.rec.Destination
	}
	if id.Participant() == migration.Network {
		return at.Edge
	}
	return at.Host
}

// send gives a step to its agent. An agent that is down gets it when it connects again.
func (r *runner) send(a migration.Action) {
	if r.sent[a.Step] {
		return
	}
	step := &pb.SessionResponse{Task: &pb.SessionResponse_Step{Step: &pb.MigrationStep{
		Migration: r.name, Step: string(a.Step), Epoch: a.Epoch, PreviousEpoch: r.rec.PreviousEpoch,
		Service: r.spec, Source: r.rec.Source.proto(), Destination: r.rec.Destination.proto(),
	}}}
	done := func(res *pb.TaskResult) { r.answered(a, res) }
	progress := func(p *pb.TaskProgress) {
		r.mu.Lock()
		r.progress[a.Step] = p
		r.mu.Unlock()
		r.publish()
	}
	r.sent[a.Step] = true
	if err := r.m.agents.give(r.agentOf(a.Step), step, progress, done); err != nil {
		delete(r.sent, a.Step)
		r.m.logger.Debug("step waits for its agent", "migration", r.name, "step", a.Step, "err", err)
	}
}

// answered turns an agent's answer into an event. It is called from the session's goroutine.
func (r *runner) answered(a migration.Action, res *pb.TaskResult) {
	m := message{step: a.Step}
	switch now := time.Now(); {
	case res == nil:
		m.lost = true
	case res.GetError() != "":
		m.event = migration.Failed{At: now, Epoch: a.Epoch, Step: a.Step, Reason: oneLine(res.GetError())}
	default:
		m.event, m.figures = migration.Done{At: now, Epoch: a.Epoch, Step: a.Step}, res.GetFigures()
	}
	// Fails only when the controller ends, and then nobody listens.
	_ = r.post(r.m.work, m)
}

// oneLine makes one line of what several errors say together: a reason stands in tables, logs and reports.
func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }

// resend gives what is outstanding to an agent that has connected, or to all whose answer was lost.
func (r *runner) resend(agent string) {
	for _, a := range r.rec.State.Outstanding() {
		if st := r.rec.State.Steps[a.Step]; !st.Retry.IsZero() {
			continue // it failed; Tick sends it when its time has come
		}
		if agent == "" || r.agentOf(a.Step) == agent {
			r.send(a)
		}
	}
}

// publish wakes those who watch.
func (r *runner) publish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

// view is the migration as users see it, and a channel that is closed when it has changed.
func (r *runner) view() (*pb.Migration, <-chan struct{}, error) {
	r.mu.Lock()
	rec, changed := r.rec, r.changed
	progress := make(map[migration.StepID]*pb.TaskProgress, len(r.progress))
	for k, v := range r.progress {
		progress[k] = v
	}
	r.mu.Unlock()
	v, err := viewMigration(rec, progress, time.Now())
	return v, changed, err
}
