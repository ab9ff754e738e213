package dvshost_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
)

// puppetEnv is the environment variable that makes this test a program of the DVS that does what it is told.
const puppetEnv = "GODWIT_TEST_DVS_PUPPET"

// order is one call of the library that a puppet makes. Several may be under way.
type order struct {
	ID       int
	Op       string
	At       string        // socket, of connect
	As       string        // its own endpoint; "" is the session
	To       string        // container, of connect; else an endpoint
	Data     string        // payload, or reason
	Ref      int           // the message that is answered
	Wait     time.Duration // 0: for as long as it takes; less: not at all
	Standby  bool
	Failing  bool // what comes cannot be taken in
	Slow     time.Duration
	Queue    int
	Size     int
	Dst, Src dvs.Place
	Load     *loadSpec
}

// told is what came of it.
type told struct {
	ID         int
	Err        string
	Kind, From string
	Data       string
	Ref        int
	Sum        uint32
	Tally      *tally
}

// puppet is a program in a process of its own.
type puppet struct {
	t   *testing.T
	cmd *exec.Cmd
	in  *json.Encoder
	// place is how it was connected.
	place order

	mu      sync.Mutex
	next    int
	waiting map[int]chan told
}

// startPuppet runs a program that is connected at a node.
func startPuppet(t *testing.T, n *killable, container string) *puppet {
	t.Helper()
	p := newPuppet(t)
	p.place = order{Op: "connect", At: n.socket, To: container}
	p.must(p.place)
	return p
}

// newPuppet runs one that is not connected.
func newPuppet(t *testing.T) *puppet {
	t.Helper()
	return newPuppetAs(t, nil)
}

// newPuppetAs runs it as another user, if who is not nil.
func newPuppetAs(t *testing.T, who *syscall.Credential) *puppet {
	t.Helper()
	p := &puppet{t: t, cmd: exec.Command(os.Args[0]), waiting: map[int]chan told{}}
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), puppetEnv+"=1", endOnRace), os.Stderr
	if who != nil {
		p.cmd.Path = "/proc/self/exe" // whoever may not pass the directory of it
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.in = json.NewEncoder(in)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for lines := json.NewDecoder(bufio.NewReader(out)); ; {
			var a told
			if lines.Decode(&a) != nil {
				break
			}
			p.mu.Lock()
			ch := p.waiting[a.ID]
			delete(p.waiting, a.ID)
			p.mu.Unlock()
			ch <- a
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, ch := range p.waiting {
			ch <- told{Err: "the program has ended"}
		}
		clear(p.waiting)
	}()
	t.Cleanup(func() { p.kill(); <-heard })
	return p
}

func (p *puppet) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // killed, it always says that it failed; a second time that it has been waited for
	if raced(p.cmd) {
		p.t.Error("a program has ended with a race")
	}
}

// begin has it make a call; what comes of it comes by the channel.
func (p *puppet) begin(o order) <-chan told {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	o.ID = p.next
	ch := make(chan told, 1)
	p.waiting[o.ID] = ch
	if err := p.in.Encode(o); err != nil {
		delete(p.waiting, o.ID)
		ch <- told{Err: err.Error()}
	}
	return ch
}

func (p *puppet) do(o order) told { return <-p.begin(o) }

// must makes a call that succeeds.
func (p *puppet) must(o order) told {
	p.t.Helper()
	return p.fine(p.begin(o), o)
}

func (p *puppet) fine(ch <-chan told, o order) told {
	p.t.Helper()
	select {
	case a := <-ch:
		if a.Err != "" {
			p.t.Fatalf("%s %s %s: %s", o.Op, o.To, o.Data, a.Err)
		}
		return a
	case <-time.After(time.Minute):
		p.t.Fatalf("%s %s %s: nothing comes of it", o.Op, o.To, o.Data)
		return told{}
	}
}

// fails makes a call that fails with this error.
func (p *puppet) fails(o order, want error) {
	p.t.Helper()
	wantTold(p.t, p.do(o), want)
}

func wantTold(t *testing.T, a told, want error) {
	t.Helper()
	if !strings.Contains(a.Err, want.Error()) {
		t.Errorf("it was told %q, want %q", a.Err, want)
	}
}

// bind gives it a name.
func (p *puppet) bind(name string) *puppet {
	p.t.Helper()
	p.must(order{Op: "bind", As: name})
	return p
}

// echo has it answer all requests of a name, until that ends, with its own data and theirs.
func (p *puppet) echo(name, data string) { p.begin(order{Op: "echo", As: name, Data: data}) }
