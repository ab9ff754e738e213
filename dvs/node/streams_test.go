package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
)

// relay passes TCP connections on, and can cut them all.
type relay struct {
	mu   sync.Mutex
	live []net.Conn
	took int
	wg   sync.WaitGroup
	l    net.Listener
}

func newRelay(t testing.TB, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{l: l}
	r.wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				_ = a.Close()
				continue
			}
			r.mu.Lock()
			r.took++
			r.live = append(r.live, a, b)
			r.mu.Unlock()
			for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
				r.wg.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_, _ = way[0].Close(), way[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() { _ = l.Close(); r.cut(); r.wg.Wait() })
	return r
}

func (r *relay) cut() (took int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.live {
		_ = c.Close()
	}
	r.live = nil
	return r.took
}

// serveStreams lets a node's programs have streams, which pass through the relay.
func serveStreams(t testing.TB, n wired) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := newRelay(t, l.Addr().String())
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.ServeStreams(l, r.l.Addr().String()) })
	t.Cleanup(func() { n.Close(); wg.Wait() })
	return r
}

// streamed is a pair of nodes with a client at b that has a stream to a server at a. The server answers a number with the one after it, and notes it.
func streamed(t *testing.T, secured bool) (a, b wired, client *dvs.Session, executed func() map[uint64]int, r *relay) {
	if secured {
		a, b, _ = securePair(t, same, "b")
	} else {
		a, b = pair(t)
	}
	r = serveStreams(t, a)
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", dvs.BindOptions{})
	var mu sync.Mutex
	count := map[uint64]int{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			m, err := e.Receive(context.Background(), dvs.Any)
			if err != nil {
				return
			}
			if m.Kind != endpoint.SendRec {
				continue
			}
			if len(m.Payload) == 8 {
				mu.Lock()
				count[binary.LittleEndian.Uint64(m.Payload)]++
				mu.Unlock()
			}
			_ = e.Reply(m, m.Payload)
		}
	})
	t.Cleanup(func() { e.Session().Close(); wg.Wait() })
	e.Register("book", book(), dvs.Access{Read: true})
	e.Register("sheet", make([]byte, bookSize), dvs.Access{Write: true})
	client = connect(t, b.path, dvs.Options{})
	talkByStream(t, a, b, client)
	return a, b, client, func() map[uint64]int { mu.Lock(); defer mu.Unlock(); return count }, r
}

// talkByStream has a client at b ask "s", which is at a, until what it asks passes by a stream.
func talkByStream(t testing.TB, a, b wired, client *dvs.Session) {
	t.Helper()
	eventually(t, "a stream", func() bool {
		was := a.Stats().In
		if _, err := client.SendRec(patient(t), "s", []byte("talk")); err != nil {
			t.Fatal(err)
		}
		return b.Stats().Streams > 0 && a.Stats().In == was
	})
}

// Programs at two nodes that talk much get a connection of their own: the nodes are out of their way, whatever they say.
func TestProgramsThatTalkMuchGetAStream(t *testing.T) {
	for _, secured := range []bool{false, true} {
		t.Run(fmt.Sprint("secure ", secured), func(t *testing.T) {
			a, b, client, _, _ := streamed(t, secured)
			before := a.Stats().In
			for i := range 200 {
				payload := bytes.Repeat([]byte{byte(i)}, i*i*20)
				got, err := client.SendRec(patient(t), "s", payload)
				if err != nil || !bytes.Equal(got, payload) {
					t.Fatalf("%d bytes came back as %d: %v", len(payload), len(got), err)
				}
			}
			if n := a.Stats().In - before; n > 10 { // a caller that waits long asks by the nodes
				t.Errorf("%d packets passed through the nodes", n)
			}
			if err := client.Send(patient(t), "s", []byte("x")); err != nil {
				t.Error(err)
			}
			if err := client.Notify("s"); err != nil {
				t.Error(err)
			}
			e := bind(t, client, "copier", dvs.BindOptions{})
			for range 20 {
				if err := copyBook(patient(t), e, "s"); err != nil {
					t.Fatal(err)
				}
			}
			if n := b.Stats().Streams; n != 1 {
				t.Errorf("%d streams", n)
			}
		})
	}
}

