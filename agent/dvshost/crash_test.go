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
	"strings"
	"sync"
	"testing"
	"time"

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

// killable is a node in a process of its own.
type killable struct {
	*testNode
	o    processOptions
	kill func()
	log  bytes.Buffer
}

func (n *killable) begin(t *testing.T) {
	t.Helper()
	spec, err := json.Marshal(n.o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeSpec+"="+string(spec))
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
	})
	t.Cleanup(n.kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		n.kill()
		t.Fatalf("node %s: %q, %v: %s", n.name, line, err, &n.log)
	}
}

// startKillable runs nodes in processes of their own; a reaches b by way of a relay, which sees what a says. Their options may be changed before.
func startKillable(t *testing.T, kept bool, seen func(b []byte) verdict, change ...func(*processOptions)) (a, b *killable) {
	directory := t.TempDir()
	all := map[string]*killable{}
	for _, name := range []string{"a", "b"} {
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
	all["a"].o.Peers["b"] = startRelay(t, all["b"].o.Listen, seen)
	all["b"].o.Peers["a"] = all["a"].o.Listen
	all["b"].begin(t)
	all["a"].begin(t)
	return all["a"], all["b"]
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

// The node that decides of a move is killed in each of its phases, and begins again: before the commit all is put back, and the process has ended
// with its node; after it the process goes on at the destination with all that was acknowledged. Without a directory the node remembers nothing:
// then nothing that nobody owns is left either.
func TestTheNodeThatDecidesIsKilled(t *testing.T) {
	step := func(name string) string { return `"step":"` + name + `"` }
	for _, c := range []struct {
		name   string
		what   string // that a says when it is killed
		then   verdict
		frozen bool
		there  bool // whether it goes on at the destination
	}{
		{"while it asks for a process", step("process/destination/prepare"), stop, false, false},
		{"when the process waits", step("endpoint/destination/prepare"), stop, false, false},
		{"when the standby waits, and the answer is lost", step("endpoint/destination/prepare"), strand, false, false},
		{"while pages are sent", "PUT /v1/pages", stop, false, false},
		{"while the state is sent", "", stop, true, false},
		{"before the commit arrives", step("endpoint/destination/commit"), stop, false, true},
		{"when the commit has arrived", step("endpoint/destination/commit"), strand, true, true},
	} {
		for _, kept := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, kept %v", c.name, kept), func(t *testing.T) {
				t.Parallel()
				killed := make(chan struct{})
				strike := sync.OnceFunc(func() { close(killed) })
				var struck func()
				var mu sync.Mutex
				armed, carried := false, 0
				a, b := startKillable(t, kept, func(said []byte) verdict {
					mu.Lock()
					defer mu.Unlock()
					if carried += len(said); !armed || !bytes.Contains(said, []byte(c.what)) || c.what == "" && carried < 200<<10 {
						return pass
					}
					armed = false
					if c.then == stop {
						struck()
					} else {
						go struck() // when this has been carried
					}
					return c.then
				})
				struck = func() {
					if c.then == strand {
						time.Sleep(50 * time.Millisecond) // it has been dealt with, most likely; if not, the outcome is the same
					}
					a.kill()
					strike()
				}
				a.run(t, "shop", "counter", module(t, built.counter))
				size := 3_000_000
				if c.what == "" {
					size = 20_000_000 // much of it does not cross the link, which compresses
				}
				a.ask(t, "shop", "counter", fmt.Sprint("fill ", size))
				a.ask(t, "shop", "counter", "41")
				b.ask(t, "shop", "counter", "1") // b knows where it is
				mu.Lock()
				armed, carried = true, 0
				mu.Unlock()
				_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "counter", To: "b", Frozen: c.frozen})
				if err == nil {
					t.Fatal("the move succeeded")
				}
				<-killed
				a.begin(t)
				there := c.there && (kept || c.then == strand)
				settled(t, a, b, there)
				if there {
					if got := a.ask(t, "shop", "counter", "0"); got != "42" {
						t.Errorf("the counter is %s", got)
					}
				} else {
					a.run(t, "shop", "counter", module(t, built.counter)) // the name is free
					if got := b.ask(t, "shop", "counter", "0"); got != "0" {
						t.Errorf("the new counter is %s", got)
					}
				}
				if t.Failed() {
					t.Logf("a:\n%s\nb:\n%s", &a.log, &b.log)
				}
			})
		}
	}
}

// settled waits until the process is at b alone, or nowhere.
func settled(t *testing.T, a, b *killable, there bool) {
	t.Helper()
	var state string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		atA, errA := a.List(patient(t))
		atB, errB := b.List(patient(t))
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		state = strings.TrimSpace(fmt.Sprint(atA, atB))
		if len(atA) == 0 && (!there && len(atB) == 0 || there && len(atB) == 1 && atB[0].State == "running") {
			return
		}
	}
	t.Errorf("nothing comes to rest, expected at the destination %v: %s\na:\n%s\nb:\n%s", there, state, &a.log, &b.log)
}
