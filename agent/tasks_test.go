package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

// soon bounds every wait of these tests: it is reached only when a test fails.
const soon = 20 * time.Second

const (
	converge   = migration.StepID("server/source/converge")
	prepare    = migration.StepID("server/source/prepare")
	abort      = migration.StepID("server/source/abort")
	commit     = migration.StepID("server/destination/commit")
	diskAbort  = migration.StepID("storage/source/abort")
	replicates = migration.StepID("storage/source/prepare")
)

// fakeWorker tells of each call that begins, and lets it go on as the test says.
type fakeWorker struct {
	begun chan *call
	quit  chan struct{} // closed at the test's end: nothing waits for it any more

	mu      sync.Mutex
	atWork  map[migration.StepID]int
	overlap []string // what began while something of the same service was at work
}

type call struct {
	what   string // a step's id, "start" or "stop"
	epoch  uint64
	ctx    context.Context
	report func(*pb.TaskProgress)
	end    chan ending
}

type ending struct {
	figures *pb.StepFigures
	err     error
}

func newFakeWorker() *fakeWorker {
	return &fakeWorker{begun: make(chan *call, 16), quit: make(chan struct{}), atWork: make(map[migration.StepID]int)}
}

func (w *fakeWorker) step(ctx context.Context, s *pb.MigrationStep, id migration.StepID, report func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	w.mu.Lock()
	for other := range w.atWork {
		w.overlap = append(w.overlap, string(other)+" and "+string(id))
	}
	w.atWork[id]++
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.atWork[id]--; w.atWork[id] == 0 {
			delete(w.atWork, id)
		}
	}()
	c := &call{what: string(id), epoch: s.GetEpoch(), ctx: ctx, report: report, end: make(chan ending, 1)}
	w.begun <- c
	e := w.await(c)
	return e.figures, e.err
}

func (w *fakeWorker) noted(what string, epoch uint64) error {
	c := &call{what: what, epoch: epoch, end: make(chan ending, 1)}
	w.begun <- c
	return w.await(c).err
}

func (w *fakeWorker) await(c *call) ending {
	select {
	case e := <-c.end:
		return e
	case <-w.quit:
		return ending{err: errors.New("the test is over")}
	}
}

func (w *fakeWorker) start(_ context.Context, s *pb.StartService) error {
	return w.noted("start", s.GetEpoch())
}

func (w *fakeWorker) stop(_ context.Context, s *pb.StopService) error {
	return w.noted("stop", s.GetEpoch())
}

func (w *fakeWorker) replicate(_ context.Context, r *pb.ReplicateService) error {
	return w.noted("replicate", r.GetSerial())
}

func (w *fakeWorker) place(_ context.Context, p *pb.PlaceVolume) error {
	return w.noted("place", p.GetEpoch())
}

func (w *fakeWorker) volume(context.Context, *pb.VolumeTask, func(*pb.TaskProgress)) (*pb.VolumeResult, error) {
	return nil, w.noted("volume", 0)
}
func (w *fakeWorker) observe(context.Context, string) *pb.Holding { return nil }
func (w *fakeWorker) facts(context.Context) *pb.HostFacts         { return nil }
func (w *fakeWorker) volatile(id migration.StepID) bool           { return id == replicates || id == converge }
func (w *fakeWorker) close() error                                { return nil }

// bench is tasks with a fake worker, and a session in which the answers arrive.
type bench struct {
	t      *testing.T
	dir    string
	book   *book
	worker *fakeWorker
	tasks  *tasks
	out    chan *pb.SessionRequest
	stop   context.CancelFunc
	wg     *sync.WaitGroup
}

