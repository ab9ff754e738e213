package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/network"
	"github.com/godwit-project/godwit/storage"
)

// errOver ends a task that a newer one has overtaken.
var errOver = errors.New("overtaken by an abort or a newer epoch")

// supersededError refuses what is older than something that was seen. Asking again is of no use.
type supersededError struct{ text string }

func (e *supersededError) Error() string { return e.text }

func superseded(format string, args ...any) error {
	return &supersededError{fmt.Sprintf(format, args...)}
}

// refuses says whether an error means that something newer has been seen.
func refuses(err error) bool {
	var s *supersededError
	return errors.As(err, &s) || errors.Is(err, storage.ErrStale) || errors.Is(err, network.ErrStaleEpoch)
}

// tasks carries out what the controller asks, each task in a goroutine of its own, with the duties that
// migration.Journal lists.
type tasks struct {
	ctx    context.Context
	wg     *sync.WaitGroup
	book   *book
	worker worker
	logger *slog.Logger

	mu       sync.Mutex
	out      chan<- *pb.SessionRequest // of the session that is open; nil between two
	outDone  <-chan struct{}
	services map[string]*serviceTasks
}

// serviceTasks are the tasks of one service. mu is held while the journal is asked and what it says is noted, never while
// a task runs.
type serviceTasks struct {
	mu      sync.Mutex
	steps   map[migration.StepID]*running
	placing sync.Mutex // starting and stopping the service, one at a time
}

// running is one step at work.
type running struct {
	epoch   uint64
	cancel  context.CancelCauseFunc
	ended   chan struct{}
	waiting []uint64 // ids of the tasks that want its answer
}

func newTasks(ctx context.Context, wg *sync.WaitGroup, b *book, w worker, logger *slog.Logger) *tasks {
	return &tasks{ctx: ctx, wg: wg, book: b, worker: w, logger: logger, services: make(map[string]*serviceTasks)}
}

// answerTo lets answers go out on a session until release is called. Answers in between are dropped: the controller asks
// again.
func (t *tasks) answerTo(ctx context.Context, out chan<- *pb.SessionRequest) (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out, t.outDone = out, ctx.Done()
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.out == out {
			t.out, t.outDone = nil, nil
		}
	}
}

func (t *tasks) send(m *pb.SessionRequest) {
	t.mu.Lock()
	out, done := t.out, t.outDone
	t.mu.Unlock()
	if out == nil {
		return
	}
	select {
	case out <- m:
	case <-done:
	}
}

func (t *tasks) answer(id uint64, figures *pb.StepFigures, refused bool, err error) {
	r := &pb.TaskResult{Id: id, Figures: figures, Refused: refused}
	if err != nil {
		r.Error = err.Error()
	}
	t.send(&pb.SessionRequest{Message: &pb.SessionRequest_Result{Result: r}})
}

func (t *tasks) of(service string) *serviceTasks {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.services[service]
	if s == nil {
		s = &serviceTasks{steps: make(map[migration.StepID]*running)}
		t.services[service] = s
	}
	return s
}

// take begins a task. It returns at once.
func (t *tasks) take(ctx context.Context, m *pb.SessionResponse) {
	if ctx.Err() != nil || t.ctx.Err() != nil {
		return
	}
	switch task := m.GetTask().(type) {
	case *pb.SessionResponse_Step:
		t.spawn(func() { t.step(m.GetId(), task.Step) })
	case *pb.SessionResponse_Start:
		t.spawn(func() { t.ended(m.GetId(), t.start(task.Start)) })
	case *pb.SessionResponse_Stop:
		t.spawn(func() { t.ended(m.GetId(), t.stop(task.Stop)) })
	case *pb.SessionResponse_Replicate:
		t.spawn(func() { t.ended(m.GetId(), t.replicate(task.Replicate)) })
	case *pb.SessionResponse_Place:
		t.spawn(func() { t.ended(m.GetId(), t.place(task.Place)) })
	case *pb.SessionResponse_Volume:
		t.spawn(func() { t.volume(m.GetId(), task.Volume) })
	default:
		t.answer(m.GetId(), nil, true, fmt.Errorf("task %T is not known here: install the same godwit everywhere", task))
	}
}

