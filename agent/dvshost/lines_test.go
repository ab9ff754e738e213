package dvshost_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

// The lines of the acceptance list, each with two nodes and all programs in processes of their own: what one process of dvs/node's tests shows in more
// depth is shown here to hold between processes.

// twoProcesses runs nodes a and b.
func twoProcesses(t *testing.T) (a, b *killable) {
	t.Helper()
	t.Parallel()
	return startKillable(t, true, func([]byte) verdict { return pass })
}

// placements runs a story with a server at a, and a client beside it and at the other node.
func placements(t *testing.T, story func(t *testing.T, server, client *puppet)) {
	a, b := twoProcesses(t)
	for _, n := range []*killable{a, b} {
		server := startPuppet(t, a, "shop-"+n.name).bind("s")
		story(t, server, startPuppet(t, n, "shop-"+n.name))
	}
}

func TestLine02ContainersAreApartProcesses(t *testing.T) {
	a, b := twoProcesses(t)
	for _, container := range []string{"x", "y"} {
		startPuppet(t, a, container).bind("s").echo("s", container+" ")
	}
	for _, n := range []*killable{a, b} {
		for _, container := range []string{"x", "y"} {
			if got := startPuppet(t, n, container).must(order{Op: "sendrec", To: "s", Data: "hello"}); got.Data != container+" hello" {
				t.Errorf("from %s in %s the answer is %q", n.name, container, got.Data)
			}
		}
		startPuppet(t, n, "z").fails(order{Op: "sendrec", To: "s", Wait: -1}, dvs.ErrNotBound)
	}
}

func TestLine03RendezvousAndOrderProcesses(t *testing.T) {
	a, b := twoProcesses(t)
	server := startPuppet(t, a, "shop").bind("s")
	here, there := startPuppet(t, a, "shop").bind("here"), startPuppet(t, b, "shop").bind("there")
	first := here.begin(order{Op: "send", As: "here", To: "s", Data: "1"})
	second := there.begin(order{Op: "send", As: "there", To: "s", Data: "2"})
	if got := server.must(order{Op: "receive", As: "s", To: "there"}); got.Data != "2" || got.From != "there" {
		t.Errorf("from there came %+v", got)
	}
	there.fine(second, order{Op: "send"})
	select {
	case a := <-first:
		t.Errorf("a send that nobody has received ended: %+v", a)
	default:
	}
	if got := server.must(order{Op: "receive", As: "s"}); got.Data != "1" || got.From != "here" {
		t.Errorf("from anybody came %+v", got)
	}
	here.fine(first, order{Op: "send"})
	for i := range 20 {
		sent := there.begin(order{Op: "send", As: "there", To: "s", Data: fmt.Sprint(i)})
		if got := server.must(order{Op: "receive", As: "s"}); got.Data != fmt.Sprint(i) {
			t.Errorf("message %d is %+v", i, got)
		}
		there.fine(sent, order{Op: "send"})
	}
}

func TestLine04And05RepliesMatchProcesses(t *testing.T) {
	placements(t, func(t *testing.T, server, client *puppet) {
		other := startPuppetLike(t, client)
		one, two := client.begin(order{Op: "sendrec", To: "s", Data: "one"}), other.begin(order{Op: "sendrec", To: "s", Data: "two"})
		q, r := server.must(order{Op: "request", As: "s"}), server.must(order{Op: "request", As: "s"})
		for _, m := range []told{r, q} { // the later first
			server.must(order{Op: "reply", As: "s", Ref: m.Ref, Data: "to " + m.Data})
		}
		if a, b := client.fine(one, order{}), other.fine(two, order{}); a.Data != "to one" || b.Data != "to two" {
			t.Errorf("the answers are %q and %q", a.Data, b.Data)
		}
		late := client.begin(order{Op: "sendrec", To: "s", Data: "late", Wait: 200 * time.Millisecond})
		q = server.must(order{Op: "request", As: "s"})
		wantTold(t, <-late, dvs.ErrTimeout)
		_ = server.do(order{Op: "reply", As: "s", Ref: q.Ref}) // it may not have heard yet that the caller has given up
		server.fails(order{Op: "reply", As: "s", Ref: q.Ref}, dvs.ErrNotWaiting)
		if got := client.begin(order{Op: "sendrec", To: "s", Data: "again"}); server.must(order{Op: "request", As: "s"}).Data != "again" {
			t.Errorf("after that came %v", got)
		}
	})
}