func newBench(t *testing.T, dir string) *bench {
	t.Helper()
	b := &bench{t: t, dir: dir, worker: newFakeWorker(), out: make(chan *pb.SessionRequest, 64), wg: new(sync.WaitGroup)}
	var err error
	if b.book, err = openBook(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	b.tasks = newTasks(ctx, b.wg, b.book, b.worker, slog.New(slog.NewTextHandler(t.Output(), nil)))
	release := b.tasks.answerTo(ctx, b.out)
	t.Cleanup(func() {
		release()
		cancel()
		close(b.worker.quit)
		b.wg.Wait() // every task's goroutine has ended
	})
	return b
}

func (b *bench) ask(id uint64, step migration.StepID, epoch uint64) {
	b.tasks.take(b.t.Context(), &pb.SessionResponse{Id: id, Task: &pb.SessionResponse_Step{Step: &pb.MigrationStep{
		Step: string(step), Epoch: epoch, Service: &pb.ServiceSpec{Name: "shop"},
	}}})
}

func (b *bench) askStart(id, epoch uint64) {
	b.tasks.take(b.t.Context(), &pb.SessionResponse{Id: id, Task: &pb.SessionResponse_Start{Start: &pb.StartService{
		Service: &pb.ServiceSpec{Name: "shop"}, Epoch: epoch,
	}}})
}

func (b *bench) askStop(id, epoch uint64) {
	b.tasks.take(b.t.Context(), &pb.SessionResponse{Id: id, Task: &pb.SessionResponse_Stop{Stop: &pb.StopService{Service: "shop", Epoch: epoch}}})
}

// begins waits for the worker to be called.
func (b *bench) begins(what string, epoch uint64) *call {
	b.t.Helper()
	select {
	case c := <-b.worker.begun:
		if c.what != what || c.epoch != epoch {
			b.t.Fatalf("%s of epoch %d began, want %s of %d", c.what, c.epoch, what, epoch)
		}
		return c
	case <-time.After(soon):
		b.t.Fatalf("%s did not begin", what)
	}
	return nil
}

func (b *bench) message() *pb.SessionRequest {
	b.t.Helper()
	select {
	case m := <-b.out:
		return m
	case <-time.After(soon):
		b.t.Fatal("no answer")
	}
	return nil
}

func (b *bench) answer() *pb.TaskResult {
	b.t.Helper()
	r := b.message().GetResult()
	if r == nil {
		b.t.Fatal("no result came, but something else")
	}
	return r
}

func (b *bench) done(id uint64) *pb.TaskResult {
	b.t.Helper()
	r := b.answer()
	if r.GetId() != id || r.GetError() != "" {
		b.t.Fatalf("answer is %v, want that task %d is done", r, id)
	}
	return r
}

func (b *bench) fails(id uint64, refused bool, text string) {
	b.t.Helper()
	if r := b.answer(); r.GetId() != id || r.GetRefused() != refused || !strings.Contains(r.GetError(), text) || r.GetError() == "" {
		b.t.Fatalf("answer is %v, want that task %d fails (refused: %t) with %q", r, id, refused, text)
	}
}

// carry asks for a step and lets it be done.
func (b *bench) carry(id uint64, step migration.StepID, epoch uint64) {
	b.t.Helper()
	b.ask(id, step, epoch)
	b.begins(string(step), epoch).end <- ending{}
	b.done(id)
}

func (b *bench) nothingBegan() {
	b.t.Helper()
	select {
	case c := <-b.worker.begun:
		b.t.Fatalf("%s of epoch %d began", c.what, c.epoch)
	default:
	}
}

// joined waits until a task waits for the answer of a step that is at work.
func (b *bench) joined(step migration.StepID, n int) {
	b.t.Helper()
	st := b.tasks.of("shop")
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		st.mu.Lock()
		r := st.steps[step]
		ok := r != nil && len(r.waiting) == n
		st.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("%d tasks do not wait for %s", n, step)
		}
	}
}

func TestADoubledStepRunsOnceAndBothAreAnswered(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.ask(1, prepare, 5)
	c := b.begins(string(prepare), 5)
	b.ask(2, prepare, 5)
	b.joined(prepare, 2)
	c.report(&pb.TaskProgress{Done: 3, Total: 4})
	for _, id := range []uint64{1, 2} {
		if p := b.message().GetProgress(); p.GetId() != id || p.GetDone() != 3 {
			t.Errorf("progress is %v, want that of task %d", p, id)
		}
	}
	c.end <- ending{figures: &pb.StepFigures{ClockOffsetNs: 7}}
	for _, id := range []uint64{1, 2} {
		if r := b.done(id); r.GetFigures().GetClockOffsetNs() != 7 {
			t.Errorf("answer is %v, without the figures", r)
		}
	}
	b.nothingBegan()
}

func TestWhatIsDoneIsAnsweredFromTheJournalWithItsFigures(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.ask(1, prepare, 5)
	b.begins(string(prepare), 5).end <- ending{figures: &pb.StepFigures{ClockOffsetNs: 7, ClockUncertaintyNs: 2}}
	b.done(1)
	b.ask(2, prepare, 5)
	if r := b.done(2); r.GetFigures().GetClockOffsetNs() != 7 || r.GetFigures().GetClockUncertaintyNs() != 2 {
		t.Errorf("answer is %v, without the figures", r)
	}
	b.nothingBegan()

	// The agent after this one knows too.
	next := newBench(t, b.dir)
	next.ask(3, prepare, 5)
	if r := next.done(3); r.GetFigures().GetClockOffsetNs() != 7 {
		t.Errorf("after a restart the answer is %v, without the figures", r)
	}
	next.nothingBegan()
	// In a newer epoch nothing is done yet.
	next.carry(4, prepare, 6)
}

