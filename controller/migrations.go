package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/migration"
)

// migrations starts migrations, finds again those that a dead controller left, and knows the runner of each.
type migrations struct {
	store    *ledger
	agents   *agents
	services *services
	ended    func(migrationRecord)
	logger   *slog.Logger

	work context.Context // ends with the controller
	wg   *sync.WaitGroup

	mu struct {
		sync.Mutex
		runners map[string]*runner // by the migration's name; only those that have not ended
	}
}

// resume takes over what the store says is under way.
func (m *migrations) resume(ctx context.Context) error {
	records, err := list[migrationRecord](ctx, m.store, migrationPrefix)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.State.Terminal() {
			continue
		}
		m.logger.Info("migration found, taking over", "migration", r.State.Spec.Name, "service", r.State.Spec.Service,
			"phase", r.State.Phase, "epoch", r.State.Spec.Epoch)
		if err := m.run(ctx, r.State.Spec.Name, true); err != nil {
			return err
		}
	}
	return nil
}

// start checks everything that can be known beforehand, then stores the migration and lets it run. With dryRun it only
// says what would be done.
func (m *migrations) start(ctx context.Context, req *pb.MigrateRequest) (*pb.Migration, error) {
	rec, _, err := m.plan(ctx, req)
	if err != nil {
		return nil, err
	}
	if req.GetDryRun() {
		return viewMigration(rec, nil, time.Now())
	}
	var name string
	to := rec.Destination
	err = agree(func() error {
		return m.services.unreplicated(ctx, req.GetService(), func() (err error) {
			rec, name, err = m.decideMigration(ctx, req, to)
			return err
		})
	})
	if err != nil {
		m.services.reconcile(req.GetService()) // its replication may have ended
		return nil, err
	}
	if err := m.run(ctx, name, false); err != nil {
		return nil, err
	}
	return viewMigration(rec, nil, time.Now())
}

// decideMigration stores a migration of a service that is not replicated any more, to there or where there is room by now. Before, what is left
// at its destination is done away with.
func (m *migrations) decideMigration(ctx context.Context, req *pb.MigrateRequest, to place) (rec migrationRecord, name string, err error) {
	for {
		if err := m.services.sweepAt(ctx, req.GetService(), to.Host, to.Edge); err != nil {
			return rec, "", precondition("%s\nhint: that has to go before the service can come; try again", err)
		}
		// With its replication a record changes, and with the replica the room at a host.
		rec, unchanged, err := m.plan(ctx, req)
		if err != nil {
			return rec, "", err
		}
		if rec.Destination == to {
			name, err = m.claim(ctx, &rec, unchanged)
			return rec, name, err
		}
		to = rec.Destination
	}
}

// claim allocates an epoch and stores the migration under it, in one transaction with the claim on the service. Somebody
// who took an epoch meanwhile, for whatever service, makes it begin anew.
func (m *migrations) claim(ctx context.Context, rec *migrationRecord, unchanged []cluster.Compare) (name string, err error) {
	spec := rec.State.Spec
	for {
		if spec.Epoch, err = m.store.NextEpoch(ctx); err != nil {
			return "", err
		}
		last, err := m.store.EpochGuard(ctx, spec.Epoch)
		if errors.Is(err, cluster.ErrConflict) {
			continue
		}
		if err != nil {
			return "", err
		}
		spec.Name = fmt.Sprintf("%s-%d", spec.Service, spec.Epoch)
		// The actions are not sent from here: the runner finds them outstanding.
		if rec.State, _, err = migration.New(spec, time.Now()); err != nil {
			return "", err
		}
		value, err := encode(rec)
		if err != nil {
			return "", err
		}
		_, err = m.store.Txn(ctx,
			append([]cluster.Compare{last, {Key: activePrefix + spec.Service}}, unchanged...),
			[]cluster.Op{{Key: migrationPrefix + spec.Name, Value: value}, {Key: activePrefix + spec.Service, Value: []byte(spec.Name)}})
		var conflict *cluster.ConflictError
		switch {
		case errors.As(err, &conflict) && conflict.Key == last.Key:
			continue
		case errors.Is(err, cluster.ErrConflict):
			return "", m.busy(ctx, spec.Service)
		}
		return spec.Name, err
	}
}

// busy explains why a service cannot be migrated now.
func (m *migrations) busy(ctx context.Context, service string) error {
	o, err := m.store.Get(ctx, activePrefix+service)
	if err != nil {
		return changedMeanwhile("service", service)
	}
	return precondition("service %s is being migrated already, by %s\nhint: wait for it (godwit get migration %s), or godwit migration abort %s", service, o.Value, o.Value, o.Value)
}

