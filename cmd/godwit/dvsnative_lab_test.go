//go:build lab

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/server/native"
)

// This test's binary is godwit, too, for nodes, agents and a controller in processes of their own, and a program that they run.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "dvs", "agent", "controller", "init", "token", "join", "get":
			main()
		case "asker":
			err := askAndServe(context.Background(), os.Args[2:])
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// askAndServe is a program that asks a tally to add one, again and again, in calls of its session, which moves do not wait for; and tells how often it
// did, and what was wrong. It binds more names too.
func askAndServe(ctx context.Context, more []string) error {
	session, err := dvs.Connect(ctx, "", dvs.Options{})
	if err != nil {
		return err
	}
	for _, name := range more {
		if _, err := session.Bind(ctx, name, dvs.BindOptions{}); err != nil {
			return err
		}
	}
	e, err := session.Bind(ctx, "", dvs.BindOptions{})
	if err != nil {
		return err
	}
	var (
		count atomic.Int64
		fault atomic.Pointer[string]
		stop  atomic.Bool
	)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for !stop.Load() {
			reply, err := session.SendRec(ctx, "tally", []byte("add 1"))
			if n := count.Add(1); err != nil || string(reply) != fmt.Sprint(n) {
				text := fmt.Sprintf("request %d was answered %q, %v", n, reply, err)
				fault.Store(&text)
				return
			}
		}
	}()
	for {
		m, err := e.Receive(ctx, dvs.Any)
		if err != nil {
			return err
		}
		if string(m.Payload) == "stop" {
			stop.Store(true)
			<-asked
		}
		reply := fmt.Sprint(count.Load())
		if f := fault.Load(); f != nil {
			reply = "fault: " + *f
		}
		_ = e.Reply(m, []byte(reply))
	}
}

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

// startNodeProcess runs godwit dvs node as a process of its own until the test ends.
func startNodeProcess(t *testing.T, socket string, words ...string) dvsTest {
	t.Helper()
	d := dvsTest{t, socket}
	cmd := exec.Command("/proc/self/exe", append([]string{"dvs", "node", "--log-level", "info", "--socket", socket, "--native"}, words...)...)
	log, err := os.Create(socket + ".log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("node %v: %v", words, err)
		}
		if t.Failed() {
			said, _ := os.ReadFile(socket + ".log")
			t.Logf("node %v:\n%s", words, said)
		}
	})
	d.started()
	return d
}

// twoNodeProcesses starts two nodes.
func twoNodeProcesses(t *testing.T) (a, b dvsTest) {
	t.Helper()
	directory := t.TempDir()
	address := freeAddresses(t, 2)
	a = startNodeProcess(t, filepath.Join(directory, "a"), "--name", "a", "--listen", address[0], "--peer", "b="+address[1])
	b = startNodeProcess(t, filepath.Join(directory, "b"), "--name", "b", "--listen", address[1], "--peer", "a="+address[0])
	linked(t, a, b)
	return a, b
}

// adders ask a tally for the sum after adding one, as fast as it answers, until stopped. Each sum is given once, or somebody's request was lost or
// done twice.
type adders struct {
	t     *testing.T
	stop  context.CancelFunc
	wg    sync.WaitGroup
	count atomic.Int64
	worst atomic.Int64
	seen  sync.Map
}

func startAdders(t *testing.T, sockets ...string) *adders {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a := &adders{t: t, stop: cancel}
	t.Cleanup(func() { cancel(); a.wg.Wait() })
	for _, socket := range sockets {
		s, err := dvs.Connect(t.Context(), socket, dvs.Options{Container: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		a.wg.Go(func() {
			defer s.Close()
			for ctx.Err() == nil {
				begin := time.Now()
				waiting, done := context.WithTimeout(context.Background(), 30*time.Second)
				reply, err := s.SendRec(waiting, "tally", []byte("add 1"))
				done()
				if err != nil {
					t.Errorf("add: %v", err)
					return
				}
				for took, worst := time.Since(begin), a.worst.Load(); int64(took) > worst && !a.worst.CompareAndSwap(worst, int64(took)); worst = a.worst.Load() {
				}
				if _, twice := a.seen.LoadOrStore(string(reply), true); twice {
					t.Errorf("the sum %s was given twice", reply)
				}
				a.count.Add(1)
			}
		})
	}
	return a
}

// more waits until so many more have been answered.
func (a *adders) more(n int64) {
	a.t.Helper()
	want := a.count.Load() + n
	for deadline := time.Now().Add(time.Minute); a.count.Load() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			a.t.Fatal("nobody answers")
		}
	}
}

