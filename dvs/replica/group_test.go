package replica_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/dvs/replica/replicatest"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

// machine is the key-value machine behind the driver's interface.
type machine struct {
	mu    sync.Mutex
	kv    replicatest.Machine
	delta state.Delta
}

func newMachine() *machine { return &machine{kv: replicatest.Machine{}} }

func (m *machine) Call(_ context.Context, in replica.Input) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(in.Payload) == 0 {
		return nil, errors.New("empty")
	}
	out, d := m.kv.Call(in.Payload)
	m.delta = d
	return out, nil
}

func (m *machine) Changes() (state.Delta, error) {
	d := m.delta
	m.delta = state.Delta{}
	return d, nil
}

func (m *machine) Apply(d state.Delta) error {
	if d.Empty() {
		return errors.New("a change in which nothing has changed")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kv.Apply(d)
	return nil
}
func (m *machine) Snapshot() ([]byte, error) { return m.shown(), nil }

func (m *machine) Restore(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kv.Restore(b)
}
func (m *machine) Hash() uint64 { return xxh3.Hash(m.shown()) }

// shown is everything, also for the test.
func (m *machine) shown() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kv.Snapshot()
}

// memoryStore is a store in this process.
type memoryStore struct {
	mu     sync.Mutex
	record state.Record
	// swapped is called before the store says what it holds, if it is not nil.
	swapped func(ctx context.Context, held state.Record)
}

func (s *memoryStore) Load(context.Context) (state.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record, nil
}

func (s *memoryStore) Swap(ctx context.Context, epoch uint64, next state.Record) (state.Record, error) {
	s.mu.Lock()
	if s.record.Epoch == epoch {
		s.record = next
	}
	held := s.record
	s.mu.Unlock()
	if s.swapped != nil {
		s.swapped(ctx, held)
	}
	return held, ctx.Err()
}

var names = []string{"a", "b", "c"}

// group is replicas in this process, over loopback.
type group struct {
	t     testing.TB
	kind  replica.Kind
	store memoryStore
	wg    sync.WaitGroup

	mu    sync.Mutex
	addr  map[string]string
	alive map[string]*replica.Replica
	cut   map[[2]string]bool
	slow  map[[2]string]bool
	conns map[net.Conn][2]string
	stop  map[string]func()
}

func newGroup(t testing.TB, kind replica.Kind) *group { return newGroupOn(t, kind, nil) }

// newGroupOn is newGroup with what happens in the store.
func newGroupOn(t testing.TB, kind replica.Kind, swapped func(ctx context.Context, held state.Record)) *group {
	g := &group{
		t: t, kind: kind, store: memoryStore{swapped: swapped}, addr: map[string]string{}, alive: map[string]*replica.Replica{}, cut: map[[2]string]bool{}, slow: map[[2]string]bool{},
		conns: map[net.Conn][2]string{}, stop: map[string]func(){},
	}
	for _, n := range names {
		g.start(n)
	}
	t.Cleanup(func() {
		g.tell()
		for _, n := range names {
			g.kill(n)
		}
		g.wg.Wait()
	})
	return g
}

// tell shows who thinks what, if the test has failed.
func (g *group) tell() {
	if !g.t.Failed() {
		return
	}
	held, _ := g.store.Load(context.Background())
	g.t.Logf("the store holds %+v", held)
	for _, n := range names {
		if r := g.replica(n); r != nil {
			g.t.Logf("%s: %+v, %s", n, r.Last(), r.Describe())
		}
	}
}

func (g *group) start(name string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	o := replica.Options{
		Group: "kv", Self: name, Kind: g.kind, Machine: newMachine(), Store: &g.store, Every: 5 * time.Millisecond, Patience: 150 * time.Millisecond,
		CheckEvery: 50, Dial: func(ctx context.Context, peer string) (net.Conn, error) { return g.dial(ctx, name, peer) },
	}
	if os.Getenv("GODWIT_TEST_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for _, n := range names {
		if n != name {
			o.Peers = append(o.Peers, n)
		}
	}
	r, err := replica.New(o)
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.addr[name], g.alive[name], g.stop[name] = l.Addr().String(), r, func() { _ = l.Close() }
	g.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() { _ = r.Accept(c, "") })
		}
	})
}

func (g *group) dial(ctx context.Context, from, to string) (net.Conn, error) {
	g.mu.Lock()
	addr, cut := g.addr[to], g.cut[[2]string{from, to}]
	g.mu.Unlock()
	if cut || addr == "" {
		return nil, errors.New("cut off")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err == nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.conns[c] = [2]string{from, to}
		if g.slow[[2]string{from, to}] {
			return slowConn{c}, nil
		}
	}
	return c, err
}

// slowConn is a line on which an image of some megabytes takes a second.
type slowConn struct{ net.Conn }

func (c slowConn) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(len(b)/2048) * time.Millisecond)
	return c.Conn.Write(b)
}

