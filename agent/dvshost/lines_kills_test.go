package dvshost_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

// Line 18: the node that decides of a move, which is its source, is killed in each of its phases, and begins again: before the commit all is put back, and the process has ended
// with its node; after it the process goes on at the destination with all that was acknowledged. Without a directory the node remembers nothing:
// then nothing that nobody owns is left either. No client waits beyond its time.
func TestLine18TheNodeThatDecidesIsKilledProcesses(t *testing.T) {
	step := func(name string) string { return `"step":"` + name + `"` }
	for _, c := range []struct {
		name   string
		what   string // that a says when it is killed
		then   verdict
		frozen bool
		there  bool // whether it goes on at the destination
	}{
		{"while it asks for a process", step("process/destination/prepare"), stop, false, false},
		{"when the process waits", step("endpoint/destination/prepare"), stop, false, false},
		{"when the standby waits, and the answer is lost", step("endpoint/destination/prepare"), strand, false, false},
		{"while pages are sent", "PUT /v1/pages", stop, false, false},
		{"while the state is sent", "", stop, true, false},
		{"before the commit arrives", step("endpoint/destination/commit"), stop, false, true},
		{"when the commit has arrived", step("endpoint/destination/commit"), strand, true, true},
	} {
		for _, kept := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, kept %v", c.name, kept), func(t *testing.T) {
				t.Parallel()
				killed := make(chan struct{})
				strike := sync.OnceFunc(func() { close(killed) })
				var struck func()
				var mu sync.Mutex
				armed, carried := false, 0
				a, b := startKillable(t, kept, func(said []byte) verdict {
					mu.Lock()
					defer mu.Unlock()
					if carried += len(said); !armed || !bytes.Contains(said, []byte(c.what)) || c.what == "" && carried < 200<<10 {
						return pass
					}
					armed = false
					if c.then == stop {
						struck()
					} else {
						go struck() // when this has been carried
					}
					return c.then
				})
				struck = func() {
					if c.then == strand {
						time.Sleep(50 * time.Millisecond) // it has been dealt with, most likely; if not, the outcome is the same
					}
					a.kill()
					strike()
				}
				a.run(t, "shop", "counter", module(t, built.counter))
				size := 3_000_000
				if c.what == "" {
					size = 20_000_000 // much of it does not cross the link, which compresses
				}
				a.ask(t, "shop", "counter", fmt.Sprint("fill ", size))
				a.ask(t, "shop", "counter", "41")
				b.ask(t, "shop", "counter", "1") // b knows where it is
				clients := startLoadHere(t, b, loadSpec{Container: "shop", To: "counter", Name: "b", Count: 2, Request: "0", Limit: 10 * time.Second})
				mu.Lock()
				armed, carried = true, 0
				mu.Unlock()
				_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "counter", To: "b", Frozen: c.frozen})
				if err == nil {
					t.Fatal("the move succeeded")
				}
				<-killed
				a.begin(t)
				there := c.there && (kept || c.then == strand)
				settled(t, a, b, there)
				if there {
					if got := a.ask(t, "shop", "counter", "0"); got != "42" {
						t.Errorf("the counter is %s", got)
					}
				} else {
					a.run(t, "shop", "counter", module(t, built.counter)) // the name is free
					if got := b.ask(t, "shop", "counter", "0"); got != "0" {
						t.Errorf("the new counter is %s", got)
					}
				}
				comeBack(t, clients)
				if t.Failed() {
					t.Logf("a:\n%s\nb:\n%s", &a.log, &b.log)
				}
			})
		}
	}
}

// startLoadHere runs closed-loop clients in this process, which outlives all nodes, and waits until each has been answered.
func startLoadHere(t *testing.T, n *killable, spec loadSpec) *load {
	t.Helper()
	spec.At = n.socket
	l, err := startLoad(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.rest() })
	eventually(t, "the clients to be answered", func() string {
		y := l.tally()
		for c, steps := range y.Steps {
			if steps < 3 {
				return fmt.Sprintf("%s has made %d calls: %v", c, steps, y.Errors)
			}
		}
		return ""
	})
	return l
}

// comeBack ends clients whose calls have a limit: whatever has happened, none hangs, and each knows why its last call has failed.
func comeBack(t *testing.T, l *load) tally {
	t.Helper()
	ended := make(chan tally, 1)
	go func() { ended <- l.rest() }()
	select {
	case y := <-ended:
		for _, s := range y.Errors {
			if !slices.ContainsFunc([]error{dvs.ErrOutcomeUnknown, dvs.ErrTimeout, dvs.ErrNotConnected}, func(e error) bool { return strings.Contains(s, e.Error()) }) {
				t.Error(s)
			}
		}
		for _, s := range y.Faults {
			t.Error(s)
		}
		return y
	case <-time.After(time.Minute):
		t.Fatal("a client hangs")
		return tally{}
	}
}

// settled waits until the process is at b alone, or nowhere.
func settled(t *testing.T, a, b *killable, there bool) {
	t.Helper()
	var state string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		atA, errA := a.List(patient(t))
		atB, errB := b.List(patient(t))
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		state = strings.TrimSpace(fmt.Sprint(atA, atB))
		if len(atA) == 0 && (!there && len(atB) == 0 || there && len(atB) == 1 && atB[0].State == "running") {
			return
		}
	}
	t.Errorf("nothing comes to rest, expected at the destination %v: %s\na:\n%s\nb:\n%s", there, state, &a.log, &b.log)
}