// end stops them, and compares the sum with what they asked for.
func (a *adders) end(d dvsTest) {
	a.t.Helper()
	a.stop()
	a.wg.Wait()
	if sum := d.want("", "call", "shop", "tally", "get"); strings.TrimSpace(sum) != strconv.FormatInt(a.count.Load(), 10) {
		a.t.Errorf("the sum is %s, and %d was added", sum, a.count.Load())
	}
	a.t.Logf("%d requests, the longest took %v", a.count.Load(), time.Duration(a.worst.Load()))
}

// A program that knows nothing of moving goes from node to node and back as it is, while clients at both nodes ask it: no request is lost or
// done twice. Then its node is drained.
func TestAWholeProcessMovesWhileItIsAsked(t *testing.T) {
	needCRIU(t)
	program := buildTally(t)
	a, b := twoNodeProcesses(t)
	a.want("shop/tally is running", "run", "--native", "--criu", program, "--container", "shop", "--name", "tally")
	a.want("native, moved by CRIU", "ps")
	clients := startAdders(t, a.socket, a.socket, b.socket, b.socket)
	from, to := a, b
	for i := range 4 {
		clients.more(200)
		name := []string{"b", "a"}[i%2]
		var moved dvshost.MoveInfo
		if out := from.want("heldMs", "migrate", "shop", "tally", "--to", name, "-o", "json"); json.Unmarshal([]byte(out), &moved) == nil {
			t.Logf("to %s: held for %.0f ms of %.0f", name, moved.HeldMs, moved.TotalMs)
		}
		from, to = to, from
	}
	clients.more(200)
	a.want("tally", "drain", "--to", "b")
	clients.more(200)
	clients.end(b)
	b.want("", "stop", "shop", "tally")
	for _, d := range []dvsTest{a, b} {
		if out := d.want("", "ps", "-o", "json"); strings.Contains(out, "tally") {
			t.Error(out)
		}
	}
}

// What a program asks others in calls that a move does not wait for is done once as well.
func TestWhatAWholeProcessAsksIsDoneOnce(t *testing.T) {
	needCRIU(t)
	a, b := twoNodeProcesses(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a.want("", "run", "--native", buildTally(t), "--container", "shop", "--name", "tally")
	a.want("", "run", "--native", "--criu", self, "--container", "shop", "--name", "asker", "--", "asker")
	from := a
	for i := range 6 {
		before := from.want("", "call", "shop", "asker", "count")
		for after := before; after == before; after = from.want("", "call", "shop", "asker", "count") {
			if t.Failed() || strings.Contains(before, "fault") {
				t.Fatal(before)
			}
		}
		from.want("asker", "migrate", "shop", "asker", "--to", []string{"b", "a"}[i%2])
		from = []dvsTest{b, a}[i%2]
	}
	count := b.want("", "call", "shop", "asker", "stop")
	if sum := b.want("", "call", "shop", "tally", "get"); sum != count || strings.Contains(count, "fault") {
		t.Errorf("the program has asked %s times, the sum is %s", count, sum)
	}
	t.Logf("asked %s times", count)
}

// A move that fails at the destination, when the program is stopped already, is taken back: the program goes on, and its clients do not notice more
// than a pause. It says why, and where.
func TestAWholeProcessThatCannotBeRestoredGoesOn(t *testing.T) {
	needCRIU(t)
	real := os.Getenv(native.EnvCRIU)
	if real == "" {
		real = "criu"
	}
	broken := filepath.Join(t.TempDir(), "criu")
	script := "#!/bin/sh\n[ \"$1\" != restore ] && exec " + real + " \"$@\"\necho 'Error (here): no room' >\"$3/$5\"\nexit 1\n"
	if err := os.WriteFile(broken, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv(native.EnvCRIU, broken)
	a, b := twoNodeProcesses(t)
	a.want("", "run", "--native", "--criu", buildTally(t), "--container", "shop", "--name", "tally")
	clients := startAdders(t, a.socket, b.socket)
	for range 3 {
		clients.more(50)
		a.refused(exitFailure, "no room", "migrate", "shop", "tally", "--to", "b")
	}
	clients.more(50)
	clients.end(a)
	if out := b.want("", "ps", "-o", "json"); strings.Contains(out, "tally") {
		t.Errorf("at the destination there is %s", out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a.want("", "run", "--native", "--criu", self, "--container", "shop", "--name", "one", "--", "asker", "two")
	a.refused(exitFailure, "binds one name", "migrate", "shop", "one", "--to", "b")
}
