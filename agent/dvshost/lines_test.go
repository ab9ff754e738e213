package dvshost_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
)

// The lines of the acceptance list, each with two nodes and all programs in processes of their own: what one process of dvs/node's tests shows in more
// depth is shown here to hold between processes.

// twoProcesses runs nodes a and b.
func twoProcesses(t *testing.T, change ...func(*processOptions)) (a, b *killable) {
	t.Helper()
	t.Parallel()
	return startKillable(t, true, func([]byte) verdict { return pass }, change...)
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
		for range 2 { // those that came one by one over a link, after another was taken
			if got.Kind == "notify" && got.From == "c" {
				got = server.must(order{Op: "receive", As: "s"})
			}
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

func TestLine09DeathProcesses(t *testing.T) {
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

	server := startPuppet(t, b, "last").bind("s")
	local, remote := startPuppet(t, b, "last"), startPuppet(t, a, "last")
	waiting := []<-chan told{local.begin(order{Op: "sendrec", To: "s"}), remote.begin(order{Op: "sendrec", To: "s"})}
	server.must(order{Op: "request", As: "s"})
	server.must(order{Op: "request", As: "s"})
	b.kill()
	wantTold(t, <-waiting[0], dvs.ErrNotConnected)
	wantTold(t, <-waiting[1], dvs.ErrNodeGone)
}

// startPuppetLike runs a program where another is.
func startPuppetLike(t *testing.T, p *puppet) *puppet {
	t.Helper()
	q := newPuppet(t)
	q.must(p.place)
	return q
}