func TestAStepThatFailedIsCarriedOutAgain(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.ask(1, prepare, 5)
	b.begins(string(prepare), 5).end <- ending{err: errors.New("no route to the destination")}
	b.fails(1, false, "no route to the destination")
	b.carry(2, prepare, 5)
}

func TestAnAbortEndsWhatIsAtWorkAndWaitsForIt(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.ask(1, converge, 5)
	c := b.begins(string(converge), 5)
	b.ask(2, abort, 5)
	select {
	case <-c.ctx.Done():
	case <-time.After(soon):
		t.Fatal("the abort did not cancel what was at work")
	}
	if cause := context.Cause(c.ctx); !errors.Is(cause, errOver) {
		t.Errorf("cancelled because of %v", cause)
	}
	b.nothingBegan() // converge has not returned
	// Refused already, though the abort itself has to wait.
	b.ask(3, prepare, 5)
	b.fails(3, true, "epoch 5 was aborted")
	c.end <- ending{err: c.ctx.Err()}
	a := b.begins(string(abort), 5)
	b.fails(1, false, "overtaken by an abort")
	a.end <- ending{}
	b.done(2)
	if len(b.worker.overlap) != 0 {
		t.Errorf("at the same time: %v", b.worker.overlap)
	}
}

// A step that was through when the abort came must not be answered as done: the abort undoes it.
func TestAStepThatAnAbortOvertookIsNotDone(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.ask(1, converge, 5)
	c := b.begins(string(converge), 5)
	b.ask(2, abort, 5)
	<-c.ctx.Done()
	c.end <- ending{} // it did not notice
	a := b.begins(string(abort), 5)
	b.fails(1, false, "aborted")
	a.end <- ending{}
	b.done(2)
	b.book.view("shop", func(e entry) {
		if e.Journal.Recorded(5, converge) {
			t.Error("the step is on record")
		}
	})
}

func TestAbortsOfTwoParticipantsDoNotWaitForEachOther(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.ask(1, abort, 5)
	c := b.begins(string(abort), 5)
	b.ask(2, diskAbort, 5)
	d := b.begins(string(diskAbort), 5)
	if c.ctx.Err() != nil {
		t.Error("one abort cancelled the other")
	}
	d.end <- ending{}
	b.done(2)
	c.end <- ending{}
	b.done(1)
}

func TestANewerEpochEndsTheOlderOneAndAnOlderIsRefused(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.ask(1, converge, 5)
	c := b.begins(string(converge), 5)
	b.ask(2, prepare, 6)
	<-c.ctx.Done()
	b.nothingBegan()
	c.end <- ending{err: c.ctx.Err()}
	b.fails(1, false, "newer epoch")
	b.begins(string(prepare), 6).end <- ending{}
	b.done(2)
	for i, step := range []migration.StepID{prepare, abort, commit, "server/source/observe"} {
		id := uint64(10 + i)
		b.ask(id, step, 5)
		b.fails(id, true, "epoch 5 is over, 6 has been seen")
	}
	// Also after a restart.
	next := newBench(t, b.dir)
	next.ask(20, abort, 5)
	next.fails(20, true, "epoch 5 is over")
	next.nothingBegan()
}

func TestAfterACommitNothingGoesBack(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.carry(1, commit, 5)
	for i, step := range []migration.StepID{"server/destination/abort", "server/destination/prepare"} {
		id := uint64(10 + i)
		b.ask(id, step, 5)
		b.fails(id, true, "epoch 5 was committed")
	}
	b.nothingBegan()
}

func TestOneServiceDoesNotWaitForAnother(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.ask(1, converge, 5)
	c := b.begins(string(converge), 5)
	b.tasks.take(t.Context(), &pb.SessionResponse{Id: 2, Task: &pb.SessionResponse_Step{Step: &pb.MigrationStep{
		Step: string(abort), Epoch: 6, Service: &pb.ServiceSpec{Name: "mail"},
	}}})
	b.begins(string(abort), 6).end <- ending{}
	b.done(2)
	if c.ctx.Err() != nil {
		t.Error("a task of another service was cancelled")
	}
	c.end <- ending{}
	b.done(1)
}

