package dvshost_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/examples"
	"github.com/godwit-project/godwit/server/native"
)

// built compiles each example once.
var built struct {
	kv, counter func() ([]byte, error)
	cache       string
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == shepherd {
		if err := native.Shepherd(); err != nil {
			panic(err)
		}
		return
	}
	if len(os.Args) == 2 && os.Args[1] == survivor {
		runSurvivor()
	}
	if os.Getenv(puppetEnv) != "" {
		runPuppet()
	}
	if spec := os.Getenv(nodeSpec); spec != "" {
		nodeProcess(spec)
		return
	}
	directory, err := os.MkdirTemp("", "godwit-dvshost-")
	if err != nil {
		panic(err)
	}
	built.cache = filepath.Join(directory, "cache")
	built.kv = sync.OnceValues(func() ([]byte, error) { return examples.KV(context.Background(), directory) })
	built.counter = sync.OnceValues(func() ([]byte, error) { return examples.Counter(context.Background(), directory) })
	code := m.Run()
	_ = os.RemoveAll(directory)
	os.Exit(code)
}

func module(t testing.TB, build func() ([]byte, error)) []byte {
	t.Helper()
	b, err := build()
	if errors.Is(err, examples.ErrNoClang) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// patient is a context for what should take milliseconds.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // compiling with the race detector takes one
	t.Cleanup(cancel)
	return ctx
}

// testNode is a node that runs alone, in this process.
type testNode struct {
	*dvshost.Client
	name, socket, address string
	stop                  func()
}

// freeAddress returns where one may listen, now and again later. The IP address is one that nobody else uses: of 127.0.0.1 any port may be somebody's own
// by then, for connections that are made have theirs there.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startNodes runs nodes that know each other.
func startNodes(t testing.TB, change func(*dvshost.NodeOptions), names ...string) map[string]*testNode {
	t.Helper()
	directory := t.TempDir()
	all, addresses := map[string]*testNode{}, map[string]string{}
	for _, name := range names {
		addresses[name] = freeAddress(t)
	}
	for _, name := range names {
		n := &testNode{name: name, socket: filepath.Join(directory, name), address: addresses[name]}
		n.Client = dvshost.NewClient(n.socket)
		o := dvshost.NodeOptions{Name: name, Socket: n.socket, Listen: n.address, Peers: map[string]string{}, Cache: built.cache}
		for other, address := range addresses {
			if other != name {
				o.Peers[other] = address
			}
		}
		if change != nil {
			change(&o)
		}
		n.start(t, o)
		all[name] = n
	}
	return all
}

func (n *testNode) start(t testing.TB, o dvshost.NodeOptions) {
	t.Helper()
	ready := make(chan struct{})
	o.Ready = func(string) { close(ready) }
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	failed := make(chan error, 1)
	wg.Go(func() { failed <- dvshost.Serve(ctx, o) })
	select {
	case <-ready:
	case err := <-failed:
		cancel()
		t.Fatal(err)
	}
	n.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(n.stop)
}