// ended answers a task that measures nothing.
func (t *tasks) ended(id uint64, err error) { t.answer(id, nil, refuses(err), err) }

func (t *tasks) spawn(f func()) {
	t.wg.Add(1)
	go func() {
		defer t.wg.Done()
		f()
	}()
}

// step admits, carries out and records one step of a migration.
func (t *tasks) step(task uint64, s *pb.MigrationStep) {
	id, service := migration.StepID(s.GetStep()), s.GetService().GetName()
	st := t.of(service)
	st.mu.Lock()
	if r := st.steps[id]; r != nil && r.epoch == s.GetEpoch() {
		r.waiting = append(r.waiting, task)
		st.mu.Unlock()
		return
	}
	verdict, reason, err := t.admit(service, s.GetEpoch(), id)
	switch {
	case err != nil:
		st.mu.Unlock()
		t.answer(task, nil, false, err)
		return
	case verdict == migration.Refuse:
		st.mu.Unlock()
		t.answer(task, nil, true, fmt.Errorf("%s refused: %s", id, reason))
		return
	case verdict == migration.AlreadyDone:
		st.mu.Unlock()
		t.answer(task, t.figures(service, id), false, nil)
		return
	}
	ctx, cancel := context.WithCancelCause(t.ctx)
	defer cancel(nil)
	r := &running{epoch: s.GetEpoch(), cancel: cancel, ended: make(chan struct{}), waiting: []uint64{task}}
	before := st.overtaken(id, s.GetEpoch())
	st.steps[id] = r
	st.mu.Unlock()
	for _, o := range before {
		o.cancel(errOver)
		<-o.ended
	}

	began := time.Now()
	figures, err := t.worker.step(ctx, s, id, func(p *pb.TaskProgress) { t.progress(st, r, p) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	if err == nil {
		err = t.record(service, s.GetEpoch(), id, figures)
	}
	st.mu.Lock()
	if st.steps[id] == r {
		delete(st.steps, id)
	}
	waiting := r.waiting
	st.mu.Unlock()
	close(r.ended)
	if err != nil {
		t.logger.Warn("step failed", "service", service, "step", id, "epoch", s.GetEpoch(), "after", time.Since(began), "err", err)
	} else {
		t.logger.Info("step done", "service", service, "step", id, "epoch", s.GetEpoch(), "after", time.Since(began))
	}
	for _, w := range waiting {
		t.answer(w, figures, false, err)
	}
}

// overtaken returns the tasks at work that must end before this one may begin: all of other epochs, and before an abort
// those of its own epoch that are not aborts.
func (s *serviceTasks) overtaken(id migration.StepID, epoch uint64) []*running {
	var before []*running
	for other, r := range s.steps {
		abort := id.Verb() == migration.AbortVerb && other.Verb() != migration.AbortVerb
		if r.epoch != epoch || abort {
			before = append(before, r)
		}
	}
	return before
}

func (t *tasks) progress(st *serviceTasks, r *running, p *pb.TaskProgress) {
	st.mu.Lock()
	waiting := r.waiting
	st.mu.Unlock()
	for _, w := range waiting {
		t.send(&pb.SessionRequest{Message: &pb.SessionRequest_Progress{Progress: &pb.TaskProgress{
			Id: w, Done: p.GetDone(), Total: p.GetTotal(), Rate: p.GetRate(), Message: p.GetMessage(),
		}}})
	}
}

// admit asks the journal, and writes it before anything is acted on.
func (t *tasks) admit(service string, epoch uint64, id migration.StepID) (verdict migration.Verdict, reason string, err error) {
	var seen migration.Journal
	t.book.view(service, func(e entry) { seen = e.Journal })
	after := seen
	verdict, reason = after.Admit(epoch, id)
	if after.Epoch == seen.Epoch && after.Decision == seen.Decision {
		return verdict, reason, nil // nothing new to remember, as for all but the first step of a kind
	}
	fresh := epoch > seen.Epoch
	err = t.book.change(service, fresh, func(e *entry) error {
		if verdict, reason = e.Journal.Admit(epoch, id); fresh {
			e.Figures = nil
		}
		return nil
	})
	return verdict, reason, err
}

func (t *tasks) record(service string, epoch uint64, id migration.StepID, figures *pb.StepFigures) error {
	return t.book.change(service, false, func(e *entry) error {
		if err := e.Journal.Record(epoch, id); err != nil {
			return err
		}
		if figures == nil {
			return nil
		}
		raw, err := protojson.Marshal(figures)
		if err != nil {
			return fmt.Errorf("record %s: %w", id, err)
		}
		if e.Figures == nil {
			e.Figures = make(map[migration.StepID]json.RawMessage)
		}
		e.Figures[id] = raw
		return nil
	})
}

// figures returns what a step that is done measured.
func (t *tasks) figures(service string, id migration.StepID) *pb.StepFigures {
	f := new(pb.StepFigures)
	var err error
	t.book.view(service, func(e entry) {
		if raw, ok := e.Figures[id]; ok {
			err = protojson.Unmarshal(raw, f)
		}
	})
	if err != nil {
		t.logger.Warn("figures of a finished step cannot be read", "service", service, "step", id, "err", err)
	}
	return f
}

// start makes the service run here, unless a newer epoch has been seen that was not aborted.
func (t *tasks) start(s *pb.StartService) error {
	name := s.GetService().GetName()
	st := t.of(name)
	st.placing.Lock()
	defer st.placing.Unlock()
	err := t.book.change(name, true, func(e *entry) error {
		j := e.Journal
		back := s.GetEpoch() == e.Home && j.Decision == migration.DecisionAbort
		if s.GetEpoch() < j.Epoch && !back {
			return superseded("start of %s refused: epoch %d is over, %d has been seen since", name, s.GetEpoch(), j.Epoch)
		}
		if s.GetEpoch() > j.Epoch {
			e.Journal, e.Figures = migration.Journal{Epoch: s.GetEpoch()}, nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.worker.start(t.ctx, s)
}

// stop removes the service, unless it runs here under a newer epoch.
func (t *tasks) stop(s *pb.StopService) error {
	st := t.of(s.GetService())
	st.placing.Lock()
	defer st.placing.Unlock()
	var home uint64
	t.book.view(s.GetService(), func(e entry) { home = e.Home })
	if s.GetEpoch() < home {
		return superseded("stop of %s refused: it runs here under epoch %d, newer than %d", s.GetService(), home, s.GetEpoch())
	}
	if err := t.worker.stop(t.ctx, s); err != nil {
		return err
	}
	return t.book.change(s.GetService(), true, func(e *entry) error {
		*e = entry{
			Journal: migration.Journal{Epoch: max(e.Journal.Epoch, s.GetEpoch()), Decision: migration.DecisionAbort},
			Serial:  max(e.Serial, s.GetEpoch()),
		}
		return nil
	})
}

// replicate passes the newest wish on, and no older one.
func (t *tasks) replicate(r *pb.ReplicateService) error {
	name := r.GetService().GetName()
	st := t.of(name)
	st.placing.Lock()
	defer st.placing.Unlock()
	err := t.book.change(name, true, func(e *entry) error {
		if r.GetSerial() < e.Serial {
			return superseded("replication of %s refused: wish %d is over, %d has been seen since", name, r.GetSerial(), e.Serial)
		}
		e.Serial = r.GetSerial()
		return nil
	})
	if err != nil {
		return err
	}
	return t.worker.replicate(t.ctx, r)
}

// place has one wish for a volume that stands alone carried out at a time. No service's name has a slash.
func (t *tasks) place(p *pb.PlaceVolume) error {
	st := t.of("volumes/" + p.GetName())
	st.placing.Lock()
	defer st.placing.Unlock()
	return t.worker.place(t.ctx, p)
}

// volume carries out what an operator asks, and answers with what it found.
func (t *tasks) volume(id uint64, v *pb.VolumeTask) {
	result, err := t.worker.volume(t.ctx, v, func(p *pb.TaskProgress) {
		p.Id = id
		t.send(&pb.SessionRequest{Message: &pb.SessionRequest_Progress{Progress: p}})
	})
	r := &pb.TaskResult{Id: id, Volume: result}
	if err != nil {
		r.Error = err.Error()
	}
	t.send(&pb.SessionRequest{Message: &pb.SessionRequest_Result{Result: r}})
}
