package dvshost_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

// moveS begins to move s of container shop to b.
func moveS(t *testing.T, a *killable) <-chan error {
	moved := make(chan error, 1)
	go func() {
		_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "s", To: "b"})
		moved <- err
	}()
	return moved
}

// moveUntilHeld is moveS, and waits until its callers wait.
func moveUntilHeld(t *testing.T, a *killable) <-chan error {
	t.Helper()
	moved := moveS(t, a)
	eventually(t, "the endpoint to be held", func() string {
		all, err := a.Endpoints(patient(t))
		for _, e := range all {
			if e.Name == "s" && e.State == "moving" {
				return ""
			}
		}
		return fmt.Sprint(all, err)
	})
	return moved
}

// Line 7, while the peer migrates: a deadline ends the call, the caller can be used again, and one without a deadline is answered after the move. Line 19: a
// second order to move it meanwhile is refused, and one to end a move that is over.
func TestLine07And19WhileItMovesProcesses(t *testing.T) {
	a, b := twoProcesses(t)
	server, standby := startPuppet(t, a, "shop").bind("s"), startPuppet(t, b, "shop")
	taken := standby.begin(order{Op: "bind", As: "s", Standby: true, Slow: time.Second})
	clients := []*puppet{startPuppet(t, a, "shop"), startPuppet(t, b, "shop")}
	server.echo("s", "old ")
	for _, c := range clients {
		c.must(order{Op: "sendrec", To: "s"})
	}
	moved := moveUntilHeld(t, a)
	if _, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "s", To: "b"}); err == nil || !strings.Contains(err.Error(), "moving already") {
		t.Errorf("a second move: %v", err)
	}
	var waiting []<-chan told
	for _, c := range clients {
		c.fails(order{Op: "sendrec", To: "s", Wait: 50 * time.Millisecond}, dvs.ErrMigrating)
		waiting = append(waiting, c.begin(order{Op: "sendrec", To: "s", Data: "x"}))
	}
	standby.fine(taken, order{Op: "bind"})
	standby.echo("s", "new ")
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	for i, c := range clients {
		if got := c.fine(waiting[i], order{Op: "sendrec"}); got.Data != "new x" {
			t.Errorf("the answer is %q", got.Data)
		}
	}
	if _, err := a.Abort(patient(t), dvshost.AbortRequest{Container: "shop", Name: "s"}); err == nil || !strings.Contains(err.Error(), "nothing of that name moves") {
		t.Errorf("an abort after the end: %v", err)
	}
}

