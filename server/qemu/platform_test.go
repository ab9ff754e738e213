package qemu

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/server"
)

func fakeOptions(t *testing.T, dir string) Options {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Dir: dir, Binary: program, StallTimeout: 10 * time.Second}
}

func openFake(t *testing.T, dir string) *Platform {
	t.Helper()
	p, err := New(fakeOptions(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Destroy(context.Background(), "shop")
		p.Close()
	})
	return p
}

func spec() server.Machine {
	return server.Machine{Name: "shop", CPUs: 1, Memory: mebibyte, Kernel: "/k"}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func stateOf(t *testing.T, p *Platform) string {
	t.Helper()
	s, err := p.Status(t.Context(), "shop")
	must(t, err)
	return s.State
}

func awaitState(t *testing.T, p *Platform, want string) {
	t.Helper()
	m := p.machine("shop")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := m.await(ctx, func() (bool, error) { return m.statusLocked().State == want, nil }); err != nil {
		t.Fatalf("is %s, want %s: %v", stateOf(t, p), want, err)
	}
}

// converged brings both ends as far as the hold.
func converged(t *testing.T, from, to *Platform, epoch uint64) (accepted <-chan error, near net.Conn) {
	t.Helper()
	must(t, from.CheckSource(t.Context(), "shop"))
	must(t, to.PrepareIncoming(t.Context(), spec(), epoch))
	near, far := net.Pipe()
	result := make(chan error, 1)
	ctx := t.Context()
	dial := func(context.Context) (net.Conn, error) {
		go func() { result <- to.AcceptIncoming(ctx, "shop", epoch, far) }()
		return near, nil
	}
	looks := 0
	must(t, from.Converge(ctx, "shop", epoch, dial, func(server.Progress) { looks++ }))
	if looks == 0 {
		t.Error("no progress was told")
	}
	return result, near
}

func TestAWholeHandover(t *testing.T) {
	from, to := openFake(t, t.TempDir()), openFake(t, t.TempDir())
	must(t, from.Start(t.Context(), spec()))
	must(t, from.Start(t.Context(), spec()))
	accepted, _ := converged(t, from, to, 7)
	if s := stateOf(t, from); s != server.StateRunning {
		t.Fatalf("held, the source is %s", s)
	}
	must(t, from.Converge(t.Context(), "shop", 7, nil, nil))
	must(t, from.Quiesce(t.Context(), "shop", 7, nil))
	must(t, from.Quiesce(t.Context(), "shop", 7, nil))
	must(t, <-accepted)
	must(t, to.Loaded(t.Context(), "shop", 7))
	if a, b := stateOf(t, from), stateOf(t, to); a != server.StatePostmigrate || b != server.StateLoaded {
		t.Fatalf("source %s, destination %s", a, b)
	}
	must(t, to.Activate(t.Context(), "shop", 7))
	must(t, to.Activate(t.Context(), "shop", 7))
	must(t, to.PrepareIncoming(t.Context(), spec(), 7))
	must(t, to.Loaded(t.Context(), "shop", 7))
	if err := to.DropIncoming(t.Context(), "shop", 7); !errors.Is(err, server.ErrActivated) {
		t.Fatalf("drop an activated machine: %v", err)
	}
	if s := stateOf(t, to); s != server.StateRunning {
		t.Fatalf("activated, the destination is %s", s)
	}
	if err := from.Rollback(t.Context(), "shop", 8); err == nil {
		t.Fatal("a rollback of another attempt resumed a machine that was handed over")
	}
	must(t, from.Destroy(t.Context(), "shop"))
	must(t, from.Destroy(t.Context(), "shop"))
	if _, err := os.Stat(filepath.Join(from.o.Dir, "shop")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("files stay: %v", err)
	}
}

func TestRollbackFromEveryStepWithAndWithoutARestart(t *testing.T) {
	for _, step := range []string{"running", "held", "broken", "quiesced"} {
		for _, restarted := range []bool{false, true} {
			t.Run(step, func(t *testing.T) {
				dir := t.TempDir()
				from, to := openFake(t, dir), openFake(t, t.TempDir())
				must(t, from.Start(t.Context(), spec()))
				if step != "running" {
					accepted, near := converged(t, from, to, 3)
					switch step {
					case "broken":
						near.Close()
						if <-accepted; from.Quiesce(t.Context(), "shop", 3, nil) == nil {
							t.Fatal("quiesced without a link")
						}
					case "quiesced":
						must(t, from.Quiesce(t.Context(), "shop", 3, nil))
						must(t, <-accepted)
					}
				}
				if restarted {
					must(t, from.Close())
					from = openFake(t, dir)
				}
				must(t, from.Rollback(t.Context(), "shop", 3))
				must(t, from.Rollback(t.Context(), "shop", 3))
				must(t, to.DropIncoming(t.Context(), "shop", 3))
				must(t, to.DropIncoming(t.Context(), "shop", 3))
				if a, b := stateOf(t, from), stateOf(t, to); a != server.StateRunning || b != server.StateAbsent {
					t.Fatalf("source %s, destination %s", a, b)
				}
				if err := from.Rollback(t.Context(), "shop", 2); !errors.Is(err, server.ErrOldEpoch) {
					t.Fatalf("an old epoch: %v", err)
				}
				accepted, _ := converged(t, from, to, 4)
				must(t, from.Quiesce(t.Context(), "shop", 4, nil))
				must(t, <-accepted)
				must(t, to.Loaded(t.Context(), "shop", 4))
			})
		}
	}
}

func TestConvergeBeginsAnewAfterARestartOfTheSourcesAgent(t *testing.T) {
	dir := t.TempDir()
	from, to := openFake(t, dir), openFake(t, t.TempDir())
	must(t, from.Start(t.Context(), spec()))
	accepted, _ := converged(t, from, to, 3)
	must(t, from.Close())
	<-accepted
	awaitState(t, to, server.StateDead)
	from = openFake(t, dir)
	if err := from.Quiesce(t.Context(), "shop", 3, nil); err == nil || stateOf(t, from) != server.StateRunning {
		t.Fatalf("quiesced without a stream: %v, it is %s", err, stateOf(t, from))
	}
	accepted, _ = converged(t, from, to, 3)
	must(t, from.Quiesce(t.Context(), "shop", 3, nil))
	must(t, <-accepted)
	must(t, to.Loaded(t.Context(), "shop", 3))
}

func TestASourceThatDiesWhileQuiescedStartsOnlyAfterARollback(t *testing.T) {
	from, to := openFake(t, t.TempDir()), openFake(t, t.TempDir())
	must(t, from.Start(t.Context(), spec()))
	accepted, _ := converged(t, from, to, 3)
	must(t, from.Quiesce(t.Context(), "shop", 3, nil))
	must(t, <-accepted)
	s, _ := from.Status(t.Context(), "shop")
	must(t, syscall.Kill(s.PID, syscall.SIGKILL))
	awaitState(t, from, server.StateDead)
	if err := from.Start(t.Context(), spec()); err == nil {
		t.Fatal("started a machine that may run elsewhere")
	}
	must(t, from.Rollback(t.Context(), "shop", 3))
	must(t, from.Start(t.Context(), spec()))
	awaitState(t, from, server.StateRunning)
}

func TestAMachineThatResumesUnaskedIsStoppedAgainAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	from, to := openFake(t, dir), openFake(t, t.TempDir())
	must(t, from.Start(t.Context(), spec()))
	accepted, _ := converged(t, from, to, 1)
	must(t, from.Quiesce(t.Context(), "shop", 1, nil))
	must(t, <-accepted)
	told := make(chan server.Status, 100)
	cancel := from.Watch(func(s server.Status) { told <- s })
	must(t, from.machine("shop").call(t.Context(), "cont", nil, nil))
	if s := <-told; s.State != server.StateRunning {
		t.Fatalf("told %+v", s)
	}
	cancel()
	awaitState(t, from, server.StatePaused)
	must(t, from.Close())
	from = openFake(t, dir)
	if s := stateOf(t, from); s != server.StatePaused {
		t.Fatalf("adopted, it is %s", s)
	}
}

