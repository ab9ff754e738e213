package dvshost_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs/node"
)

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

// Line 26: with batching, compression, both and neither, nothing is lost and nothing comes twice while the connections between the nodes break; what is
// compressed is small there, and what waits for a connection goes at once.
func TestLine26BatchesAndCompressionProcesses(t *testing.T) {
	t.Parallel()
	for name, links := range map[string]node.LinkOptions{
		"neither":     {Single: true, Compress: node.CompressNever},
		"batch":       {Compress: node.CompressNever},
		"compression": {Single: true, Compress: node.CompressAlways},
		"both":        {Compress: node.CompressAlways},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const requests, names = 100, 30
			var breaking, dark atomic.Bool
			var said atomic.Int64
			a, b := startKillable(t, true, func(b []byte) verdict {
				if said.Add(int64(len(b))); dark.Load() || breaking.Load() && rand.IntN(20) == 0 {
					return stop
				}
				return pass
			}, func(o *processOptions) { o.Links = links })
			server, client := startPuppet(t, b, "shop").bind("s"), startPuppet(t, a, "shop").bind("c")
			server.echo("s", "")
			ask := func() {
				for i := range requests {
					text := fmt.Sprint(i, strings.Repeat(" and so on", 200))
					if got := client.must(order{Op: "sendrec", As: "c", To: "s", Data: text}); got.Data != text {
						t.Fatalf("answer %d is %q", i, got.Data)
					}
				}
			}
			client.must(order{Op: "sendrec", As: "c", To: "s"})
			said.Store(0)
			ask()
			if took := said.Load(); (took < requests*1000) != (links.Compress == node.CompressAlways) {
				t.Errorf("%d requests of 2,000 bytes took %d", requests, took)
			}
			breaking.Store(true)
			ask()
			breaking.Store(false)
			if got := server.must(order{Op: "state", As: "s"}); len(got.Data) != 2*requests+1 {
				t.Errorf("it was asked %d times, not %d", len(got.Data), 2*requests+1)
			}

			for i := range names {
				server.bind(fmt.Sprint("n", i))
				client.must(order{Op: "notify", As: "c", To: fmt.Sprint("n", i)})
				server.must(order{Op: "receive", As: fmt.Sprint("n", i)}) // its way is known at a then
			}
			dark.Store(true)
			client.begin(order{Op: "sendrec", As: "c", To: "s"}) // whatever is said now breaks the connection
			eventually(t, "the link to be down", func() string {
				links, err := a.Links(patient(t))
				if err != nil || len(links) != 1 || links[0].State != "down" {
					return fmt.Sprint(links, err)
				}
				return ""
			})
			before, err := a.Stats(patient(t))
			for i := range names {
				client.must(order{Op: "notify", As: "c", To: fmt.Sprint("n", i)})
			}
			dark.Store(false)
			for i := range names {
				if got := server.must(order{Op: "receive", As: fmt.Sprint("n", i)}); got.Kind != "notify" {
					t.Errorf("n%d received %+v", i, got)
				}
			}
			after, err2 := a.Stats(patient(t))
			if writes := after.Writes - before.Writes; err != nil || err2 != nil || (writes < names) == links.Single {
				t.Errorf("%d notifications took %d writes: %v, %v", names, writes, err, err2)
			}
		})
	}
}
