package node_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

// The tests with several processes run this test binary again: the child obeys commands, a line of JSON each, and answers each with one.

const helperEnv = "GODWIT_DVS_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		os.Exit(runHelper())
	}
	os.Exit(m.Run())
}

// request is a command to a child.
type request struct {
	Op        string
	Socket    string        `json:",omitempty"`
	Container string        `json:",omitempty"`
	Endpoint  string        `json:",omitempty"`
	Name      string        `json:",omitempty"`
	Addr      string        `json:",omitempty"`
	NodeOnly  bool          `json:",omitempty"`
	Standby   bool          `json:",omitempty"`
	Paged     bool          `json:",omitempty"` // the state moves in pieces
	Rate      int           `json:",omitempty"` // pages of it that change in a second besides
	Size      int           `json:",omitempty"`
	Copies    bool          `json:",omitempty"` // clients copy from and to the server's buffers as well
	Count     int           `json:",omitempty"`
	Timeout   time.Duration `json:",omitempty"`
	Command   node.Command
}

// answer is what it says.
type answer struct {
	Err   string `json:",omitempty"`
	Text  string `json:",omitempty"`
	Info  []node.EndpointInfo
	Stats node.Stats
	Tally tally
}

// child is a process of a test.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	mu  sync.Mutex
	out *bufio.Reader
}

func start(t testing.TB, role string) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(exe)}
	c.cmd.Env = append(os.Environ(), helperEnv+"="+role)
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

func (c *child) ask(r request) (answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	line, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return answer{}, err
	}
	back, err := c.out.ReadBytes('\n')
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(back, &a); err != nil {
		return a, err
	}
	if a.Err != "" {
		return a, errors.New(a.Err)
	}
	return a, nil
}

func (c *child) must(t testing.TB, op string, r request) answer {
	t.Helper()
	r.Op = op
	a, err := c.ask(r)
	if err != nil {
		t.Fatalf("%s: %v", op, err)
	}
	return a
}

// helper is what a child is made of.
type helper struct {
	ctx    context.Context
	wg     sync.WaitGroup
	node   *node.Node
	load   *load
	server map[string]*server
}

func runHelper() int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h := &helper{ctx: ctx, server: map[string]*server{}}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var r request
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

func (h *helper) obey(r request) (answer, error) {
	switch r.Op {
	case "node":
		return answer{}, h.startNode(r)
	case "link":
		var dial node.Dial
		if r.Addr != "" {
			dial = func(ctx context.Context) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", r.Addr)
			}
		}
		return answer{}, h.node.Link(r.Name, dial)
	case "do":
		ctx, cancel := context.WithTimeout(h.ctx, max(r.Timeout, 10*time.Second))
		defer cancel()
		return answer{}, h.node.Do(ctx, r.Command)
	case "info":
		return answer{Info: h.node.Endpoints(), Stats: h.node.Stats()}, nil
	case "serve":
		return answer{}, h.serve(r)
	case "state":
		return h.server[r.Endpoint].show()
	case "clients":
		return answer{}, h.clients(r)
	case "stop":
		return answer{Tally: h.load.stop()}, nil
	case "tally":
		return answer{Tally: h.load.tally()}, nil
	case "bare":
		return answer{}, h.bare(r.Socket)
	case "stream":
		return answer{}, h.stream(r.Socket, r.Size)
	case "buffer":
		return answer{}, h.buffer(r)
	case "netrpc":
		return answer{}, h.netrpc(r.Socket)
	default:
		return answer{}, errors.New("unknown command " + r.Op)
	}
}

func (h *helper) startNode(r request) error {
	n, err := node.New(node.Options{Name: r.Name, PeerTimeout: r.Timeout})
	if err != nil {
		return err
	}
	h.node = n
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.Socket, Net: "unix"})
	if err != nil {
		return err
	}
	h.wg.Go(func() { _ = n.Serve(l) })
	if r.Addr == "" {
		return nil
	}
	streams, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.wg.Go(func() { _ = n.ServeStreams(streams, streams.Addr().String()) })
	links, err := net.Listen("tcp", r.Addr)
	if err != nil {
		return err
	}
	h.wg.Go(func() {
		for {
			c, err := links.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() { _ = n.Accept(c) })
		}
	})
	return nil
}

func (h *helper) bare(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	h.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() {
				b := make([]byte, benchSize)
				for {
					if _, err := io.ReadFull(c, b); err != nil {
						return
					}
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			})
		}
	})
	return nil
}

// Echo is the service of net/rpc.
type Echo struct{}

// Do returns what it gets.
func (Echo) Do(in []byte, out *[]byte) error {
	*out = in
	return nil
}

func (h *helper) netrpc(path string) error {
	s := rpc.NewServer()
	if err := s.Register(Echo{}); err != nil {
		return err
	}
	network := "unix"
	if _, _, err := net.SplitHostPort(path); err == nil {
		network = "tcp"
	}
	l, err := net.Listen(network, path)
	if err != nil {
		return err
	}
	h.wg.Go(func() { s.Accept(l) })
	return nil
}

// stream sends as many bytes as it is asked for, again and again.
func (h *helper) stream(path string, size int) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	data := make([]byte, size)
	h.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() {
				var n [4]byte
				for {
					if _, err := io.ReadFull(c, n[:]); err != nil {
						return
					}
					if _, err := c.Write(data[:min(binary.LittleEndian.Uint32(n[:]), uint32(size))]); err != nil {
						return
					}
				}
			})
		}
	})
	return nil
}

// buffer serves a registered buffer.
func (h *helper) buffer(r request) error {
	s, err := dvs.Connect(h.ctx, r.Socket, dvs.Options{Container: r.Container})
	if err != nil {
		return err
	}
	e, err := s.Bind(h.ctx, r.Endpoint, dvs.BindOptions{})
	if err != nil {
		return err
	}
	e.Register("data", make([]byte, r.Size), dvs.Access{Read: true})
	h.wg.Go(func() {
		defer s.Close()
		_, _ = e.Receive(h.ctx, "nobody")
	})
	return nil
}
