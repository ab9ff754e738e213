package dvshost_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/godwit-project/godwit/agent/dvshost"
)

// threeProcesses runs nodes a, b and c.
func threeProcesses(t *testing.T, change ...func(*processOptions)) map[string]*killable {
	t.Helper()
	t.Parallel()
	return startProcesses(t, true, threeNames, nil, change...)
}

var threeNames = []string{"a", "b", "c"}

// moveLedger moves it to a program of its own at another node, and returns that.
func moveLedger(t *testing.T, from, to *killable, container, name string) *puppet {
	t.Helper()
	next := startPuppet(t, to, container)
	taken := next.begin(order{Op: "ledger", As: name, Standby: true})
	eventually(t, "a standby at "+to.name, func() string {
		all, err := to.Endpoints(patient(t))
		if err != nil || !slices.ContainsFunc(all, func(e dvshost.EndpointInfo) bool { return e.Container == container && e.Name == name && e.Standby }) {
			return fmt.Sprint(all, err)
		}
		return ""
	})
	from.move(t, container, name, to.name, false)
	next.fine(taken, order{Op: "ledger"})
	return next
}

// settleCounter ends clients that add 1 to a counter which was at this before, and holds what they were told against what it is: each number was told
// once, and none is left out.
func settleCounter(t *testing.T, was int64, at *killable, container, name string, clients ...*puppet) int64 {
	t.Helper()
	var all []int64
	for _, y := range rested(t, clients...) {
		all = append(all, y.Answers...)
	}
	slices.Sort(all)
	for i, n := range all {
		if n != was+int64(i)+1 {
			t.Fatalf("of %d requests after %d one is answered %d, the next of the others %d", len(all), was, was+int64(i), n)
		}
	}
	now := was + int64(len(all))
	if got := at.ask(t, container, name, "0"); got != fmt.Sprint(now) {
		t.Errorf("the counter is %s, and was told to be %d", got, now)
	}
	t.Logf("%d requests, each once", len(all))
	return now
}

// Line 1: three nodes, a server at each, and clients of each at each of them. All clients run the same program, which is told its node's socket and a name:
// everything that it may call does the same beside the server and elsewhere.
func TestLine01OneInterfaceWhereverTheServerIsProcesses(t *testing.T) {
	nodes := threeProcesses(t)
	for _, at := range threeNames {
		server := startPuppet(t, nodes[at], "shop-"+at).keep("s", 1000)
		var clients []*puppet
		for i, from := range threeNames {
			clients = append(clients, startLoadAt(t, nodes[from], loadSpec{Container: "shop-" + at, To: "s", Name: "at-" + from, Count: 1, First: i}))
		}
		advance(t, 10, clients...)
		settleLedger(t, server, "s", clients...)
	}
}

// Line 11, the three scenarios: the server moves to its clients' node, away from it, and between two nodes that are not theirs. Nobody sees an error, and
// nothing is lost or comes twice, whether the server is a program or a module.
func TestLine11TheThreeScenariosProcesses(t *testing.T) {
	nodes := threeProcesses(t)
	for _, c := range []struct{ what, at string }{{"to the clients", "b"}, {"away from the clients", "a"}, {"of three nodes", "c"}} {
		program := "program " + c.what
		startPuppet(t, nodes["a"], program).keep("s", 100_000)
		clients := startLoadAt(t, nodes[c.at], loadSpec{Container: program, To: "s", Name: "client", Count: 4})
		advance(t, 20, clients)
		server := moveLedger(t, nodes["a"], nodes["b"], program, "s")
		advance(t, 20, clients)
		settleLedger(t, server, "s", clients)

		container := "module " + c.what
		nodes["a"].run(t, container, "counter", module(t, built.counter))
		clients = startLoadAt(t, nodes[c.at], loadSpec{Container: container, To: "counter", Name: "client", Count: 4, Request: "1"})
		advance(t, 20, clients)
		nodes["a"].move(t, container, "counter", "b", false)
		advance(t, 20, clients)
		settleCounter(t, 0, nodes["c"], container, "counter", clients)
	}
}

// Line 12: a hundred clients at three nodes send, ask, notify and copy while the server moves. Nobody sees an error, and nothing is lost or comes twice.
func TestLine12AHundredClientsWhileItMovesProcesses(t *testing.T) {
	nodes := threeProcesses(t)
	server := startPuppet(t, nodes["a"], "shop").keep("s", 10_000)
	var clients []*puppet
	for i := range 10 {
		at := nodes[threeNames[i%3]]
		clients = append(clients, startLoadAt(t, at, loadSpec{Container: "shop", To: "s", Name: fmt.Sprintf("p%d-", i), Count: 10, First: 10 * i}))
	}
	for i := range 6 { // in each move, few of so many calls come when the server is held already
		advance(t, 5, clients...)
		server = moveLedger(t, nodes[threeNames[i%3]], nodes[threeNames[(i+1)%3]], "shop", "s")
	}
	advance(t, 5, clients...)
	settleLedger(t, server, "s", clients...)
}

