//go:build lab

package dvshost_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/examples"
	"github.com/godwit-project/godwit/server/native"
)

// needCRIU skips the test where whole processes cannot be moved, and says why.
func needCRIU(t *testing.T) {
	t.Helper()
	if there, err := filepath.Abs("../../.cache/criu/criu"); err == nil && os.Getenv(native.EnvCRIU) == "" {
		if _, err := os.Stat(there); err == nil {
			t.Setenv(native.EnvCRIU, there)
		}
	}
	if _, err := native.Find(t.Context(), os.Getenv); err != nil {
		t.Skip(err)
	}
}

// wholeMove is a move of a whole process between two nodes, either of which may be killed when something is said.
type wholeMove struct {
	t         *testing.T
	container string // of this test alone: its processes are found by it
	nodes     map[string]*killable
	leaves    bool // who asked for the move waits no longer when a node has been killed

	mu    sync.Mutex
	watch func(from string, said []byte) verdict
}

// startWholeMove runs nodes a and b, each of which reaches the other by way of a relay, and a tally of 42 at a.
func startWholeMove(t *testing.T, kept bool) *wholeMove {
	t.Helper()
	m := &wholeMove{t: t, container: "shop-" + filepath.Base(t.TempDir()) + strconv.Itoa(os.Getpid())}
	m.container = strings.ReplaceAll(m.container+"-"+t.Name(), "/", "-")
	m.nodes = startProcesses(t, kept, []string{"a", "b"}, func(from, _, address string) string {
		return startRelay(t, address, func(said []byte) verdict {
			m.mu.Lock()
			watch := m.watch
			m.mu.Unlock()
			if watch == nil {
				return pass
			}
			return watch(from, said)
		})
	}, func(o *processOptions) { o.Native = true })
	program, err := examples.Tally(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := m.nodes["a"]
	if err := a.RunNative(patient(t), dvshost.NativeSpec{Container: m.container, Name: "tally", Path: program, Whole: true}); err != nil {
		t.Fatal(err)
	}
	a.ask(t, m.container, "tally", "fill 3000000")
	a.ask(t, m.container, "tally", "add 42")
	m.nodes["b"].ask(t, m.container, "tally", "get") // b knows where it is
	return m
}

// processes counts those of the program, stopped ones too.
func (m *wholeMove) processes() (n int) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range all {
		if b, err := os.ReadFile(file); err == nil && bytes.Contains(b, []byte(dvs.EnvContainer+"="+m.container)) {
			n++
		}
	}
	return n
}

// where waits until nothing is under way, and returns the node at which the program runs, or "".
func (m *wholeMove) where() string {
	m.t.Helper()
	var state string
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var at []string
		rest := true
		state = ""
		for _, name := range []string{"a", "b"} {
			all, err := m.nodes[name].List(patient(m.t))
			moves, err2 := m.nodes[name].Moves(patient(m.t))
			endpoints, err3 := m.nodes[name].Endpoints(patient(m.t))
			if err := errors.Join(err, err2, err3); err != nil {
				m.t.Fatal(err)
			}
			state += fmt.Sprintf("%s: %+v %+v %+v; ", name, all, moves, endpoints)
			for _, e := range endpoints {
				rest = rest && e.State != "moving"
			}
			rest = rest && len(moves) == 0
			for _, p := range all {
				if rest = rest && p.State == "running"; rest {
					at = append(at, name)
				}
			}
		}
		n := m.processes()
		state += fmt.Sprint(n, " processes")
		if rest && len(at) == n && n == 0 {
			return ""
		}
		if rest && len(at) == n && n == 1 {
			return at[0]
		}
	}
	m.t.Fatalf("nothing comes to rest: %s\na:\n%s\nb:\n%s", state, &m.nodes["a"].log, &m.nodes["b"].log)
	return ""
}

// tallier adds one, again and again, at a node that is not killed, and notes what was answered, and what became of the rest nobody knows.
type tallier struct {
	stop           context.CancelFunc
	wg             sync.WaitGroup
	acked, unknown int
	told           atomic.Bool  // of an end
	count          atomic.Int64 // acked, while it runs
	faults         []string
}

