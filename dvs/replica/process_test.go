package replica_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/dvs/replica/replicatest"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

// The tests with several processes run this test binary again: the child is a node with a replica and its host, or clients. It obeys commands, a
// line of JSON each, and answers each with one.

const helperEnv = "GODWIT_REPLICA_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		os.Exit(runHelper())
	}
	os.Exit(m.Run())
}

type command struct {
	Op     string
	Name   string            `json:",omitempty"`
	Kind   replica.Kind      `json:",omitempty"`
	Dir    string            `json:",omitempty"` // sockets and the store are there
	Nodes  map[string]string `json:",omitempty"` // where links between nodes are accepted
	Groups map[string]string `json:",omitempty"` // where replicas are
	Count  int               `json:",omitempty"`
	Cut    []string          `json:",omitempty"`
}

type answer struct {
	Err      string `json:",omitempty"`
	Last     replica.Change
	Members  []string
	Verdicts []string
	Ended    string // why the replica has
	Machine  []byte
	Tally    tally
}

// tally is what clients have seen.
type tally struct {
	Requests int
	Wrong    []string
	Errors   []string
	Longest  time.Duration
}

type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	mu  sync.Mutex
	out *bufio.Reader
}

func startChild(t testing.TB) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(exe)}
	c.cmd.Env = append(os.Environ(), helperEnv+"=1")
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	return c
}

// kill ends the process as a crash would.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func (c *child) must(t testing.TB, r command) answer {
	t.Helper()
	a, err := c.ask(r)
	if err != nil {
		t.Fatalf("%s: %v", r.Op, err)
	}
	return a
}

func (c *child) ask(r command) (answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	line, err := json.Marshal(r)
	if err == nil {
		_, err = c.in.Write(append(line, '\n'))
	}
	var back []byte
	if err == nil {
		back, err = c.out.ReadBytes('\n')
	}
	var a answer
	if err == nil {
		err = json.Unmarshal(back, &a)
	}
	if err == nil && a.Err != "" {
		err = errors.New(a.Err)
	}
	return a, err
}

func runHelper() int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h := &helper{ctx: ctx, cut: map[string]bool{}, conns: map[net.Conn]string{}}
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var r command
		var a answer
		err := json.Unmarshal(in.Bytes(), &r)
		if err == nil {
			a, err = h.obey(r)
		}
		if err != nil {
			a.Err = err.Error()
		}
		if out.Encode(a) != nil {
			return 1
		}
	}
	return 0
}

// helper is what a child is made of.
type helper struct {
	ctx     context.Context
	wg      sync.WaitGroup
	node    *node.Node
	replica *replica.Replica
	host    *host
	machine *machine
	load    *callers

	mu       sync.Mutex
	cut      map[string]bool
	conns    map[net.Conn]string
	verdicts []string
}

func (h *helper) obey(r command) (answer, error) {
	switch r.Op {
	case "node":
		return answer{}, h.start(r)
	case "status":
		h.mu.Lock()
		defer h.mu.Unlock()
		a := answer{Last: h.replica.Last(), Members: h.replica.Members(), Verdicts: slices.Clone(h.verdicts)}
		if err := h.replica.Err(); err != nil {
			a.Ended = err.Error()
		}
		return a, nil
	case "machine":
		return answer{Machine: h.machine.shown()}, nil
	case "cut":
		h.cutOff(r.Cut)
		return answer{}, nil
	case "clients":
		return answer{}, h.clients(r)
	case "tally":
		return answer{Tally: h.load.tally()}, nil
	case "stop":
		return answer{Tally: h.load.stop()}, nil
	default:
		return answer{}, errors.New("unknown command " + r.Op)
	}
}