// A copy of many steps has several of them under way, by a stream or through the nodes, and is right; one that fails says where.
func TestACopyOfManySteps(t *testing.T) {
	const size = 5<<20 + 12345
	for _, o := range []dvs.Options{{}, {NodeOnly: true}} {
		t.Run(fmt.Sprint("through the nodes ", o.NodeOnly), func(t *testing.T) {
			a, b := pair(t)
			serveStreams(t, a)
			there := bind(t, connect(t, a.path, o), "s", dvs.BindOptions{})
			from, to := make([]byte, size), make([]byte, size)
			for i := range from {
				from[i] = byte(i ^ i>>7 ^ i>>15)
			}
			there.Register("from", from, dvs.Access{Read: true})
			there.Register("to", to, dvs.Access{Write: true})
			waiting(t, there)
			e := bind(t, connect(t, b.path, o), "own", dvs.BindOptions{})
			room := make([]byte, size)
			e.Register("room", room, dvs.Access{})
			own := dvs.Place{Endpoint: "own", Buffer: "room"}
			for range 3 { // at some time by a stream
				there.Pending() // the race detector does not know that who is blocked has ended writing
				clear(room)
				clear(to)
				if err := e.Copy(patient(t), own, dvs.Place{Endpoint: "s", Buffer: "from"}, size); err != nil {
					t.Fatal(err)
				}
				if err := e.Copy(patient(t), dvs.Place{Endpoint: "s", Buffer: "to"}, own, size); err != nil {
					t.Fatal(err)
				}
				there.Pending()
				if !bytes.Equal(room, from) || !bytes.Equal(to, from) {
					t.Fatal("the copy differs")
				}
			}
			if s := b.Stats().Streams; (s > 0) == o.NodeOnly {
				t.Errorf("%d streams", s)
			}
			wantErr(t, e.Copy(patient(t), own, dvs.Place{Endpoint: "s", Buffer: "from", Offset: 1}, size), dvs.ErrRange)
			wantErr(t, e.Copy(patient(t), own, dvs.Place{Endpoint: "s", Buffer: "none"}, size), dvs.ErrNoBuffer)
		})
	}
}

// A stream may break at any moment: what was under way is executed once, and answered.
func TestAStreamThatBreaksLosesNothing(t *testing.T) {
	_, b, client, executed, r := streamed(t, true)
	const callers, calls = 8, 1500
	var wg sync.WaitGroup
	for i := range uint64(callers) {
		c, err := client.Client()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for k := range uint64(calls) {
				want := binary.LittleEndian.AppendUint64(nil, i*calls+k)
				got, err := c.SendRec(patient(t), "s", want)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d: %v, %v", k, got, err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		was := b.Stats().Streams
		eventually(t, "another stream, or the end", func() bool {
			select {
			case <-done:
				running = false
			default:
				r.cut() // what the relay has accepted by now
			}
			return !running || b.Stats().Streams > was
		})
	}
	if n := r.cut(); n < 2 {
		t.Errorf("%d streams in all", n)
	}
	for i := range uint64(callers * calls) {
		if n := executed()[i]; n != 1 {
			t.Fatalf("request %d was executed %d times", i, n)
		}
	}
}

// Callers that begin and stop at any moment are answered, each by the stream: nobody waits for one who does not ask any more, or sleeps with an
// answer that has come. If somebody did, it would ask by the nodes after a while.
func TestCallersThatComeAndGoAreAllAnswered(t *testing.T) {
	a, _, client, executed, _ := streamed(t, false)
	const callers, active, bursts = 12, 4, 60
	turns := make(chan struct{}, active)
	for range active {
		turns <- struct{}{}
	}
	before := a.Stats().In
	var next atomic.Uint64
	var wg sync.WaitGroup
	for i := range uint64(callers) {
		c, err := client.Client()
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, i))
		wg.Go(func() {
			for range bursts {
				<-turns
				for range 1 + rng.IntN(8) {
					want := binary.LittleEndian.AppendUint64(nil, next.Add(1))
					if got, err := c.SendRec(patient(t), "s", want); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%x came back as %x: %v", want, got, err)
					}
				}
				turns <- struct{}{}
			}
		})
	}
	wg.Wait()
	if n := a.Stats().In - before; n > 10 {
		t.Errorf("%d packets passed through the nodes", n)
	}
	for i := uint64(1); i <= next.Load(); i++ {
		if n := executed()[i]; n != 1 {
			t.Fatalf("request %d was executed %d times", i, n)
		}
	}
}

// An endpoint that moves takes its callers along: their stream ends, and what they ask goes to where it is.
func TestAStreamEndsWhenItsEndpointMoves(t *testing.T) {
	a, b := pair(t)
	serveStreams(t, a)
	text, there := words{text: "x"}, words{}
	old := bind(t, connect(t, a.path, dvs.Options{}), "s", movable(&text))
	echo(t, old)
	client := connect(t, b.path, dvs.Options{})
	talkByStream(t, a, b, client)
	taken := standby(t, b, &there)
	do(t, b, 7, prepareProcess, "a")
	do(t, a, 7, prepareEndpoint, "b")
	do(t, a, 7, quiesceEndpoint, "b")
	got := make(chan error, 1)
	go func() {
		_, err := client.SendRec(patient(t), "s", []byte("while it is held"))
		got <- err
	}()
	do(t, b, 7, commitNew, "a")
	do(t, a, 7, commitOld, "b")
	echo(t, <-taken)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	before := a.Stats().In
	for range 200 {
		if _, err := client.SendRec(patient(t), "s", []byte("here")); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.Stats().In - before; n > 10 {
		t.Errorf("%d packets went to where it was", n)
	}
}