func TestALoadedMachineSurvivesARestartOfItsAgent(t *testing.T) {
	dir := t.TempDir()
	from, to := openFake(t, t.TempDir()), openFake(t, dir)
	must(t, from.Start(t.Context(), spec()))
	accepted, _ := converged(t, from, to, 1)
	must(t, from.Quiesce(t.Context(), "shop", 1, nil))
	must(t, <-accepted)
	must(t, to.Loaded(t.Context(), "shop", 1))
	before, _ := to.Status(t.Context(), "shop")
	must(t, to.Close())
	to = openFake(t, dir)
	must(t, to.PrepareIncoming(t.Context(), spec(), 1))
	must(t, to.Loaded(t.Context(), "shop", 1))
	must(t, to.Activate(t.Context(), "shop", 1))
	if s, _ := to.Status(t.Context(), "shop"); s.PID != before.PID || s.State != server.StateRunning || s.ResumedAt.IsZero() {
		t.Fatalf("adopted %+v, was %+v", s, before)
	}
}

func TestAWaitingMachineRunsByActivateAlone(t *testing.T) {
	to := openFake(t, t.TempDir())
	must(t, to.PrepareIncoming(t.Context(), spec(), 5))
	must(t, to.PrepareIncoming(t.Context(), spec(), 5))
	for name, err := range map[string]error{
		"start":      to.Start(t.Context(), spec()),
		"activate":   to.Activate(t.Context(), "shop", 5),
		"rollback":   to.Rollback(t.Context(), "shop", 5),
		"source":     to.CheckSource(t.Context(), "shop"),
		"old":        to.PrepareIncoming(t.Context(), spec(), 4),
		"older drop": to.DropIncoming(t.Context(), "shop", 4),
	} {
		if err == nil {
			t.Errorf("%s was not refused", name)
		}
	}
	if s := stateOf(t, to); s != server.StateIncoming {
		t.Fatalf("it is %s", s)
	}
	must(t, to.PrepareIncoming(t.Context(), spec(), 6))
	must(t, to.DropIncoming(t.Context(), "shop", 6))
}