func (m *wholeMove) ask(at string) *tallier {
	m.t.Helper()
	s, err := dvs.Connect(patient(m.t), m.nodes[at].socket, dvs.Options{Container: m.container})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &tallier{stop: stop}
	m.t.Cleanup(func() { stop(); a.wg.Wait() })
	a.wg.Go(func() {
		defer s.Close()
		last := 42
		for ctx.Err() == nil {
			waiting, done := context.WithTimeout(context.Background(), tellTime)
			reply, err := s.SendRec(waiting, "tally", []byte("add 1"))
			done()
			switch sum, bad := strconv.Atoi(string(reply)); {
			case errors.Is(err, dvs.ErrNotBound):
				a.told.Store(true)
			case errors.Is(err, dvs.ErrMigrating): // not done
			case errors.Is(err, dvs.ErrOutcomeUnknown):
				a.unknown++
				a.told.Store(true)
			case errors.Is(err, dvs.ErrTimeout):
				a.unknown++
			case err != nil:
				a.faults = append(a.faults, err.Error())
				return
			case bad != nil || sum <= last || sum > last+1+a.unknown:
				a.faults = append(a.faults, fmt.Sprintf("%q after %d, %d unknown", reply, last, a.unknown))
				return
			default:
				last = sum
				a.acked++
				a.count.Add(1)
			}
			if err != nil {
				time.Sleep(time.Millisecond) // nobody is there: it need not be asked as fast as it can be
			}
		}
	})
	for a.count.Load() < 50 && m.t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
	}
	return a
}

// tellTime is how long a call may take until its caller is told something.
const tellTime = 5 * time.Second

// end stops it, and says whether what it was answered fits the sum.
func (a *tallier) end(t *testing.T, sum string) {
	t.Helper()
	a.stop()
	a.wg.Wait()
	for _, f := range a.faults {
		t.Error(f)
	}
	if n, err := strconv.Atoi(sum); sum != "" && (err != nil || n < 42+a.acked || n > 42+a.acked+a.unknown) {
		t.Errorf("the sum is %s after 42, %d answered, %d unknown", sum, a.acked, a.unknown)
	}
}

// settle begins the victim again, and checks that the program is at exactly one of these nodes, with all that was acknowledged, or, with "", gone, its
// callers told, and its name free.
func (m *wholeMove) settle(victim string, clients *tallier, allowed ...string) {
	t := m.t
	t.Helper()
	m.nodes[victim].begin(t)
	at := m.where()
	if !strings.Contains(" "+strings.Join(allowed, " ")+" ", " "+at+" ") {
		t.Errorf("it is at %q, want one of %q", at, allowed)
	}
	sum := ""
	if at == "" {
		clients.told.Store(false)
		for deadline := time.Now().Add(20 * time.Second); !clients.told.Load(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Error("the program is gone, and its caller was not told")
				break
			}
		}
		clients.end(t, "")
		program, err := examples.Tally(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.nodes["b"].RunNative(patient(t), dvshost.NativeSpec{Container: m.container, Name: "tally", Path: program}); err != nil {
			t.Errorf("the name is not free: %v", err)
		} else if got := m.nodes["a"].ask(t, m.container, "tally", "get"); got != "0" {
			t.Errorf("the new one says %s", got)
		}
	} else {
		clients.stop()
		clients.wg.Wait()
		sum = m.nodes["a"].ask(t, m.container, "tally", "get")
		clients.end(t, sum)
		other := map[string]string{"a": "b", "b": "a"}[at]
		if moved := m.nodes[at].move(t, m.container, "tally", other, false); moved.To != other { // nothing stands in the way of the next move
			t.Errorf("the next move: %+v", moved)
		}
		if got := m.nodes["b"].ask(t, m.container, "tally", "get"); got != sum {
			t.Errorf("after the next move it says %s, want %s", got, sum)
		}
	}
	t.Logf("at %q; %d answered, %d unknown", at, clients.acked, clients.unknown)
	if t.Failed() {
		t.Logf("a:\n%s\nb:\n%s", &m.nodes["a"].log, &m.nodes["b"].log)
	}
}