// plan checks a request against what is known, and gives the record that would be stored, without
// epoch and name, and the conditions under which that stays right.
func (m *migrations) plan(ctx context.Context, req *pb.MigrateRequest) (migrationRecord, []cluster.Compare, error) {
	var rec migrationRecord
	name := req.GetService()
	service, spec, rev, err := m.stored(ctx, name)
	if err != nil {
		return rec, nil, err
	}
	owner, unchanged, err := m.owned(ctx, name, rev)
	if err != nil {
		return rec, nil, err
	}
	if req.GetToSite() == owner.Site {
		return rec, nil, precondition("service %s is at site %s already", name, owner.Site)
	}
	host, edge, err := m.services.choose(ctx, spec, req.GetToSite(), "")
	if err != nil {
		return rec, nil, err
	}
	if service.Phase != serviceRunning {
		return rec, nil, precondition("service %s is %s, not running: %s\nhint: godwit get service %s", name, service.Phase, service.Message, name)
	}
	source, err := m.services.placeOf(ctx, owner.Site, owner.Host)
	if err != nil {
		return rec, nil, err
	}
	if err := m.services.up(ctx, source.Host, source.Edge); err != nil {
		return rec, nil, err
	}
	raw, err := protojson.Marshal(spec)
	if err != nil {
		return rec, nil, fmt.Errorf("encode service %s: %w", name, err)
	}
	rec = migrationRecord{
		Spec: raw, PreviousEpoch: owner.Epoch, Source: source,
		Destination: place{Site: host.Site, Host: host.Name, HostAddress: host.Address, Edge: edge.Name, Underlay: edge.Underlay},
	}
	hold := migration.Spec{
		Service: name, Source: owner.Site, Destination: host.Site, Hold: req.GetPrepare(),
		Plan: migration.VirtualMachine(),
	}
	if req.GetAt() != nil {
		hold.HoldUntil = req.GetAt().AsTime()
	}
	rec.State.Spec, rec.State.Phase = hold, migration.Preparing
	return rec, unchanged, nil
}

// up says which of the agents has no session.
func (s *services) up(ctx context.Context, names ...string) error {
	all, err := s.agents.all(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		for _, a := range all {
			if a.Name == name && !a.Ready {
				return precondition("the agent of %s is down (last seen %s): nothing can be moved away from there\nhint: start it (systemctl start godwit-agent), then try again", name, a.LastSeen.UTC().Format(time.RFC3339))
			}
		}
	}
	return nil
}

// run starts the runner of a stored migration.
func (m *migrations) run(ctx context.Context, name string, recovered bool) error {
	r := &runner{m: m, name: name, ended: make(chan struct{}), changed: make(chan struct{}), inbox: make(chan message, 256), sent: make(map[migration.StepID]bool), progress: make(map[migration.StepID]*pb.TaskProgress)}
	if err := r.load(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	m.mu.runners[name] = r
	m.mu.Unlock()
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		if err := r.run(m.work, recovered); err != nil && m.work.Err() == nil {
			m.logger.Error("migration stands still", "migration", name, "err", err)
		} else if err == nil && m.ended != nil {
			m.ended(r.rec)
		}
		m.mu.Lock()
		delete(m.mu.runners, name)
		m.mu.Unlock()
		close(r.ended)
		r.publish()
		// What died meanwhile was the migration's to deal with; from here on it is ours.
		m.services.lookAgain(r.rec.Source.Host)
		m.services.lookAgain(r.rec.Destination.Host)
	}()
	return nil
}

func (m *migrations) runner(name string) *runner {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.runners[name]
}

// each calls f for every migration under way.
func (m *migrations) each(f func(*runner)) {
	m.mu.Lock()
	all := make([]*runner, 0, len(m.mu.runners))
	for _, r := range m.mu.runners {
		all = append(all, r)
	}
	m.mu.Unlock()
	for _, r := range all {
		f(r)
	}
}

// tell feeds an operator's wish to a migration and waits for the answer.
func (m *migrations) tell(ctx context.Context, name string, e migration.Event) (*pb.Migration, error) {
	r := m.runner(name)
	if r == nil {
		return nil, m.over(ctx, name)
	}
	answer := make(chan error, 1)
	if err := r.post(ctx, message{event: e, answer: answer}); err != nil {
		return nil, err
	}
	select {
	case err := <-answer:
		if err != nil {
			return nil, precondition("%s", err)
		}
		return m.view(ctx, name)
	case <-r.ended:
		return nil, m.over(ctx, name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// over is the error of who comes too late, or asks for what has never been.
func (m *migrations) over(ctx context.Context, name string) error {
	var rec migrationRecord
	if _, err := load(ctx, m.store, migrationPrefix+name, &rec); err != nil {
		if errors.Is(err, cluster.ErrNotFound) {
			return notFound("migration", name)
		}
		return err
	}
	return precondition("migration %s is not under way here: it is %s", name, rec.State.Phase)
}

// view is the migration as users see it now.
func (m *migrations) view(ctx context.Context, name string) (*pb.Migration, error) {
	if r := m.runner(name); r != nil {
		v, _, err := r.view()
		return v, err
	}
	var rec migrationRecord
	if _, err := load(ctx, m.store, migrationPrefix+name, &rec); err != nil {
		if errors.Is(err, cluster.ErrNotFound) {
			return nil, notFound("migration", name)
		}
		return nil, err
	}
	return viewMigration(rec, nil, rec.Ended)
}

// watch calls send with the migration now and whenever it has changed, until it has ended.
func (m *migrations) watch(ctx context.Context, name string, send func(*pb.Migration) error) error {
	const shortest = 100 * time.Millisecond
	for {
		r := m.runner(name)
		if r == nil {
			v, err := m.view(ctx, name)
			if err != nil {
				return err
			}
			return send(v)
		}
		v, changed, err := r.view()
		if err != nil {
			return err
		}
		if err := send(v); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.work.Done():
			return connect.NewError(connect.CodeUnavailable, errors.New("the controller is shutting down; the migration goes on when it is back"))
		}
		select {
		case <-time.After(shortest):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