func TestAMachineThatDiesIsToldAndCanBeStartedAgain(t *testing.T) {
	p := openFake(t, t.TempDir())
	told := make(chan server.Status, 10)
	defer p.Watch(func(s server.Status) { told <- s })()
	must(t, p.Start(t.Context(), spec()))
	s, _ := p.Status(t.Context(), "shop")
	must(t, syscall.Kill(s.PID, syscall.SIGKILL))
	if s := <-told; s.State != server.StateDead || s.Err == "" {
		t.Fatalf("told %+v", s)
	}
	if list, _ := p.List(); len(list) != 1 || list[0].State != server.StateDead {
		t.Fatalf("list %+v", list)
	}
	must(t, p.Start(t.Context(), spec()))
	awaitState(t, p, server.StateRunning)
}

func TestARefusedStartSaysWhyAndLeavesNothing(t *testing.T) {
	p := openFake(t, t.TempDir())
	m := spec()
	m.CommandLine = "refuse"
	if err := p.Start(t.Context(), m); err == nil || !strings.Contains(err.Error(), "I refuse") {
		t.Fatalf("error %v", err)
	}
	if s := stateOf(t, p); s != server.StateAbsent {
		t.Fatalf("it is %s", s)
	}
}

func TestRollbackEndsAConvergeUnderWay(t *testing.T) {
	from := openFake(t, t.TempDir())
	must(t, from.Start(t.Context(), spec()))
	near, far := net.Pipe() // nobody reads: it cannot get anywhere
	defer far.Close()
	dialled, result := make(chan struct{}), make(chan error, 1)
	ctx := t.Context()
	go func() {
		result <- from.Converge(ctx, "shop", 1, func(context.Context) (net.Conn, error) {
			close(dialled)
			return near, nil
		}, nil)
	}()
	<-dialled
	must(t, from.Rollback(t.Context(), "shop", 1))
	if err := <-result; err == nil {
		t.Fatal("converged into nowhere")
	}
}

func TestProbePrefersWhatIsWholeAndNew(t *testing.T) {
	p := openFake(t, t.TempDir())
	c, err := p.Probe(t.Context())
	must(t, err)
	if !slices.Equal(c.CPUModels, []string{"Nehalem-v1"}) || !slices.Equal(c.MachineTypes, []string{"pc-q35-7.10", "pc-q35-7.1"}) {
		t.Errorf("found %+v", c)
	}
	p.o.Binary = "no-such-qemu"
	if _, err := p.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "install") {
		t.Errorf("without QEMU: %v", err)
	}
}

func TestMachinesThatCannotBeBuiltAreRefused(t *testing.T) {
	for name, change := range map[string]func(*server.Machine){
		"no boot":     func(m *server.Machine) { m.Kernel = "" },
		"no CPU":      func(m *server.Machine) { m.CPUs = 0 },
		"odd memory":  func(m *server.Machine) { m.Memory++ },
		"a path":      func(m *server.Machine) { m.Name = "../shop" },
		"an option":   func(m *server.Machine) { m.CPUModel = "max,+vmx" },
		"tap options": func(m *server.Machine) { m.NICs = []server.NIC{{Tap: "t,script=/bin/sh"}} },
		"no socket":   func(m *server.Machine) { m.Disks = []server.Disk{{Name: "root"}} },
	} {
		m := spec()
		change(&m)
		if err := checkMachine(m); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}