// kill kills a node when who says what, after that is carried (or not), and returns when the move has come to its end and the node is dead.
func (m *wholeMove) kill(victim, from, what string, then verdict, after time.Duration) {
	m.t.Helper()
	killed := make(chan struct{})
	strike := sync.OnceFunc(func() { m.nodes[victim].kill(); close(killed) })
	m.mu.Lock()
	m.watch = func(who string, said []byte) verdict {
		if who != from || !bytes.Contains(said, []byte(what)) {
			return pass
		}
		if then == stop {
			strike()
			return stop
		}
		go func() { time.Sleep(after); strike() }() // however long the rest takes until then
		return pass
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	moved := make(chan error, 1)
	go func() {
		_, err := m.nodes["a"].Move(ctx, dvshost.MoveRequest{Container: m.container, Name: "tally", To: "b"})
		moved <- err
	}()
	<-killed
	m.mu.Lock()
	m.watch = nil
	m.mu.Unlock()
	if m.leaves {
		cancel()
	}
	m.t.Cleanup(func() { cancel(); <-moved })
}

const (
	asksProcess = `"step":"process/destination/prepare"`
	asksStandby = `"step":"endpoint/destination/prepare"`
	asksProgram = "GET /v1/native/program"
	asksImage   = "GET /v1/native/image"
	asksCommit  = `"step":"endpoint/destination/commit"`
)

// third skips two thirds of the moments, unless all are asked for.
func third(t *testing.T, moment int) {
	if moment%3 != 0 && os.Getenv("GODWIT_SOAK") == "" {
		t.Skip("GODWIT_SOAK=1 tries every moment; by default it is every third")
	}
}

// The source's node is killed at each step of a move of a whole process, and begins again: until the commit is decided the program has ended with its
// node, and its callers are told; after that it goes on at the destination, with all that was acknowledged.
func TestTheSourceOfAWholeProcessIsKilled(t *testing.T) {
	needCRIU(t)
	for i, c := range []struct {
		name, from, what string
		then             verdict
		after            time.Duration
		allowed          []string
	}{
		{"when it asks for a process", "a", asksProcess, stop, 0, []string{""}},
		{"when the program is fetched", "b", asksProgram, pass, 0, []string{""}},
		{"when it asks for a standby", "a", asksStandby, pass, 0, []string{""}},
		{"when the image is asked for", "b", asksImage, stop, 0, []string{""}},
		{"while the image is taken", "b", asksImage, pass, 30 * time.Millisecond, []string{""}},
		{"while the image is sent or restored", "b", asksImage, pass, 120 * time.Millisecond, []string{"", "b"}},
		{"before the commit arrives", "a", asksCommit, stop, 0, []string{"b"}},
		{"when the commit has arrived", "a", asksCommit, pass, 0, []string{"b"}},
		{"while the destination lets it run", "a", asksCommit, pass, 15 * time.Millisecond, []string{"b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			third(t, i)
			m := startWholeMove(t, true)
			clients := m.ask("b")
			m.kill("a", c.from, c.what, c.then, c.after)
			m.settle("a", clients, c.allowed...)
		})
	}
}

// The destination's node is killed at each step: until the commit has reached it the program goes on where it was; after that it may have been the
// owner, and so nobody goes on, and callers are told, unless it can be known that it was not.
func TestTheDestinationOfAWholeProcessIsKilled(t *testing.T) {
	needCRIU(t)
	for i, c := range []struct {
		name, from, what string
		then             verdict
		after            time.Duration
		leaves           bool
		allowed          []string
	}{
		{"when it is asked for a process", "a", asksProcess, stop, 0, false, []string{"a"}},
		{"when it fetches the program", "b", asksProgram, pass, 0, false, []string{"a"}},
		{"when it is asked for a standby", "a", asksStandby, stop, 0, false, []string{"a"}},
		{"when it asks for the image", "b", asksImage, stop, 0, false, []string{"a"}},
		{"while the image is taken", "b", asksImage, pass, 30 * time.Millisecond, false, []string{"a"}},
		{"while the image is sent or restored", "b", asksImage, pass, 120 * time.Millisecond, false, []string{"a", "b", ""}},
		{"before the commit arrives", "a", asksCommit, stop, 0, false, []string{"a", "b"}},
		{"before the commit arrives, and nobody asks any more", "a", asksCommit, stop, 0, true, []string{"a", "b"}},
		{"when the commit has arrived", "a", asksCommit, pass, 0, false, []string{"a", "b", ""}},
		{"while it lets the program run", "a", asksCommit, pass, 15 * time.Millisecond, false, []string{"a", "b", ""}},
		{"when the program runs", "a", asksCommit, pass, 300 * time.Millisecond, false, []string{""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			third(t, i)
			m := startWholeMove(t, true)
			clients := m.ask("a")
			m.leaves = c.leaves
			m.kill("b", c.from, c.what, c.then, c.after)
			m.settle("b", clients, c.allowed...)
		})
	}
}

// The destination is killed for good after the commit was decided: an operator gives the move up, and the program, which has been stopped since its image was
// taken, goes on where it was. A destination that comes back after all has nothing.
func TestAMoveOfAWholeProcessIsGivenUpAfterItsCommit(t *testing.T) {
	needCRIU(t)
	m := startWholeMove(t, true)
	clients := m.ask("a")
	m.kill("b", "a", asksCommit, stop, 0)
	ask := dvshost.AbortRequest{Container: m.container, Name: "tally", GiveUp: true}
	info, err := m.nodes["a"].Abort(patient(t), ask)
	if err != nil || !info.Here || !info.Committed {
		t.Errorf("given up: %+v, %v", info, err)
	}
	if got := m.nodes["a"].ask(t, m.container, "tally", "add 0"); got == "" {
		t.Error("it does not answer")
	}
	m.settle("b", clients, "a")
}
