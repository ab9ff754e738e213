package replica_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs/replica"
)

// cluster is three nodes, each a process with a replica.
type cluster struct {
	t     testing.TB
	base  command
	nodes map[string]*child
}

func newCluster(t testing.TB, kind replica.Kind) *cluster {
	c := &cluster{t: t, base: command{Kind: kind, Dir: t.TempDir(), Nodes: map[string]string{}, Groups: map[string]string{}}, nodes: map[string]*child{}}
	for _, n := range names {
		c.base.Nodes[n], c.base.Groups[n] = freeAddr(t), freeAddr(t)
	}
	t.Cleanup(c.tell)
	for _, n := range names {
		c.start(n)
	}
	c.full()
	return c
}

// tell shows who thinks what, if the test has failed.
func (c *cluster) tell() {
	if !c.t.Failed() {
		return
	}
	held, err := fileStore(c.base.Dir + "/store").Load(c.t.Context())
	c.t.Logf("the store holds %+v, %v", held, err)
	for n, p := range c.nodes {
		a, err := p.ask(command{Op: "status"})
		c.t.Logf("%s: %+v, %v, %v, ended %q, %v", n, a.Last, a.Members, a.Verdicts, a.Ended, err)
	}
}

// freeAddr returns where one may listen later. The IP address is one that nobody else uses: of 127.0.0.1 any port may be somebody's own by then, for
// connections that are made have theirs there.
func freeAddr(t testing.TB) string {
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *cluster) start(name string) {
	c.nodes[name] = startChild(c.t)
	r := c.base
	r.Op, r.Name = "node", name
	c.nodes[name].must(c.t, r)
}

func (c *cluster) kill(name string) {
	c.nodes[name].kill()
	delete(c.nodes, name)
}

// serving returns who says that it serves with the highest epoch.
func (c *cluster) serving() string {
	best, epoch := "", uint64(0)
	for n, p := range c.nodes {
		if a := p.must(c.t, command{Op: "status"}); a.Last.Serving && a.Last.Epoch > epoch {
			best, epoch = n, a.Last.Epoch
		}
	}
	return best
}

func (c *cluster) full() {
	c.t.Helper()
	eventually(c.t, "a full group", func() bool {
		n := c.serving()
		return n != "" && len(c.nodes[n].must(c.t, command{Op: "status"}).Members) == len(names)
	})
}

func (c *cluster) clients(on string, count int) *child {
	p := startChild(c.t)
	p.must(c.t, command{Op: "clients", Name: on, Dir: c.base.Dir, Count: count})
	return p
}

func progress(t testing.TB, more int, all ...*child) {
	t.Helper()
	for _, p := range all {
		was := p.must(t, command{Op: "tally"}).Tally.Requests
		eventually(t, "progress of clients", func() bool {
			y := p.must(t, command{Op: "tally"}).Tally
			return y.Requests >= was+more || len(y.Errors)+len(y.Wrong) > 0
		})
	}
}

// settle stops clients, and looks at what they have seen; all replicas must have the same in the end.
func (c *cluster) settle(all ...*child) {
	c.t.Helper()
	for _, p := range all {
		y := p.must(c.t, command{Op: "stop"}).Tally
		c.t.Logf("%d requests, longest %v", y.Requests, y.Longest.Round(time.Millisecond))
		for _, e := range slices.Concat(y.Errors, y.Wrong) {
			c.t.Error(e)
		}
	}
	eventually(c.t, "all replicas to have the same", func() bool {
		var first []byte
		for i, n := range names {
			b := c.nodes[n].must(c.t, command{Op: "machine"}).Machine
			if i == 0 {
				first = b
			} else if !bytes.Equal(b, first) {
				return false
			}
		}
		return true
	})
}

// others returns the nodes but one.
func others(name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

// Line 23: the primary is killed under load; a backup takes over, acknowledged writes are there, clients see no error. Line 24: the same with
// active replicas; those that are left agree, clients are redirected.
func TestLine23And24ThePrimaryIsKilled(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind replica.Kind) {
		c := newCluster(t, kind)
		was := c.serving()
		var clients []*child
		for _, n := range others(was) {
			clients = append(clients, c.clients(n, 4))
		}
		progress(t, 200, clients...)
		c.kill(was)
		progress(t, 200, clients...)
		if now := c.serving(); now == was || now == "" {
			t.Errorf("%q serves, %s was killed", now, was)
		}
		c.start(was) // it begins with nothing, and is given everything
		c.full()
		progress(t, 100, clients...)
		c.settle(clients...)
	})
}

// Line 24: one that does not lead is killed.
func TestLine24AFollowerIsKilled(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind replica.Kind) {
		c := newCluster(t, kind)
		was := c.serving()
		dead := others(was)[0]
		clients := []*child{c.clients(was, 4), c.clients(others(was)[1], 4)}
		progress(t, 200, clients...)
		c.kill(dead)
		progress(t, 200, clients...)
		c.start(dead)
		c.full()
		c.settle(clients...)
	})
}

// Line 25: death is in line 23. A partition: those on the other side hold, then are rebound to a new primary; when it heals, the old one has to go
// along. A short silence is a rollback.
func TestLine25TheWatcherHoldsKeepsAndRebinds(t *testing.T) {
	t.Parallel()
	c := newCluster(t, replica.Passive)
	clients := map[string]*child{}
	for _, n := range names {
		clients[n] = c.clients(n, 3)
	}
	progress(t, 100, slices.Collect(maps.Values(clients))...)
	was, next := c.cutOff()
	before := len(c.verdicts(was))
	for _, n := range others(was) { // those with the old primary wait for the end of the partition
		progress(t, 100, clients[n])
		if v := c.verdicts(n); !slices.Contains(v, "rebind "+next) {
			t.Errorf("%s was not sent to %s: %v", n, next, v)
		}
	}
	if v := c.verdicts(next); !slices.Contains(v, "hold "+was) {
		t.Errorf("%s took over from %s without having suspected it: %v", next, was, v)
	}
	c.cut(was, false)
	c.full()
	progress(t, 100, slices.Collect(maps.Values(clients))...)
	if v := c.verdicts(was)[before:]; !slices.ContainsFunc(v, func(s string) bool { return strings.HasPrefix(s, "rebind ") }) {
		t.Errorf("%s had to go along, and was told %v", was, v)
	}
	c.settle(slices.Collect(maps.Values(clients))...)
}

// cut parts a node from the others, or joins them.
func (c *cluster) cut(name string, yes bool) {
	for _, n := range names {
		var peers []string
		switch {
		case !yes:
		case n == name:
			peers = others(name)
		default:
			peers = []string{name}
		}
		c.nodes[n].must(c.t, command{Op: "cut", Cut: peers})
	}
}

// cutOff parts the primary from the others, and returns it and who takes over. On a machine that is busy the others may have been too slow just before,
// and be listed no more, or the old primary may be first at the store: then it goes on alone, and it is tried again.
func (c *cluster) cutOff() (was, next string) {
	for {
		c.full()
		if was = c.serving(); was == "" {
			continue
		}
		c.cut(was, true)
		alone := false
		eventually(c.t, "another primary", func() bool {
			held, err := fileStore(c.base.Dir + "/store").Load(c.t.Context())
			alone = err == nil && held.Primary.Name == was && len(held.Synced) == 1
			next = c.serving()
			return alone || next != "" && next != was
		})
		if !alone {
			return was, next
		}
		c.cut(was, false)
	}
}

func (c *cluster) verdicts(name string) []string {
	return c.nodes[name].must(c.t, command{Op: "status"}).Verdicts
}