// kill ends a replica as a crash would, as far as the others can see.
func (g *group) kill(name string) {
	g.mu.Lock()
	r, stop := g.alive[name], g.stop[name]
	delete(g.alive, name)
	delete(g.addr, name)
	g.mu.Unlock()
	if r != nil {
		stop()
		r.Close()
	}
}

// partition cuts one off from the others, or heals.
func (g *group) partition(name string, cut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range names {
		g.cut[[2]string{n, name}], g.cut[[2]string{name, n}] = cut, cut
	}
	for c, pair := range g.conns {
		if cut && (pair[0] == name || pair[1] == name) {
			_ = c.Close()
			delete(g.conns, c)
		}
	}
}

// cutOff cuts off who serves, and returns it when another one does. On a machine that is busy the others may have been too slow before, and be listed no
// more: then they have to join first.
func (g *group) cutOff() string {
	g.t.Helper()
	for {
		was := g.serving()
		if was == "" {
			continue
		}
		g.partition(was, true)
		alone := false
		eventually(g.t, "another one to serve", func() bool {
			held, _ := g.store.Load(context.Background())
			alone = g.kind == replica.Passive && held.Primary.Name == was && len(held.Synced) == 1
			now := g.serving()
			return alone || now != "" && now != was
		})
		if !alone {
			return was
		}
		g.partition(was, false)
		g.full()
	}
}

// serving returns who answers now, "" if nobody says so.
func (g *group) serving() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	best, epoch := "", uint64(0)
	for n, r := range g.alive {
		if c := r.Last(); c.Serving && c.Epoch > epoch {
			best, epoch = n, c.Epoch
		}
	}
	return best
}

func (g *group) replica(name string) *replica.Replica {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.alive[name]
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// full waits until all replicas are synced.
func (g *group) full() {
	g.t.Helper()
	eventually(g.t, "a full group", func() bool {
		r := g.replica(g.serving())
		return r != nil && len(r.Members()) == len(names) && (g.kind == replica.Passive || g.agree())
	})
}

// agree tells whether all active replicas have learned of the leader and answer by themselves.
func (g *group) agree() bool {
	for _, n := range names {
		r := g.replica(n)
		if r == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := r.Handle(ctx, state.Request{Caller: 1 << 40, Seq: 1, Payload: replicatest.Request(250, "")})
		cancel()
		if err != nil {
			return false
		}
	}
	return true
}

// load is closed-loop clients that write down what they saw.
type load struct {
	g       *group
	mu      sync.Mutex
	history replicatest.History
	began   time.Time
	answers int
	errs    []error
	wg      sync.WaitGroup
	cancel  context.CancelFunc
}

func (g *group) clients(count int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{g: g, cancel: cancel, began: time.Now()}
	for i := range count {
		l.wg.Go(func() { l.run(ctx, i) })
	}
	return l
}

func (l *load) run(ctx context.Context, client int) {
	rng := rand.New(rand.NewPCG(uint64(client), 1))
	for seq := uint64(1); ctx.Err() == nil; seq++ {
		o := replicatest.Operation{Key: byte(rng.IntN(4))}
		if seq%3 != 0 {
			o.Word = fmt.Sprintf("%d.%d ", client, seq)
		}
		if l.len() > 800 {
			o.Key = byte(10 + seq%50) // porcupine is exponential where a key has much
		}
		l.mu.Lock()
		l.history.Call(client, o, int64(time.Since(l.began)))
		l.mu.Unlock()
		reply, err := l.ask(state.Request{Caller: uint64(client + 1), Seq: seq, Payload: replicatest.Request(o.Key, o.Word)})
		l.mu.Lock()
		if err != nil {
			l.errs = append(l.errs, err)
		} else {
			l.answers++
			l.history.Answer(client, string(reply), int64(time.Since(l.began)))
		}
		l.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(time.Millisecond) // so that histories stay short enough to be checked
	}
}

func (l *load) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers
}

// ask asks whoever serves, until there is an answer: as the library does for a caller, by the route.
func (l *load) ask(q state.Request) ([]byte, error) {
	for end := time.Now().Add(60 * time.Second); ; {
		if r := l.g.replica(l.g.serving()); r != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			reply, err := r.Handle(ctx, q)
			cancel()
			if err == nil {
				return reply, nil
			}
			if time.Now().After(end) {
				return nil, err
			}
		} else if time.Now().After(end) {
			return nil, errors.New("nobody serves")
		}
		time.Sleep(time.Millisecond)
	}
}

// progress waits for so many more answers.
func (l *load) progress(more int) {
	l.g.t.Helper()
	was := l.len()
	eventually(l.g.t, "answers", func() bool { return l.len() >= was+more })
}

func (l *load) settle() {
	l.g.t.Helper()
	l.cancel()
	l.wg.Wait()
	for _, err := range l.errs {
		l.g.t.Error(err)
	}
	if !l.history.Linearizable() {
		l.g.t.Errorf("not linearizable:\n%s", l.history.String())
	}
	l.g.t.Logf("%d answers", l.answers)
}