func (n *testNode) session(t testing.TB, container string) *dvs.Session {
	t.Helper()
	s, err := dvs.Connect(patient(t), n.socket, dvs.Options{Container: container})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func (n *testNode) run(t testing.TB, container, name string, module []byte) {
	t.Helper()
	if err := n.Run(patient(t), container, name, module, "", "1m"); err != nil {
		t.Fatal(err)
	}
}

func (n *testNode) ask(t testing.TB, container, name, request string) string {
	t.Helper()
	b, err := n.Call(patient(t), container, name, []byte(request), "1m")
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	return string(b)
}

func (n *testNode) move(t testing.TB, container, name, to string, frozen bool) dvshost.MoveInfo {
	t.Helper()
	done, err := n.Move(patient(t), dvshost.MoveRequest{Container: container, Name: name, To: to, Frozen: frozen})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// adders add 1 to a counter of their own, again and again, and know what the sum must be: what is lost or done twice shows.
type adders struct {
	t      testing.TB
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	count  map[string]int
}

func startAdders(t testing.TB, nodes map[string]*testNode, each int) *adders {
	ctx, cancel := context.WithCancel(context.Background())
	a := &adders{t: t, cancel: cancel, count: map[string]int{}}
	t.Cleanup(func() { a.cancel(); a.wg.Wait() })
	for _, n := range nodes {
		for i := range each {
			s := n.session(t, "shop")
			a.wg.Go(func() { a.add(ctx, s, fmt.Sprintf("%s%d", n.name, i)) })
		}
	}
	return a
}

func (a *adders) add(ctx context.Context, s *dvs.Session, key string) {
	for i := 1; ctx.Err() == nil; i++ {
		b, err := s.SendRec(patient(a.t), "kv", []byte("add "+key+" 1"))
		if err != nil || string(b) != fmt.Sprint("ok ", i) {
			a.t.Errorf("%s: answer %d is %q, %v", key, i, b, err)
			return
		}
		a.mu.Lock()
		a.count[key] = i
		a.mu.Unlock()
	}
}

// progress waits until all have got some further answers.
func (a *adders) progress(clients, answers int) {
	a.t.Helper()
	a.mu.Lock()
	begin := map[string]int{}
	for k, v := range a.count {
		begin[k] = v
	}
	a.mu.Unlock()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		a.mu.Lock()
		n := 0
		for k, v := range a.count {
			if v >= begin[k]+answers {
				n++
			}
		}
		a.mu.Unlock()
		if n == clients || a.t.Failed() {
			return
		}
	}
	a.t.Fatal("the clients get no answers")
}

func (a *adders) stop() {
	a.cancel()
	a.wg.Wait()
}

// A process moves from node to node, frozen and not, while clients on all of them talk to it.
func TestAProcessMovesWhileItIsAsked(t *testing.T) {
	nodes := startNodes(t, nil, "a", "b", "c")
	nodes["a"].run(t, "shop", "kv", module(t, built.kv))
	clients := startAdders(t, nodes, 2)
	clients.progress(6, 20)
	for i, m := range [][2]string{{"a", "b"}, {"b", "c"}, {"c", "a"}, {"a", "b"}} {
		done := nodes[m[0]].move(t, "shop", "kv", m[1], i%2 == 1)
		if (done.Rounds == 0) != (i%2 == 1) || done.To != m[1] {
			t.Errorf("the move is told as %+v", done)
		}
		clients.progress(6, 20)
		for name, n := range nodes {
			all, err := n.List(patient(t))
			if err != nil || (len(all) == 1) != (name == m[1]) {
				t.Errorf("after the move to %s, node %s has %v %v", m[1], name, all, err)
			}
		}
	}
	clients.stop()
}

// The state is the same after a chain of moves that ends where it began.
func TestAChainOfMovesKeepsTheState(t *testing.T) {
	nodes := startNodes(t, nil, "a", "b", "c")
	nodes["a"].run(t, "shop", "counter", module(t, built.counter))
	nodes["b"].ask(t, "shop", "counter", "fill 2500000")
	nodes["a"].ask(t, "shop", "counter", "42")
	want := nodes["a"].ask(t, "shop", "counter", "checksum")
	for i, m := range [][2]string{{"a", "b"}, {"b", "c"}, {"c", "a"}} {
		nodes[m[0]].move(t, "shop", "counter", m[1], i == 1)
		if got := nodes[m[1]].ask(t, "shop", "counter", "checksum"); got != want {
			t.Errorf("after the move to %s the checksum is %s, it was %s", m[1], got, want)
		}
		if got := nodes["c"].ask(t, "shop", "counter", "0"); got != "42" {
			t.Errorf("after the move to %s the counter is %s", m[1], got)
		}
	}
}

// A program that fails tells its caller, and goes on as before.
func TestAProgramFails(t *testing.T) {
	nodes := startNodes(t, nil, "a")
	a := nodes["a"]
	if err := a.Run(patient(t), "shop", "counter", module(t, built.counter), "4000000", "50ms"); err != nil {
		t.Fatal(err)
	}
	a.ask(t, "shop", "counter", "7")
	for request, want := range map[string]string{"trap": "about to fail", "spin": "took too long"} {
		b, err := a.Call(patient(t), "shop", "counter", []byte(request), "5s")
		if got := fmt.Sprint(string(b), err); !strings.Contains(got, want) {
			t.Errorf("%s is answered %s, want %s", request, got, want)
		}
	}
	if got := a.ask(t, "shop", "counter", "0"); got != "7" {
		t.Errorf("the counter is %s", got)
	}
	all, err := a.List(patient(t))
	if err != nil || len(all) != 1 || all[0].Failures != 2 || all[0].Calls != 4 {
		t.Errorf("the node tells %+v, %v", all, err)
	}
}

// What cannot be done is refused, with the reason, and changes nothing.
func TestRefusals(t *testing.T) {
	nodes := startNodes(t, nil, "a", "b")
	a, kv := nodes["a"], module(t, built.kv)
	a.run(t, "shop", "kv", kv)
	a.ask(t, "shop", "kv", "set colour blue")
	wrong := func(what string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	wrong("no module", a.Run(patient(t), "shop", "x", []byte("hello"), "", ""), "no WebAssembly module")
	wrong("the same name", a.Run(patient(t), "shop", "kv", kv, "", ""), "another process is bound")
	wrong("too little memory", a.Run(patient(t), "shop", "x", kv, "65536", ""), "limit")
	wrong("bad memory", a.Run(patient(t), "shop", "x", kv, "much", ""), "want bytes")
	_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "kv", To: "z"})
	wrong("an unknown node", err, "no such node")
	_, err = nodes["b"].Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "kv", To: "a"})
	wrong("a process that is elsewhere", err, "no process of that name runs on this node")
	_, err = a.Call(patient(t), "other", "kv", nil, "20ms")
	wrong("another container", err, "no process is bound")
	nodes["b"].stop()
	_, err = a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "kv", To: "b"})
	wrong("a dead node", err, "connect")
	if got := a.ask(t, "shop", "kv", "get colour"); got != "ok blue" {
		t.Errorf("after all that: %s", got)
	}
	if err := a.Stop(patient(t), "shop", "kv"); err != nil {
		t.Error(err)
	}
	_, err = a.Call(patient(t), "shop", "kv", nil, "20ms")
	if err != nil && strings.Contains(err.Error(), "has ended") { // the caller had not heard of it yet
		_, err = a.Call(patient(t), "shop", "kv", nil, "20ms")
	}
	wrong("a stopped process", err, "no process is bound")
}

