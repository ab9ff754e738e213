package node_test

import "testing"

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