// Line 13: an open transaction drains first. Lines 14 and 16: what is queued, and a notification that waits, move along, each is taken once.
func TestLine13And14And16WhatWaitsMovesAlongProcesses(t *testing.T) {
	a, b := twoProcesses(t)
	server, standby := startPuppet(t, a, "shop").bind("s"), startPuppet(t, b, "shop")
	taken := standby.begin(order{Op: "bind", As: "s", Standby: true})
	open, here, there := startPuppet(t, b, "shop"), startPuppet(t, a, "shop").bind("n"), startPuppet(t, b, "shop")
	first := open.begin(order{Op: "sendrec", To: "s", Data: "open"})
	q := server.must(order{Op: "request", As: "s"})
	queued := map[*puppet]<-chan told{here: here.begin(order{Op: "sendrec", To: "s", Data: "here"}), there: there.begin(order{Op: "sendrec", To: "s", Data: "there"})}
	here.must(order{Op: "notify", As: "n", To: "s"})
	moved := moveUntilHeld(t, a)
	select {
	case err := <-moved:
		t.Fatalf("it moved with a request in work: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	server.must(order{Op: "reply", As: "s", Ref: q.Ref, Data: "from a"})
	ended := server.begin(order{Op: "receive", As: "s"})
	if got := open.fine(first, order{}); got.Data != "from a" {
		t.Errorf("the open request is answered %q", got.Data)
	}
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	wantTold(t, <-ended, dvs.ErrMoved)
	standby.fine(taken, order{Op: "bind"})
	seen := map[string]int{}
	for range 3 {
		m := standby.must(order{Op: "receive", As: "s"})
		seen[m.Kind+" "+m.Data]++
		if m.Kind == "sendrec" {
			standby.must(order{Op: "reply", As: "s", Ref: m.Ref, Data: "b to " + m.Data})
		}
	}
	if len(seen) != 3 || seen["notify "] != 1 {
		t.Errorf("it took %v", seen)
	}
	for c, ch := range queued {
		if got := c.fine(ch, order{}); got.Data != "b to here" && got.Data != "b to there" {
			t.Errorf("an answer is %q", got.Data)
		}
	}
	standby.fails(order{Op: "receive", As: "s", Wait: 50 * time.Millisecond}, dvs.ErrTimeout) // nothing came twice
}

// Line 15: copies from one who moves go on, with the right content.
func TestLine15CopiesDuringAMoveProcesses(t *testing.T) {
	const size = 8 << 20
	a, b := twoProcesses(t)
	server, standby := startPuppet(t, a, "shop").bind("s"), startPuppet(t, b, "shop")
	taken := standby.begin(order{Op: "bind", As: "s", Standby: true, Slow: 100 * time.Millisecond})
	sink := startPuppet(t, b, "shop").bind("sink")
	sum := server.must(order{Op: "register", As: "s", Data: "m", Size: size}).Sum
	sink.must(order{Op: "register", As: "sink", Data: "sink", Size: size})
	server.begin(order{Op: "receive", As: "s"})
	sink.begin(order{Op: "receive", As: "sink"})
	asker := startPuppet(t, a, "shop")
	o := order{Op: "copy", Dst: dvs.Place{Endpoint: "sink", Buffer: "sink"}, Src: dvs.Place{Endpoint: "s", Buffer: "m"}, Size: size}
	asker.must(o)
	copied := asker.begin(o)
	moved := moveS(t, a)
	standby.fine(taken, order{Op: "bind"})
	standby.must(order{Op: "register", As: "s", Data: "m", Size: size})
	standby.begin(order{Op: "receive", As: "s"})
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	if got := <-copied; got.Err != "" && !strings.Contains(got.Err, dvs.ErrNoBuffer.Error()) { // it had not been registered there yet
		t.Errorf("the copy under way: %s", got.Err)
	}
	asker.must(o)
	if got := sink.must(order{Op: "sum", As: "sink", Data: "sink", Size: size}); got.Sum != sum {
		t.Error("the content is another")
	}
}

// Line 17: a move that fails wakes those who wait at every node, and the server goes on with its state.
func TestLine17RollbackProcesses(t *testing.T) {
	a, b := twoProcesses(t)
	server, standby := startPuppet(t, a, "shop").bind("s"), startPuppet(t, b, "shop")
	standby.begin(order{Op: "bind", As: "s", Standby: true, Slow: 300 * time.Millisecond, Failing: true})
	clients := []*puppet{startPuppet(t, a, "shop"), startPuppet(t, b, "shop")}
	server.must(order{Op: "state", As: "s", Data: "kept"})
	server.echo("s", "a ")
	for _, c := range clients {
		c.must(order{Op: "sendrec", To: "s"})
	}
	moved := moveUntilHeld(t, a)
	for _, c := range clients {
		ch := c.begin(order{Op: "sendrec", To: "s", Data: "parked"})
		if got := c.fine(ch, order{Op: "sendrec"}); got.Data != "a parked" {
			t.Errorf("the answer is %q", got.Data)
		}
	}
	if err := <-moved; err == nil || !strings.Contains(err.Error(), "no room for it") {
		t.Errorf("the move: %v", err)
	}
	if got := server.must(order{Op: "state", As: "s"}); got.Data != "kept...." {
		t.Errorf("its state is %q", got.Data)
	}
}

// Line 20: the nodes are parted at the commit of a move, whether that has arrived or not: at no time do both own the process, and when they hear each other
// again one does, with all that was acknowledged.
func TestLine20APartitionMakesNoSecondOwnerProcesses(t *testing.T) {
	for _, arrives := range []bool{true, false} {
		t.Run(fmt.Sprintf("the commit arrives %v", arrives), func(t *testing.T) {
			t.Parallel()
			var dark, armed atomic.Bool
			fell := make(chan struct{})
			fall := sync.OnceFunc(func() { close(fell) })
			a, b := startKillable(t, true, func(said []byte) verdict {
				if armed.Load() && strings.Contains(string(said), `"step":"endpoint/destination/commit"`) {
					armed.Store(false)
					dark.Store(true)
					fall()
					if arrives {
						return strand
					}
				}
				if dark.Load() {
					return stop
				}
				return pass
			})
			a.run(t, "shop", "counter", module(t, built.counter))
			a.ask(t, "shop", "counter", "42")
			b.ask(t, "shop", "counter", "0")
			armed.Store(true)
			moved := make(chan error, 1)
			go func() {
				_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "counter", To: "b"})
				moved <- err
			}()
			<-fell
			for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				owners := 0
				for _, n := range []*killable{a, b} {
					all, err := n.Endpoints(patient(t))
					if err != nil {
						t.Fatal(err)
					}
					for _, e := range all {
						if e.Node == n.name && e.State == "active" {
							owners++
						}
					}
				}
				if owners > 1 {
					t.Fatal("both nodes own it")
				}
			}
			dark.Store(false)
			if err := <-moved; err != nil {
				t.Errorf("the move: %v", err)
			}
			for _, n := range []*killable{a, b} {
				if got := n.ask(t, "shop", "counter", "0"); got != "42" {
					t.Errorf("asked from %s the counter is %s", n.name, got)
				}
			}
		})
	}
}
