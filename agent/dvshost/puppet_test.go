package dvshost_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
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
}

// told is what came of it.
type told struct {
	ID         int
	Err        string
	Kind, From string
	Data       string
	Ref        int
	Sum        uint32
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
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), puppetEnv+"=1"), os.Stderr
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

// obedient is the puppet's own side.
type obedient struct {
	session *dvs.Session
	say     func(told)

	mu        sync.Mutex
	endpoints map[string]*dvs.Endpoint
	messages  []dvs.Message
	buffers   map[string][]byte
	state     string
}

func runPuppet() {
	out := json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	o := &obedient{endpoints: map[string]*dvs.Endpoint{}, buffers: map[string][]byte{}, say: func(a told) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(a)
	}}
	for lines := json.NewDecoder(bufio.NewReader(os.Stdin)); ; {
		var q order
		if lines.Decode(&q) != nil {
			os.Exit(0)
		}
		go func() {
			a, err := o.obey(q)
			a.ID = q.ID
			if err != nil {
				a.Err = err.Error()
			}
			o.say(a)
		}()
	}
}

// caller is what a session and an endpoint have in common.
type caller interface {
	Send(ctx context.Context, to string, payload []byte) error
	SendRec(ctx context.Context, to string, payload []byte) ([]byte, error)
	Notify(to string) error
	Copy(ctx context.Context, to, from dvs.Place, n uint64) error
}

func (o *obedient) obey(q order) (a told, err error) {
	ctx := context.Background()
	switch {
	case q.Wait > 0:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, q.Wait)
		defer cancel()
	case q.Wait < 0:
		ctx = dvs.NoWait(ctx)
	}
	if q.Op == "connect" {
		o.session, err = dvs.Connect(ctx, q.At, dvs.Options{Container: q.To, Program: "puppet"})
		return a, err
	}
	if q.Op == "bind" {
		return a, o.bind(ctx, q)
	}
	o.mu.Lock()
	e := o.endpoints[q.As]
	o.mu.Unlock()
	var c caller = o.session
	if e != nil {
		c = e
	}
	switch q.Op {
	case "send":
		return a, c.Send(ctx, q.To, []byte(q.Data))
	case "sendrec":
		reply, err := c.SendRec(ctx, q.To, []byte(q.Data))
		a.Data = string(reply)
		return a, err
	case "notify":
		return a, c.Notify(q.To)
	case "copy":
		return a, c.Copy(ctx, q.Dst, q.Src, uint64(q.Size))
	}
	if e == nil {
		return a, errors.New("it has no endpoint " + q.As)
	}
	switch q.Op {
	case "receive", "request":
		return o.receive(ctx, e, q)
	case "reply", "refuse":
		o.mu.Lock()
		m := o.messages[q.Ref]
		o.mu.Unlock()
		if q.Op == "refuse" {
			return a, e.Refuse(m, q.Data)
		}
		return a, e.Reply(m, []byte(q.Data))
	case "echo":
		for {
			m, err := e.ReceiveRequest(ctx)
			if err != nil {
				return a, err
			}
			o.mu.Lock()
			o.state += "."
			o.mu.Unlock()
			_ = e.Reply(m, append([]byte(q.Data), m.Payload...))
		}
	case "register":
		b := make([]byte, q.Size)
		for i := range b {
			b[i] = byte(i * len(q.Data) >> 3)
		}
		o.buffers[q.Data] = b
		e.Register(q.Data, b, dvs.Access{Read: true, Write: true})
		return told{Sum: crc32.ChecksumIEEE(b)}, nil
	case "sum":
		return told{Sum: crc32.ChecksumIEEE(o.buffers[q.Data][:q.Size])}, nil
	case "state":
		o.mu.Lock()
		defer o.mu.Unlock()
		if q.Data != "" {
			o.state = q.Data
		}
		return told{Data: o.state}, nil
	case "unbind":
		return a, e.Unbind(ctx)
	default:
		return a, errors.New("it does not know how to " + q.Op)
	}
}

func (o *obedient) bind(ctx context.Context, q order) error {
	e, err := o.session.Bind(ctx, q.As, dvs.BindOptions{
		Standby: q.Standby, Queue: q.Queue,
		Snapshot: func() ([]byte, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			return []byte(o.state), nil
		},
		Restore: func(b []byte) error {
			time.Sleep(q.Slow) // a state that takes long to take in
			if q.Failing {
				return errors.New("no room for it")
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			o.state = string(b)
			return nil
		},
	})
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endpoints[q.As] = e
	return nil
}

func kindName(k endpoint.Kind) string {
	switch k {
	case endpoint.Send:
		return "send"
	case endpoint.SendRec:
		return "sendrec"
	case endpoint.Notify:
		return "notify"
	default:
		return "none"
	}
}

func (o *obedient) receive(ctx context.Context, e *dvs.Endpoint, q order) (told, error) {
	var m dvs.Message
	var err error
	if q.Op == "request" {
		m, err = e.ReceiveRequest(ctx)
	} else {
		m, err = e.Receive(ctx, q.To)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.messages = append(o.messages, m)
	return told{Kind: kindName(m.Kind), From: m.From, Data: string(m.Payload), Ref: len(o.messages) - 1}, err
}
