//go:build lab

package node_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
)

// Line 18: whoever dies, at whatever step: in the end there is one owner, and no client has waited beyond its time.
func TestLine18Chaos(t *testing.T) {
	stages := []string{"prepared", "quiesced", "decided", "committed"}
	victims := []string{"source process", "target process", "source node", "target node", "client node", "coordinator"}
	for _, stage := range stages {
		for _, victim := range victims {
			t.Run(stage+", "+victim, func(t *testing.T) { chaos(t, stage, victim) })
		}
	}
}

func chaos(t *testing.T, stage, victim string) {
	c := startCluster(t, "a", "b", "c")
	source := c.serve(t, "a", "kv", false, 0)
	target := c.serve(t, "b", "kv", true, 0)
	clients := []*child{c.shortClients(t, "a"), c.shortClients(t, "b"), c.shortClients(t, "c")}
	for _, p := range clients {
		progress(t, p, 10)
	}
	const epoch = 300
	steps := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	steps(c.do("b", "kv", epoch, prepareProcess, "a"))
	steps(c.do("a", "kv", epoch, prepareEndpoint, "b"))
	if stage != "prepared" {
		steps(c.do("a", "kv", epoch, quiesceEndpoint, "b"))
	}
	if stage == "committed" {
		steps(c.do("b", "kv", epoch, commitNew, "a"))
	}
	dead := map[string]bool{}
	switch victim {
	case "source process":
		source.kill()
	case "target process":
		target.kill()
	case "source node", "target node", "client node":
		name := map[string]string{"source node": "a", "target node": "b", "client node": "c"}[victim]
		c.node[name].kill()
		dead[name] = true
	case "coordinator": // a new one knows only the decision, and asks for everything again
	}
	for range 2 {
		if stage == "prepared" || stage == "quiesced" {
			_ = c.rollBack("kv", "a", "b", epoch)
		} else {
			_ = c.finish("kv", "a", "b", epoch)
		}
	}
	if stage == "committed" && dead["b"] {
		steps(c.do("a", "kv", epoch, commitOld, "b"))
	}
	if stage == "decided" && (victim == "target process" || victim == "target node") {
		// Decided, but it never became the owner: the source still has everything, and a new epoch takes it elsewhere.
		c.serve(t, "c", "kv", true, 0)
		steps(c.ready("kv", "a", "c", epoch+1))
		steps(c.finish("kv", "a", "c", epoch+1))
	}
	for _, p := range clients {
		y := p.must(t, "stop", request{}).Tally
		if y.Wrong > 0 || y.Longest > 5*time.Second {
			t.Errorf("%d wrong answers, longest %v", y.Wrong, y.Longest)
		}
		for _, e := range y.Errors {
			if !strings.Contains(e, "outcome unknown") && !strings.Contains(e, "connection to the node is gone") && !strings.Contains(e, "no answer in time") {
				t.Error(e)
			}
		}
	}
	owners := func() (n int) {
		for name := range c.node {
			if !dead[name] {
				if i := c.info(t, name, "kv"); i.PID != 0 && i.State == endpoint.Open {
					n++
				}
			}
		}
		return n
	}
	on := "c"
	if dead[on] {
		on = "a"
	}
	if owners() == 0 { // it died: the name must be free for a new process, once the others know
		eventually(t, "a new owner", func() bool {
			p := start(t, "server")
			_, err := p.ask(request{Op: "serve", Socket: c.socket[on], Container: "c", Endpoint: "kv"})
			return err == nil
		})
	}
	again := c.shortClients(t, on)
	eventually(t, "answers", func() bool {
		y := again.must(t, "tally", request{}).Tally
		return y.Requests >= 5 || len(y.Errors) > 0
	})
	if y := again.must(t, "stop", request{}).Tally; len(y.Errors) > 0 {
		t.Error(y.Errors)
	}
	if n := owners(); n != 1 {
		t.Errorf("%d owners", n)
	}
}

func (c *cluster) shortClients(t testing.TB, on string) *child {
	p := start(t, "clients")
	p.must(t, "clients", request{
		Socket: c.socket[on], Container: "c", Endpoint: "kv", Name: fmt.Sprint("short-", on, time.Now().UnixNano()), Count: 1, Timeout: 3 * time.Second,
	})
	return p
}

// Line 12: a hundred clients on three nodes, with all kinds of calls and copies both ways, while the server moves five times.
func TestLine12AHundredClients(t *testing.T) {
	c := startCluster(t, "a", "b", "c")
	c.serve(t, "a", "kv", false, 1000)
	var all []*child
	for on, count := range map[string]int{"a": 34, "b": 33, "c": 33} {
		all = append(all, c.clientsAs(t, on, request{Endpoint: "kv", Count: count, Copies: true}))
	}
	owner := (*child)(nil)
	for _, m := range [][2]string{{"a", "b"}, {"b", "c"}, {"c", "b"}, {"b", "a"}, {"a", "c"}} {
		for _, p := range all {
			progress(t, p, 300)
		}
		owner = c.serve(t, m[1], "kv", true, 0)
		c.move(t, "kv", m[0], m[1])
	}
	settle(t, owner, "kv", all...)
}
