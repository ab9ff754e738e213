package dvshost_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

var (
	histories = flag.Int("dvs.histories", 3, "number of random histories of the key-value service")
	firstSeed = flag.Uint64("dvs.seed", 1, "seed of the first history; each next one has the next number")
)

// kvInput is what a client asked for.
type kvInput struct{ verb, key, value string }

// kvModel is one key: "" is none.
var kvModel = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range all {
			k := o.Input.(kvInput).key
			byKey[k] = append(byKey[k], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		s, q := state.(string), in.(kvInput)
		next, want := s, "ok"
		switch q.verb {
		case "set":
			next = q.value
		case "delete":
			next = ""
		case "add":
			var old int
			_, _ = fmt.Sscan(s, &old) // what is no number counts as 0, as in the service
			next = fmt.Sprint(old + 1)
			want = "ok " + next
		case "get":
			if want = "ok " + s; s == "" {
				want = "none"
			}
		}
		return out == nil || out.(string) == want, next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%v: %v", in, out) },
}

// shaken is three nodes with lines between them that can be cut, for many histories.
type shaken struct {
	nodes   map[string]*testNode
	options map[string]dvshost.NodeOptions
	lines   map[string]*line // by "from to"
}

// line is a way from a node to another.
type line struct {
	cut   atomic.Bool
	mu    sync.Mutex
	conns map[net.Conn]bool
}

// startLine begins a way to an address, and returns the address at which it begins.
func startLine(t *testing.T, to string) (*line, string) {
	t.Helper()
	in, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	l := &line{conns: map[net.Conn]bool{}}
	t.Cleanup(func() { _ = in.Close(); l.set(true); wg.Wait() })
	wg.Go(func() { l.carry(in, to, &wg) })
	return l, in.Addr().String()
}

func (l *line) set(cut bool) {
	l.cut.Store(cut)
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if cut {
			_ = c.Close()
		}
	}
}

func (l *line) keep(c net.Conn) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = true
	return func() {
		_ = c.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, c)
	}
}

// carry takes connections to an address until the listener is closed.
func (l *line) carry(in net.Listener, to string, wg *sync.WaitGroup) {
	for {
		c, err := in.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer l.keep(c)()
			if l.cut.Load() {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer l.keep(out)()
			wg.Go(func() {
				_, _ = io.Copy(c, out)
				_ = c.Close()
			})
			_, _ = io.Copy(out, c)
		})
	}
}

func startShaken(t *testing.T) *shaken {
	s := &shaken{options: map[string]dvshost.NodeOptions{}, lines: map[string]*line{}}
	directory := t.TempDir()
	s.nodes = startNodes(t, func(o *dvshost.NodeOptions) {
		o.PeerTimeout = 250 * time.Millisecond
		o.State = filepath.Join(directory, o.Name+".state")
		for other, address := range o.Peers {
			s.lines[o.Name+" "+other], o.Peers[other] = startLine(t, address)
		}
		s.options[o.Name] = *o
	}, "a", "b", "c")
	return s
}

var shakenNames = []string{"a", "b", "c"}

// away cuts all lines of a node, or joins them.
func (s *shaken) away(name string, cut bool) {
	for pair, l := range s.lines {
		if strings.Contains(pair, name) {
			l.set(cut)
		}
	}
}

func (s *shaken) restart(t *testing.T, name string, rng *rand.Rand) {
	s.nodes[name].stop()
	time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
	s.nodes[name].start(t, s.options[name])
}

// history is what clients of one service saw.
type history struct {
	t     *testing.T
	s     *shaken
	name  string
	rng   *rand.Rand
	began time.Time

	mu      sync.Mutex
	ops     []porcupine.Operation
	unknown int
	told    []string
}

func (h *history) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, fmt.Sprintf("%8.3f ms: ", float64(time.Since(h.began).Microseconds())/1000)+fmt.Sprintf(format, args...))
}

// client asks one thing at a time, for as long as the service is there.
func (h *history) client(ctx context.Context, id int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, uint64(id)))
	n := h.s.nodes[shakenNames[id%3]]
	var session *dvs.Session
	defer func() {
		if session != nil {
			session.Close()
		}
	}()
	for i, unknown := 0, 0; ctx.Err() == nil && i < 60 && unknown < 3; i++ {
		time.Sleep(time.Duration(rng.IntN(4000)) * time.Microsecond)
		q := kvInput{verb: []string{"set", "get", "get", "add", "add", "delete"}[rng.IntN(6)], key: fmt.Sprint("k", rng.IntN(4))}
		text := q.verb + " " + q.key
		switch q.verb {
		case "set":
			q.value = fmt.Sprint(1000 * (id*100 + i + 1))
			text += " " + q.value
		case "add":
			text += " 1"
		}
		asking, end := context.WithTimeout(ctx, 3*time.Second)
		if session == nil {
			fresh, err := dvs.Connect(asking, n.socket, dvs.Options{Container: "shop"})
			if err != nil { // its node is away
				end()
				continue
			}
			session = fresh
		}
		o := porcupine.Operation{ClientId: id, Input: q, Call: int64(time.Since(h.began)), Return: math.MaxInt64}
		answer, err := session.SendRec(asking, h.name, []byte(text))
		end()
		if o.Return = int64(time.Since(h.began)); err == nil {
			o.Output = string(answer)
		}
		if errors.Is(err, dvs.ErrNotConnected) || errors.Is(err, dvs.ErrClosed) {
			session.Close()
			session = nil
		}
		switch {
		case err == nil:
		case errors.Is(err, dvs.ErrNotBound) || errors.Is(err, dvs.ErrMigrating):
			continue // nothing has happened
		default:
			o.Return = math.MaxInt64 // it may have, or may yet
			unknown++
		}
		h.mu.Lock()
		if o.Output == nil {
			h.unknown++
		}
		if o.Output != nil || q.verb != "get" {
			h.ops = append(h.ops, o)
		}
		h.mu.Unlock()
	}
}

