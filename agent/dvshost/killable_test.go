package dvshost_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/agent/dvshost/policy"
	"github.com/godwit-project/godwit/dvs/node"
)

// nodeSpec is the environment variable that makes this test a node, with its options in JSON.
const nodeSpec = "GODWIT_TEST_DVS_NODE"

// shepherd is the argument that makes this test the shepherd of a native program.
const shepherd = "shepherd"

// processOptions are those of a node in a process of its own.
type processOptions struct {
	Name, Socket, Listen, Cache, State string
	Peers                              map[string]string
	Native                             bool // takes in native programs
	Policy, Group                      string
	Links                              node.LinkOptions
}

func nodeProcess(spec string) {
	var o processOptions
	if err := json.Unmarshal([]byte(spec), &o); err != nil {
		panic(err)
	}
	go func() { // it ends with the test, however that ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	options := dvshost.NodeOptions{
		Name: o.Name, Socket: o.Socket, Listen: o.Listen, Cache: o.Cache, State: o.State, Peers: o.Peers,
		Native: dvshost.NativeOptions{Shepherd: []string{"/proc/self/exe", shepherd}, Accept: o.Native},
		Log:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Ready:  func(string) { fmt.Println("ready") },
		Group:  o.Group, Links: o.Links,
	}
	if o.Policy != "" {
		var err error
		if options.Policy, err = policy.Parse("the policy", strings.NewReader(o.Policy), policy.MachineNames()); err != nil {
			panic(err)
		}
	}
	fmt.Fprintln(os.Stderr, dvshost.Serve(context.Background(), options))
	os.Exit(1)
}

// endOnRace has a process of this test end where the race detector, if it is compiled in, finds something, as nobody looks at what it writes.
const endOnRace = "GORACE=halt_on_error=1"

// raced tells whether that was how it ended.
func raced(cmd *exec.Cmd) bool { return cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 66 }

// killable is a node in a process of its own.
type killable struct {
	*testNode
	o    processOptions
	kill func()
	log  nodeLog
}

// nodeLog is what a node has said in all its lives.
type nodeLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write takes more.
func (l *nodeLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// String returns all of it.
func (l *nodeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (n *killable) begin(t *testing.T) {
	t.Helper()
	spec, err := json.Marshal(n.o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeSpec+"="+string(spec), endOnRace)
	cmd.Stderr = &n.log
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, it always says that it failed
		if raced(cmd) {
			t.Errorf("node %s: %s", n.name, &n.log)
		}
	})
	t.Cleanup(n.kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		n.kill()
		t.Fatalf("node %s: %q, %v: %s", n.name, line, err, &n.log)
	}
}

// way returns the address at which a node reaches another one, which listens at address.
type way func(from, to, address string) string

// startProcesses runs nodes in processes of their own, the last one first. Unless between is nil it is what leads from each to the others; their options
// may be changed before.
func startProcesses(t *testing.T, kept bool, names []string, between way, change ...func(*processOptions)) map[string]*killable {
	t.Helper()
	directory := t.TempDir()
	all := map[string]*killable{}
	for _, name := range names {
		n := &killable{testNode: &testNode{name: name, socket: filepath.Join(directory, name)}}
		n.Client = dvshost.NewClient(n.socket)
		n.o = processOptions{Name: name, Socket: n.socket, Listen: freeAddress(t), Cache: built.cache, Peers: map[string]string{}}
		if kept {
			n.o.State = filepath.Join(directory, name+".state")
		}
		for _, f := range change {
			f(&n.o)
		}
		all[name] = n
	}
	for _, from := range all {
		for _, to := range all {
			if from == to {
				continue
			}
			from.o.Peers[to.name] = to.o.Listen
			if between != nil {
				from.o.Peers[to.name] = between(from.name, to.name, to.o.Listen)
			}
		}
	}
	for _, name := range slices.Backward(names) {
		all[name].begin(t)
	}
	return all
}

// startKillable runs nodes a and b; a reaches b by way of a relay, which sees what a says.
func startKillable(t *testing.T, kept bool, seen func(b []byte) verdict, change ...func(*processOptions)) (a, b *killable) {
	t.Helper()
	all := startProcesses(t, kept, []string{"a", "b"}, fromAToB(t, seen), change...)
	return all["a"], all["b"]
}

// fromAToB is a relay on the way from node a to node b.
func fromAToB(t *testing.T, seen func(b []byte) verdict) way {
	return func(from, to, address string) string {
		if from == "a" && to == "b" {
			return startRelay(t, address, seen)
		}
		return address
	}
}

// verdict is what becomes of bytes that a relay carries.
type verdict int

const (
	pass   verdict = iota
	stop           // these and all that follow are thrown away
	strand         // these are carried, but no answer
)

// startRelay carries connections to an address.
func startRelay(t *testing.T, to string, seen func(b []byte) verdict) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			end := context.AfterFunc(ctx, func() { _ = in.Close(); _ = out.Close() })
			answers := make(chan struct{}) // closed when they are thrown away
			cut := sync.OnceFunc(func() { close(answers) })
			wg.Go(func() {
				defer end()
				defer in.Close()
				defer out.Close()
				carry(in, out, func(b []byte) bool {
					switch seen(b) {
					case stop:
						return false
					case strand:
						cut()
					case pass:
					}
					return true
				})
			})
			wg.Go(func() {
				defer in.Close()
				carry(out, in, func([]byte) bool {
					select {
					case <-answers:
						return false
					default:
						return true
					}
				})
			})
		}
	})
	return l.Addr().String()
}

func carry(from, to net.Conn, pass func(b []byte) bool) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if !pass(b[:n]) {
				return
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