func TestLine06NotificationsProcesses(t *testing.T) {
	placements(t, func(t *testing.T, server, client *puppet) {
		client.bind("c")
		asked := client.begin(order{Op: "sendrec", As: "c", To: "s", Data: "request"})
		first := server.must(order{Op: "request", As: "s"}) // nobody waits now
		again := startPuppetLike(t, client)
		waits := again.begin(order{Op: "sendrec", To: "s", Data: "waits"})
		for range 3 {
			client.must(order{Op: "notify", As: "c", To: "s"})
		}
		for again.do(order{Op: "sendrec", To: "s", Wait: -1}).Err == "" { // until the other request is there
			time.Sleep(time.Millisecond)
		}
		if got := server.must(order{Op: "receive", As: "s"}); got.Kind != "notify" || got.From != "c" {
			t.Errorf("before the request came %+v", got)
		}
		got := server.must(order{Op: "receive", As: "s"})
		if got.Kind == "notify" && got.From == "c" { // those that came one by one over a link, after the first was taken
			got = server.must(order{Op: "receive", As: "s"})
		}
		if got.Data != "waits" {
			t.Errorf("then came %+v", got)
		}
		server.must(order{Op: "reply", As: "s", Ref: got.Ref})
		server.must(order{Op: "reply", As: "s", Ref: first.Ref})
		again.fine(waits, order{})
		client.fine(asked, order{})
	})
}

func TestLine07TimeoutsProcesses(t *testing.T) {
	placements(t, func(t *testing.T, server, client *puppet) {
		client.fails(order{Op: "sendrec", To: "nobody", Wait: -1}, dvs.ErrNotBound)
		client.fails(order{Op: "sendrec", To: "nobody", Wait: 20 * time.Millisecond}, dvs.ErrTimeout)
		client.fails(order{Op: "sendrec", To: "s", Data: "x", Wait: 20 * time.Millisecond}, dvs.ErrTimeout) // nobody receives
		client.fails(order{Op: "sendrec", To: "s", Wait: -1}, dvs.ErrAgain)
		forever := client.begin(order{Op: "sendrec", To: "s", Data: "y"})
		for {
			q := server.must(order{Op: "request", As: "s"})
			_ = server.do(order{Op: "reply", As: "s", Ref: q.Ref, Data: q.Data})
			if q.Data == "y" {
				break
			}
		}
		if got := client.fine(forever, order{}); got.Data != "y" {
			t.Errorf("the answer is %q", got.Data)
		}
	})
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
	moved := make(chan error, 1)
	go func() {
		_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "s", To: "b"})
		moved <- err
	}()
	eventually(t, "the endpoint to be held", func() string {
		all, err := a.Endpoints(patient(t))
		if err != nil || len(all) != 1 || all[0].State != "moving" {
			return fmt.Sprint(all, err)
		}
		return ""
	})
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

func TestLine08CopiesProcesses(t *testing.T) {
	const size = 300_000
	a, b := twoProcesses(t)
	owners, sums := map[string]*puppet{}, map[string]uint32{}
	for _, name := range []string{"a1", "a2", "b1", "b2"} {
		n := a
		if name[0] == 'b' {
			n = b
		}
		owners[name] = startPuppet(t, n, "shop").bind(name)
		sums[name] = owners[name].must(order{Op: "register", As: name, Data: name + strings.Repeat("+", len(sums)), Size: size}).Sum
		owners[name].begin(order{Op: "receive", As: name}) // blocked: others may
	}
	buffer := map[string]string{"a1": "a1", "a2": "a2+", "b1": "b1++", "b2": "b2+++"}
	asker := startPuppet(t, a, "shop")
	for _, p := range [][2]string{{"a1", "a2"}, {"a2", "b1"}, {"b1", "b2"}, {"b2", "a1"}} {
		from, to := dvs.Place{Endpoint: p[0], Buffer: buffer[p[0]]}, dvs.Place{Endpoint: p[1], Buffer: buffer[p[1]]}
		asker.must(order{Op: "copy", Dst: to, Src: from, Size: size})
		sums[p[1]] = sums[p[0]]
		if got := owners[p[1]].must(order{Op: "sum", As: p[1], Data: buffer[p[1]], Size: size}); got.Sum != sums[p[0]] {
			t.Errorf("%s has another content than %s", p[1], p[0])
		}
		to.Offset = 1
		asker.fails(order{Op: "copy", Dst: to, Src: from, Size: size}, dvs.ErrRange)
	}
}