// start runs a node, its links, a replica and the host between them.
func (h *helper) start(r command) error {
	n, err := node.New(node.Options{Name: r.Name, PeerTimeout: time.Second}) // callers of a replicated endpoint wait even then
	if err != nil {
		return err
	}
	h.node = n
	path := r.Dir + "/" + r.Name
	_ = os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	h.wg.Go(func() { _ = n.Serve(l) })
	if err := h.listen(r.Nodes[r.Name], func(c net.Conn) { _ = n.Accept(c) }); err != nil {
		return err
	}
	var peers []string
	for _, p := range names {
		if p == r.Name {
			continue
		}
		peers = append(peers, p)
		var dial node.Dial
		if p < r.Name {
			dial = func(ctx context.Context) (net.Conn, error) { return h.dial(ctx, p, r.Nodes[p]) }
		}
		if err := n.Link(p, dial); err != nil {
			return err
		}
	}
	h.machine = newMachine()
	h.host = &host{h: h, container: "c", endpoint: "kv", serve: make(chan replica.Change, 64)}
	h.replica, err = replica.New(replica.Options{
		Group: "kv", Self: r.Name, Peers: peers, Kind: r.Kind, Machine: h.machine, Store: fileStore(r.Dir + "/store"), CheckEvery: 200,
		Dial: func(ctx context.Context, p string) (net.Conn, error) { return h.dial(ctx, p, r.Groups[p]) }, OnChange: h.changed,
	})
	if err != nil {
		return err
	}
	if err := h.listen(r.Groups[r.Name], func(c net.Conn) { _ = h.replica.Accept(c, "") }); err != nil {
		return err
	}
	return h.host.start(path)
}

func (h *helper) changed(c replica.Change) {
	if c.Verdict == "" {
		h.host.serve <- c
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.verdicts = append(h.verdicts, c.Verdict+" "+c.Primary)
}

func (h *helper) listen(addr string, accept func(net.Conn)) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	h.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() { accept(c) })
		}
	})
	return nil
}

func (h *helper) dial(ctx context.Context, peer, addr string) (net.Conn, error) {
	h.mu.Lock()
	cut := h.cut[peer]
	h.mu.Unlock()
	if cut {
		return nil, errors.New("cut off")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err == nil {
		h.mu.Lock()
		h.conns[c] = peer
		h.mu.Unlock()
	}
	return c, err
}

// cutOff lets this process dial none of these any more, and ends what it has dialled.
func (h *helper) cutOff(peers []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut = map[string]bool{}
	for _, p := range peers {
		h.cut[p] = true
	}
	for c, p := range h.conns {
		if h.cut[p] {
			_ = c.Close()
			delete(h.conns, c)
		}
	}
}

// fileStore is a store in a file, which all processes of a test share under a lock.
type fileStore string

func (s fileStore) locked(f func(c state.Record) (next state.Record, write bool)) (state.Record, error) {
	file, err := os.OpenFile(string(s), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return state.Record{}, err
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return state.Record{}, err
	}
	b, err := io.ReadAll(file)
	if err != nil {
		return state.Record{}, err
	}
	var c state.Record
	if len(b) > 0 {
		if c, err = state.ParseRecord(b); err != nil {
			return c, err
		}
	}
	next, write := f(c)
	if !write {
		return c, nil
	}
	b = next.Append(nil)
	if _, err = file.WriteAt(b, 0); err == nil {
		err = file.Truncate(int64(len(b)))
	}
	return next, err
}

func (s fileStore) Load(context.Context) (state.Record, error) {
	return s.locked(func(c state.Record) (state.Record, bool) { return c, false })
}

func (s fileStore) Swap(_ context.Context, epoch uint64, next state.Record) (state.Record, error) {
	return s.locked(func(c state.Record) (state.Record, bool) { return next, c.Epoch == epoch })
}

// callers are closed-loop clients, each with a session and a key of its own: the reply to the n-th request shows n requests.
type callers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	sum    tally
}

func (h *helper) clients(r command) error {
	ctx, cancel := context.WithCancel(h.ctx)
	l := &callers{cancel: cancel}
	h.load = l
	for i := range r.Count {
		s, err := dvs.Connect(ctx, r.Dir+"/"+r.Name, dvs.Options{Container: "c"})
		if err != nil {
			cancel()
			return err
		}
		key := r.Name[0]*8 + byte(i)
		l.wg.Go(func() {
			defer s.Close()
			for n := 1; ctx.Err() == nil; n++ {
				l.one(s, key, n)
			}
		})
	}
	return nil
}

func (l *callers) one(s *dvs.Session, key byte, n int) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reply, err := s.SendRec(ctx, "kv", replicatest.Request(key, "x"))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum.Requests++
	l.sum.Longest = max(l.sum.Longest, time.Since(began))
	if err != nil {
		l.sum.Errors = append(l.sum.Errors, fmt.Sprintf("client %d: %v", key, err))
		l.cancel()
	} else if len(reply) != n {
		l.sum.Wrong = append(l.sum.Wrong, fmt.Sprintf("client %d: %d requests show after %d", key, len(reply), n))
		l.cancel()
	}
}

func (l *callers) tally() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum
}

func (l *callers) stop() tally {
	l.cancel()
	l.wg.Wait()
	return l.tally()
}