func TestStartIsRefusedForAnEpochThatIsOver(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.askStart(1, 5)
	b.begins("start", 5).end <- ending{}
	b.done(1)
	home(t, b, 5)
	b.askStart(2, 5) // it may be asked for again
	b.begins("start", 5).end <- ending{}
	b.done(2)

	// It has moved away under epoch 6.
	b.carry(3, "server/source/release", 6)
	b.askStart(4, 5)
	b.fails(4, true, "start of shop refused: epoch 5 is over, 6 has been seen")
	b.nothingBegan()
}

func TestStartIsAllowedAtHomeAfterAnAbort(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.askStart(1, 5)
	b.begins("start", 5).end <- ending{}
	b.done(1)
	home(t, b, 5)

	b.carry(2, prepare, 6)
	b.askStart(3, 5)
	b.fails(3, true, "epoch 5 is over") // the attempt is undecided
	b.carry(4, abort, 6)
	b.askStart(5, 4)
	b.fails(5, true, "epoch 4 is over") // not the epoch that it runs under
	b.askStart(6, 5)
	b.begins("start", 5).end <- ending{}
	b.done(6)
	// The journal has forgotten nothing by that.
	b.ask(7, prepare, 6)
	b.fails(7, true, "epoch 6 was aborted")
}

// home notes what the host's worker notes when it has started a service.
func home(t *testing.T, b *bench, epoch uint64) {
	t.Helper()
	if err := b.book.change("shop", true, func(e *entry) error { e.Home = epoch; return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestStopIsRefusedByANewerHome(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.askStart(1, 7)
	b.begins("start", 7).end <- ending{}
	b.done(1)
	home(t, b, 7)
	b.askStop(2, 6)
	b.fails(2, true, "stop of shop refused: it runs here under epoch 7")
	b.nothingBegan()
	b.askStop(3, 7)
	b.begins("stop", 7).end <- ending{}
	b.done(3)
	// What comes late for the deleted service is refused, its successor is not.
	b.ask(4, prepare, 7)
	b.fails(4, true, "epoch 7 was aborted")
	b.askStart(5, 6)
	b.fails(5, true, "epoch 6 is over")
	b.askStart(6, 8)
	b.begins("start", 8).end <- ending{}
	b.done(6)
}

func TestAStopThatFailedIsForgottenNothingOf(t *testing.T) {
	b := newBench(t, t.TempDir())
	home(t, b, 7)
	b.askStop(1, 7)
	b.begins("stop", 7).end <- ending{err: errors.New("the volume is in use")}
	b.fails(1, false, "the volume is in use")
	b.book.view("shop", func(e entry) {
		if e.Home != 7 {
			t.Errorf("home is %d", e.Home)
		}
	})
}

func TestStartingAndStoppingTakeTurns(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.askStart(1, 5)
	c := b.begins("start", 5)
	b.askStop(2, 5)
	b.nothingBegan()
	c.end <- ending{}
	b.done(1)
	b.begins("stop", 5).end <- ending{}
	b.done(2)
}

func TestAnUnknownTaskIsRefused(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.tasks.take(t.Context(), &pb.SessionResponse{Id: 1})
	b.fails(1, true, "install the same godwit everywhere")
	b.ask(2, "server/sideways/dance", 5)
	b.fails(2, true, "sideways")
	b.nothingBegan()
}

// Answers between two sessions are dropped: the controller asks again, and is answered from the journal.
func TestAnAnswerBetweenTwoSessionsIsAskedForAgain(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.tasks.answerTo(t.Context(), nil)()
	b.ask(1, prepare, 5)
	b.begins(string(prepare), 5).end <- ending{figures: &pb.StepFigures{ClockOffsetNs: 7}}
	st := b.tasks.of("shop")
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		st.mu.Lock()
		n := len(st.steps)
		st.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the step does not end")
		}
	}
	release := b.tasks.answerTo(t.Context(), b.out)
	defer release()
	b.ask(2, prepare, 5)
	for {
		if r := b.answer(); r.GetId() == 2 {
			if r.GetFigures().GetClockOffsetNs() != 7 {
				t.Errorf("answer is %v", r)
			}
			break
		}
	}
	b.nothingBegan()
}

// The end of the agent cancels what is at work, and waits for it.
func TestTheAgentsEndCancelsWhatIsAtWork(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.ask(1, converge, 5)
	c := b.begins(string(converge), 5)
	b.stop()
	<-c.ctx.Done()
	c.end <- ending{err: c.ctx.Err()}
	b.wg.Wait()
	b.ask(2, prepare, 5)
	b.wg.Wait()
	b.nothingBegan()
}
