package node_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/godwit-project/godwit/dvs"
)

// Lines 1, 11 and 14: closed-loop clients on every node while the server moves from node to node, in all three scenarios.
func TestLine11MovesLoseAndDoubleNothing(t *testing.T) {
	c := startCluster(t, "a", "b", "c")
	c.serve(t, "a", "kv", false, 1000)
	onA, onB, onC := c.clients(t, "a", "kv", 3), c.clients(t, "b", "kv", 3), c.clients(t, "c", "kv", 2)
	all := []*child{onA, onB, onC}
	owner := (*child)(nil)
	for _, m := range [][2]string{{"a", "b"}, {"b", "c"}, {"c", "a"}} { // away from clients, to clients, of three nodes
		for _, p := range all {
			progress(t, p, 30)
		}
		owner = c.serve(t, m[1], "kv", true, 0)
		c.move(t, "kv", m[0], m[1])
	}
	for _, p := range all {
		progress(t, p, 30)
	}
	settle(t, owner, "kv", all...)
}

// Line 21: counter and memory are the same after each move of a chain that ends where it began.
func TestLine21AChainOfMovesKeepsTheState(t *testing.T) {
	c := startCluster(t, "a", "b", "c")
	owner := c.serve(t, "a", "kv", false, 1<<20)
	clients := c.clients(t, "b", "kv", 2)
	progress(t, clients, 50)
	clients.must(t, "stop", request{})
	want := shown(t, owner, "kv")
	for _, m := range [][2]string{{"a", "b"}, {"b", "c"}, {"c", "a"}} {
		old := owner
		owner = c.serve(t, m[1], "kv", true, 0)
		c.move(t, "kv", m[0], m[1])
		old.kill() // nothing depends on it any more
		if got := shown(t, owner, "kv"); got.Total != want.Total || !bytes.Equal(got.Memory, want.Memory) {
			t.Errorf("%v: total %d, memory %x, want %d, %x", m, got.Total, got.Memory, want.Total, want.Memory)
		}
	}
	again := c.clients(t, "c", "kv", 1)
	progress(t, again, 5)
	if y := again.must(t, "stop", request{}).Tally; len(y.Errors) > 0 {
		t.Error(y.Errors)
	}
}

// Line 18, the quick part: the target's process dies when it has the state, the move is rolled back; then it dies once more when the
// move is decided, and the name is free for a new process. Others are in chaos_lab_test.go.
func TestLine18TheTargetDies(t *testing.T) {
	c := startCluster(t, "a", "b")
	c.serve(t, "a", "kv", false, 0)
	clients := c.clients(t, "a", "kv", 2)
	target := c.serve(t, "b", "kv", true, 0)
	if err := c.ready("kv", "a", "b", 200); err != nil {
		t.Fatal(err)
	}
	target.kill()
	eventually(t, "the target's end", func() bool { return !c.info(t, "b", "kv").Standby })
	if err := c.rollBack("kv", "a", "b", 200); err != nil {
		t.Fatal(err)
	}
	progress(t, clients, 20)
	target = c.serve(t, "b", "kv", true, 0)
	if err := c.ready("kv", "a", "b", 201); err != nil {
		t.Fatal(err)
	}
	if err := c.do("b", "kv", 201, commitNew, "a"); err != nil {
		t.Fatal(err)
	}
	progress(t, clients, 20) // they have found it
	target.kill()
	if err := c.do("a", "kv", 201, commitOld, "b"); err != nil {
		t.Fatal(err)
	}
	c.serve(t, "a", "kv", false, 0) // before the clients stop: one that had nothing under way waits for the name
	for _, e := range clients.must(t, "stop", request{}).Tally.Errors {
		if !strings.Contains(e, dvs.ErrOutcomeUnknown.Error()) {
			t.Error(e)
		}
	}
	again := c.clients(t, "b", "kv", 1)
	progress(t, again, 5)
	if y := again.must(t, "stop", request{}).Tally; len(y.Errors) > 0 {
		t.Error(y.Errors)
	}
}
