package node_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/node"
)

// cluster is some nodes, each a process, all linked over loopback.
type cluster struct {
	names   []string
	node    map[string]*child
	socket  map[string]string
	addr    map[string]string
	timeout time.Duration
	epoch   uint64
}

func startCluster(t testing.TB, names ...string) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{
		names: names, node: map[string]*child{}, socket: map[string]string{}, addr: map[string]string{},
		timeout: linkTimeout, epoch: 100,
	}
	for _, name := range names {
		c.addr[name] = freeAddr(t)
		c.socket[name] = filepath.Join(dir, name)
	}
	for _, name := range names {
		c.startNode(t, name)
	}
	for i, a := range names {
		for _, b := range names[i+1:] {
			c.node[b].must(t, "link", request{Name: a})
			c.node[a].must(t, "link", request{Name: b, Addr: c.addr[b]})
		}
	}
	return c
}

// freeAddr returns an address at which a child can listen, also again. It is one of loopback that belongs to this process: connections
// of others, which begin at 127.0.0.1, cannot have taken the port meanwhile.
func freeAddr(t testing.TB) string {
	t.Helper()
	pid := os.Getpid()
	own := net.IPv4(127, byte(64+pid>>16&63), byte(pid>>8), byte(pid))
	l, err := net.Listen("tcp", net.JoinHostPort(own.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *cluster) startNode(t testing.TB, name string) {
	_ = os.Remove(c.socket[name]) // of one that was killed
	c.node[name] = start(t, "node")
	c.node[name].must(t, "node", request{Name: name, Socket: c.socket[name], Addr: c.addr[name], Timeout: c.timeout})
}

// serve starts a server process on a node.
func (c *cluster) serve(t testing.TB, on, name string, standby bool, size int) *child {
	t.Helper()
	return c.serveAs(t, on, request{Endpoint: name, Standby: standby, Size: size})
}

// servePaged starts one whose state moves in pieces.
func (c *cluster) servePaged(t testing.TB, on, name string, standby bool, size int) *child {
	t.Helper()
	return c.serveAs(t, on, request{Endpoint: name, Standby: standby, Size: size, Paged: true})
}

func (c *cluster) serveAs(t testing.TB, on string, r request) *child {
	t.Helper()
	p := start(t, "server")
	r.Socket, r.Container = c.socket[on], "c"
	p.must(t, "serve", r)
	if name := r.Endpoint; r.Standby {
		eventually(t, "a standby on "+on, func() bool { return c.info(t, on, name).Standby })
	}
	return p
}

// clients starts a process with clients on a node.
func (c *cluster) clients(t testing.TB, on, name string, count int) *child {
	t.Helper()
	return c.clientsAs(t, on, request{Endpoint: name, Count: count})
}

func (c *cluster) clientsAs(t testing.TB, on string, r request) *child {
	t.Helper()
	p := start(t, "clients")
	r.Socket, r.Container, r.Name, r.Timeout = c.socket[on], "c", "clients-on-"+on, time.Minute
	p.must(t, "clients", r)
	return p
}

func (c *cluster) info(t testing.TB, on, name string) node.EndpointInfo {
	t.Helper()
	for _, i := range c.node[on].must(t, "info", request{}).Info {
		if i.Name == name {
			return i
		}
	}
	return node.EndpointInfo{}
}

func (c *cluster) do(on, name string, epoch uint64, step [3]string, peer string) error {
	_, err := c.node[on].ask(request{Op: "do", Command: node.Command{
		Container: "c", Endpoint: name, Participant: step[0], Role: step[1], Verb: step[2], Epoch: epoch, Peer: peer,
	}, Timeout: 20 * time.Second})
	if err != nil {
		return fmt.Errorf("%v on %s: %w", step, on, err)
	}
	return nil
}

// The steps, in order. The commit is decided between quiesce and commit.
var (
	prepareProcess   = [3]string{"process", "destination", endpoint.VerbPrepare}
	prepareEndpoint  = [3]string{"endpoint", "source", endpoint.VerbPrepare}
	convergeProcess  = [3]string{"process", "source", endpoint.VerbConverge}
	quiesceEndpoint  = [3]string{"endpoint", "source", endpoint.VerbQuiesce}
	commitNew        = [3]string{"endpoint", "destination", endpoint.VerbCommit}
	commitOld        = [3]string{"endpoint", "source", endpoint.VerbCommit}
	optimizeEndpoint = [3]string{"endpoint", "destination", endpoint.VerbOptimize}
	releaseEndpoint  = [3]string{"endpoint", "source", endpoint.VerbRelease}
	abortOld         = [3]string{"endpoint", "source", endpoint.VerbAbort}
	abortNew         = [3]string{"process", "destination", endpoint.VerbAbort}
)

// ready takes a move up to the point where it is decided.
func (c *cluster) ready(name, from, to string, epoch uint64) error {
	for _, s := range []struct {
		on   string
		step [3]string
		peer string
	}{{to, prepareProcess, from}, {from, prepareEndpoint, to}, {from, convergeProcess, to}, {from, quiesceEndpoint, to}} {
		if err := c.do(s.on, name, epoch, s.step, s.peer); err != nil {
			return err
		}
	}
	return nil
}

// finish carries a decided move through.
func (c *cluster) finish(name, from, to string, epoch uint64) error {
	for _, s := range []struct {
		on   string
		step [3]string
		peer string
	}{{to, commitNew, from}, {from, commitOld, to}, {to, optimizeEndpoint, from}, {from, releaseEndpoint, to}} {
		if err := c.do(s.on, name, epoch, s.step, s.peer); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) rollBack(name, from, to string, epoch uint64) error {
	return errors.Join(c.do(to, name, epoch, abortNew, from), c.do(from, name, epoch, abortOld, to))
}

// move does a whole migration with the next epoch.
func (c *cluster) move(t testing.TB, name, from, to string) {
	t.Helper()
	c.epoch++
	if err := c.ready(name, from, to, c.epoch); err != nil {
		t.Fatal(err)
	}
	if err := c.finish(name, from, to, c.epoch); err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// progress waits until clients have made so many more requests.
func progress(t testing.TB, p *child, more uint64) {
	t.Helper()
	was := p.must(t, "tally", request{}).Tally.Requests
	eventually(t, "progress", func() bool {
		now := p.must(t, "tally", request{}).Tally
		return now.Requests >= was+more || len(now.Errors) > 0
	})
}

// settle stops the clients, and compares what they have seen with the server's state.
func settle(t testing.TB, owner *child, name string, clients ...*child) {
	t.Helper()
	var requests uint64
	for _, p := range clients {
		y := p.must(t, "stop", request{}).Tally
		requests += y.Requests
		if len(y.Errors) > 0 || y.Wrong > 0 {
			t.Errorf("clients: %d wrong answers, errors %v", y.Wrong, y.Errors)
		}
		t.Logf("%d requests, longest %v", y.Requests, y.Longest)
	}
	s := shown(t, owner, name)
	if len(s.Faults) > 0 {
		t.Errorf("lost or doubled: %v", s.Faults)
	}
	if s.Total != requests {
		t.Errorf("the server has executed %d requests, the clients made %d", s.Total, requests)
	}
}

func shown(t testing.TB, owner *child, name string) state {
	t.Helper()
	var s state
	if err := json.Unmarshal([]byte(owner.must(t, "state", request{Endpoint: name}).Text), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// linkTimeout is long enough for a machine that is busy with other tests.
const linkTimeout = 3 * time.Second