// A node that is drained has no processes left, and none of them has lost anything.
func TestDrain(t *testing.T) {
	nodes := startNodes(t, nil, "a", "b", "c")
	counter := module(t, built.counter)
	for i := range 6 {
		name := fmt.Sprint("counter", i)
		nodes["a"].run(t, "shop", name, counter)
		nodes["a"].ask(t, "shop", name, fmt.Sprint(i))
	}
	done, err := nodes["a"].Drain(patient(t), dvshost.DrainRequest{})
	if err != nil || done.Err != "" || len(done.Moved) != 6 {
		t.Fatalf("drained: %+v, %v", done, err)
	}
	for i := range 6 {
		if got := nodes["a"].ask(t, "shop", fmt.Sprint("counter", i), "0"); got != fmt.Sprint(i) {
			t.Errorf("counter %d is %s", i, got)
		}
	}
	for name, want := range map[string]int{"a": 0, "b": 3, "c": 3} {
		if all, err := nodes[name].List(patient(t)); err != nil || len(all) != want {
			t.Errorf("node %s has %v, %v", name, all, err)
		}
	}
}

// What a node tells of itself.
func TestInspection(t *testing.T) {
	nodes := startNodes(t, nil, "a", "b")
	nodes["a"].run(t, "shop", "kv", module(t, built.kv))
	nodes["b"].ask(t, "shop", "kv", "count")
	endpoints, err := nodes["b"].Endpoints(patient(t))
	if err != nil || len(endpoints) != 1 || endpoints[0].Node != "a" || endpoints[0].State != "active" {
		t.Errorf("endpoints: %+v, %v", endpoints, err)
	}
	links, err := nodes["b"].Links(patient(t))
	if err != nil || len(links) != 1 || links[0].Node != "a" || links[0].State != "up" {
		t.Errorf("links: %+v, %v", links, err)
	}
	stats, err := nodes["a"].Stats(patient(t))
	if err != nil || stats.Processes != 1 || stats.PacketsIn == 0 {
		t.Errorf("stats: %+v, %v", stats, err)
	}
}