// move moves the service from wherever it is, and perhaps something befalls one of the nodes meanwhile.
func (h *history) move() {
	to := shakenNames[h.rng.IntN(3)]
	var from string
	for name, n := range h.s.nodes {
		all, err := n.List(context.Background())
		if err == nil && slices.ContainsFunc(all, func(p dvshost.ProcessInfo) bool { return p.Name == h.name && p.State == "running" }) {
			from = name
		}
	}
	if from == "" || from == to {
		return
	}
	var wg sync.WaitGroup
	frozen := h.rng.IntN(2) == 0
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	wg.Go(func() {
		_, err := h.s.nodes[from].Move(ctx, dvshost.MoveRequest{Container: "shop", Name: h.name, To: to, Frozen: frozen})
		h.note("move from %s to %s: %v", from, to, err)
	})
	time.Sleep(time.Duration(h.rng.IntN(12)) * time.Millisecond)
	switch h.rng.IntN(8) {
	case 0, 1:
		h.kill(to)
	case 2:
		h.kill(from)
	case 3, 4:
		h.partition()
	}
	wg.Wait()
}

func (h *history) kill(name string) {
	h.note("node %s ends", name)
	h.s.restart(h.t, name, h.rng)
	h.note("node %s is back", name)
}

func (h *history) partition() {
	name := shakenNames[h.rng.IntN(3)]
	h.note("node %s is cut off", name)
	h.s.away(name, true)
	time.Sleep(time.Duration(50+h.rng.IntN(450)) * time.Millisecond)
	h.s.away(name, false)
	h.note("node %s is joined again", name)
}

// shake has things befall the service.
func (h *history) shake(mode string) {
	killed := false
	for range 2 + h.rng.IntN(3) {
		time.Sleep(time.Duration(h.rng.IntN(30)) * time.Millisecond)
		switch k := h.rng.IntN(8); {
		case mode == "" && k < 6:
			h.move()
		case mode != "" && k < 4 && !killed:
			killed = true // a record of who answers is with a majority, in memory: the others keep it
			h.kill(shakenNames[h.rng.IntN(3)])
		default:
			h.partition()
		}
	}
}

// run is one history; it returns how the service was replicated.
func (h *history) run(seed uint64, kv []byte) (mode string) {
	switch k := h.rng.IntN(10); {
	case k == 0:
		mode = "active" // takes longer to start
	case k <= 3:
		mode = "passive"
	}
	home := h.s.nodes[shakenNames[h.rng.IntN(3)]]
	var err error
	if mode == "" {
		err = home.Run(patient(h.t), "shop", h.name, kv, "", "1m")
	} else {
		err = home.RunReplicated(patient(h.t), "shop", h.name, kv, "", "1m", mode, shakenNames)
	}
	if err != nil {
		h.t.Fatalf("seed %d: %v", seed, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for i := range 5 {
		clients.Go(func() { h.client(ctx, i, seed) })
	}
	h.shake(mode)
	time.Sleep(20 * time.Millisecond) // what was held is answered, and something new is asked
	cancel()
	clients.Wait()
	for _, n := range h.s.nodes {
		_ = n.Stop(patient(h.t), "shop", h.name) // it is at one of them, or at none
	}
	if verdict := porcupine.CheckOperationsTimeout(kvModel, h.ops, 20*time.Second); verdict != porcupine.Ok {
		var all strings.Builder
		for _, o := range h.ops {
			fmt.Fprintf(&all, "%d: %v [%.3f, %.3f] %v\n", o.ClientId, o.Input, float64(o.Call)/1e6, float64(o.Return)/1e6, o.Output)
		}
		h.t.Errorf("seed %d, mode %q: %s\n%s\n%s", seed, mode, verdict, strings.Join(h.told, "\n"), &all)
	}
	return mode
}

// The key-value service is linearizable while it moves, nodes end and begin again, and lines are cut: as one process, and replicated.
func TestTheServiceIsLinearizable(t *testing.T) {
	t.Parallel()
	kv := module(t, built.kv)
	s := startShaken(t)
	var ops, unknown int
	modes := map[string]int{}
	for i := range *histories {
		seed := *firstSeed + uint64(i)
		h := &history{t: t, s: s, name: fmt.Sprint("kv", seed), rng: rand.New(rand.NewPCG(seed, 0)), began: time.Now()}
		mode := h.run(seed, kv)
		ops, unknown = ops+len(h.ops), unknown+h.unknown
		modes[mode]++
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d histories %v, %d operations, %d of unknown outcome", *histories, modes, ops, unknown)
}