// Line 21: the counter and the checksum of a memory are the same after each move of a chain that ends where it began, and nothing depends on where it was:
// of a program, whose memory is random, and of a module.
func TestLine21AChainOfMovesKeepsTheStateProcesses(t *testing.T) {
	nodes := threeProcesses(t)
	server := startPuppet(t, nodes["a"], "shop").keep("s", 1<<20)
	clients := startLoadAt(t, nodes["b"], loadSpec{Container: "shop", To: "s", Name: "client", Count: 2})
	advance(t, 50, clients)
	settleLedger(t, server, "s", clients)
	want, sum := ledgerAt(t, server, "s")
	counter := module(t, built.counter)
	nodes["a"].run(t, "shop", "counter", counter)
	nodes["b"].ask(t, "shop", "counter", "fill 2500000")
	nodes["c"].ask(t, "shop", "counter", "42")
	checksum := nodes["a"].ask(t, "shop", "counter", "checksum")
	if checksum != fmt.Sprint(filledSum(2_500_000, 0, 0)) {
		t.Errorf("the checksum is %s", checksum)
	}
	for i, at := range threeNames {
		from, to := nodes[at], nodes[threeNames[(i+1)%3]]
		old := server
		server = moveLedger(t, from, to, "shop", "s")
		old.kill()
		if got, now := ledgerAt(t, server, "s"); now != sum || got.Total != want.Total || fmt.Sprint(got.Last) != fmt.Sprint(want.Last) {
			t.Errorf("at %s the program has %+v and checksum %d, not %+v and %d", to.name, got, now, want, sum)
		}
		from.move(t, "shop", "counter", to.name, i == 1)
		if got, now := from.ask(t, "shop", "counter", "0"), from.ask(t, "shop", "counter", "checksum"); got != "42" || now != checksum {
			t.Errorf("at %s the module has %s and checksum %s, not 42 and %s", to.name, got, now, checksum)
		}
	}
	nodes["b"].kill()
	nodes["c"].kill()
	if got := nodes["a"].ask(t, "shop", "counter", "checksum"); got != checksum {
		t.Errorf("alone it has checksum %s, not %s", got, checksum)
	}
}

// filledSum is the checksum of counter's memory after "fill size" and so many times "touch length".
func filledSum(size, touches, length int) int64 {
	sum := uint64(14695981039346656037)
	for i := range size {
		b := byte(uint32(i)*2654435761>>24 | 1)
		if i < length && i%4096 == 0 {
			b += byte(touches)
		}
		sum = (sum ^ uint64(b)) * 1099511628211
	}
	return int64(sum >> 1)
}

// Line 22: a module moves frozen and pre-copied, with states of several sizes that its clients change meanwhile, and arrives as it was. How long it
// was held is told.
func TestLine22FrozenAndPreCopiedProcesses(t *testing.T) {
	const touched = 1 << 20 // bytes, of each page one
	nodes := threeProcesses(t)
	nodes["a"].run(t, "shop", "counter", module(t, built.counter))
	at, to := nodes["a"], nodes["b"]
	for _, size := range []int{64 << 10, 2_500_000, 16 << 20} {
		for _, frozen := range []bool{true, false} {
			at.ask(t, "shop", "counter", fmt.Sprint("fill ", size))
			clients := []*puppet{
				startLoadAt(t, at, loadSpec{Container: "shop", To: "counter", Name: "here", Count: 1, Request: fmt.Sprint("touch ", touched)}),
				startLoadAt(t, nodes["c"], loadSpec{Container: "shop", To: "counter", Name: "elsewhere", Count: 1, Request: fmt.Sprint("touch ", touched)}),
			}
			advance(t, 5, clients...)
			done := at.move(t, "shop", "counter", to.name, frozen)
			advance(t, 5, clients...)
			touches := 0
			for _, y := range rested(t, clients...) {
				touches += len(y.Answers)
			}
			want := strconv.FormatInt(filledSum(size, touches, touched), 10)
			if got := nodes["c"].ask(t, "shop", "counter", "checksum"); got != want {
				t.Errorf("%d bytes, frozen %v: after %d times the checksum is %s, not %s", size, frozen, touches, got, want)
			}
			if (done.Rounds == 0) != frozen || !frozen && done.PagesSent<<12 < size {
				t.Errorf("%d bytes, frozen %v: %+v", size, frozen, done)
			}
			t.Logf("%d bytes, frozen %v: held for %.1f ms of %.1f ms, %d pages in %d rounds before", size, frozen, done.HeldMs, done.TotalMs, done.PagesSent, done.Rounds)
			at, to = to, at
		}
	}
}