func TestLine09And10DeathAndRefusalProcesses(t *testing.T) {
	a, b := twoProcesses(t)
	for _, n := range []*killable{a, b} {
		server := startPuppet(t, b, "shop-"+n.name).bind("s")
		client := startPuppet(t, n, "shop-"+n.name)
		waiting := client.begin(order{Op: "sendrec", To: "s"})
		server.must(order{Op: "request", As: "s"})
		server.kill()
		wantTold(t, <-waiting, dvs.ErrDestinationDied)
		client.fails(order{Op: "sendrec", To: "s", Wait: -1}, dvs.ErrNotBound)
	}
	full := startPuppet(t, a, "full")
	full.must(order{Op: "bind", As: "s", Queue: 1})
	full.fails(order{Op: "bind", As: "s"}, dvs.ErrNameUsed)
	here, there := startPuppet(t, a, "full"), startPuppet(t, b, "full")
	both := []<-chan told{here.begin(order{Op: "sendrec", To: "s"}), there.begin(order{Op: "sendrec", To: "s"})}
	select { // one of the two finds the queue full
	case a := <-both[0]:
		wantTold(t, a, dvs.ErrOverrun)
	case a := <-both[1]:
		wantTold(t, a, dvs.ErrOverrun)
	}

	for _, socket := range []string{a.socket, dvshost.AdminSocket(a.socket)} { // nobody else enters a container, or moves what is in it
		if i, err := os.Stat(socket); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", socket, i.Mode(), err)
		}
	}

	server := startPuppet(t, b, "last").bind("s")
	local, remote := startPuppet(t, b, "last"), startPuppet(t, a, "last")
	waiting := []<-chan told{local.begin(order{Op: "sendrec", To: "s"}), remote.begin(order{Op: "sendrec", To: "s"})}
	server.must(order{Op: "request", As: "s"})
	server.must(order{Op: "request", As: "s"})
	b.kill()
	wantTold(t, <-waiting[0], dvs.ErrNotConnected)
	wantTold(t, <-waiting[1], dvs.ErrNodeGone)
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
	moved := make(chan error, 1)
	go func() {
		_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "s", To: "b"})
		moved <- err
	}()
	eventually(t, "the endpoint to be held", func() string {
		all, err := a.Endpoints(patient(t))
		for _, e := range all {
			if e.Name == "s" && e.State == "moving" {
				return ""
			}
		}
		return fmt.Sprint(all, err)
	})
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
	moved := make(chan error, 1)
	go func() {
		_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "s", To: "b"})
		moved <- err
	}()
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
	moved := make(chan error, 1)
	go func() {
		_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "s", To: "b"})
		moved <- err
	}()
	eventually(t, "the endpoint to be held", func() string {
		all, err := a.Endpoints(patient(t))
		if err != nil || len(all) != 1 || all[0].State != "moving" {
			return fmt.Sprint(all, err)
		}
		return ""
	})
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

// Line 26: the connections between the nodes break all the time, and nothing that passes is lost or comes twice. Line 28: the nodes say who is there.
func TestLine26And28BrokenLinksAndIntrospectionProcesses(t *testing.T) {
	t.Parallel()
	var breaking atomic.Bool
	a, b := startKillable(t, true, func([]byte) verdict {
		if breaking.Load() && rand.IntN(40) == 0 {
			return stop
		}
		return pass
	})
	server := startPuppet(t, b, "shop").bind("s")
	client := startPuppet(t, a, "shop").bind("c")
	server.echo("s", "")
	client.must(order{Op: "sendrec", To: "s"})
	breaking.Store(true)
	for i := range 400 {
		if got := client.must(order{Op: "sendrec", To: "s", Data: fmt.Sprint(i)}); got.Data != fmt.Sprint(i) {
			t.Fatalf("answer %d is %q", i, got.Data)
		}
	}
	breaking.Store(false)
	if got := server.must(order{Op: "state", As: "s"}); len(got.Data) != 401 {
		t.Errorf("it was asked %d times, not 401", len(got.Data))
	}
	eventually(t, "the link to be up, and counted", func() string {
		links, err := a.Links(patient(t))
		stats, err2 := a.Stats(patient(t))
		if err != nil || err2 != nil || len(links) != 1 || links[0].State != "up" || stats.Reconnects == 0 || stats.PacketsIn < 1 {
			return fmt.Sprintf("%+v %+v %v %v", links, stats, err, err2)
		}
		return ""
	})
	all, err := b.Endpoints(patient(t))
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, e := range all {
		want := dvshost.EndpointInfo{Container: "shop", Name: e.Name, State: "active", Node: "a", Epoch: e.Epoch, Serial: e.Serial, Watchers: e.Watchers}
		if e.Name == "s" {
			want.Node, want.Program, want.PID = "b", "puppet", server.cmd.Process.Pid
		}
		if e != want {
			t.Errorf("b knows %+v, want %+v", e, want)
		}
	}
}

// startPuppetLike runs a program where another is.
func startPuppetLike(t *testing.T, p *puppet) *puppet {
	t.Helper()
	q := newPuppet(t)
	q.must(p.place)
	return q
}
