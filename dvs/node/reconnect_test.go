package node_test

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/node"
)

// restartable is a node that can end and begin anew, knowing nothing, at the same socket.
type restartable struct {
	*node.Node
	t    *testing.T
	path string
	wg   sync.WaitGroup
}

func newRestartable(t *testing.T) *restartable {
	r := &restartable{t: t, path: filepath.Join(t.TempDir(), "s")}
	t.Cleanup(r.end)
	r.begin()
	return r
}

func (r *restartable) begin() {
	r.t.Helper()
	n, err := node.New(node.Options{Name: "a", PeerTimeout: linkTimeout})
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.path, Net: "unix"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.Node = n
	r.wg.Go(func() { _ = n.Serve(l) })
}

func (r *restartable) end() {
	r.Close()
	r.wg.Wait()
}

func (r *restartable) wired() wired { return wired{r.Node, r.path} }

func (r *restartable) knows(name string, state endpoint.RouteState) func() bool {
	return func() bool {
		for _, i := range r.Endpoints() {
			if i.Name == name && i.State == state && i.PID != 0 {
				return true
			}
		}
		return false
	}
}

// A node that ends and begins anew is a pause: what its programs have asked each other is answered, once.
func TestASessionOutlivesItsNode(t *testing.T) {
	ways(t, func(t *testing.T, o dvs.Options) {
		o.Reconnect = time.Minute
		a := newRestartable(t)
		text := words{text: "kept"}
		e := bind(t, connect(t, a.path, o), "s", movable(&text))
		session := connect(t, a.path, o)
		var executed atomic.Int64
		received, answer := make(chan struct{}, 100), make(chan struct{}, 100)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				m, err := e.Receive(patient(t), dvs.Any)
				if err != nil {
					return
				}
				executed.Add(1)
				received <- struct{}{}
				<-answer
				_ = e.Reply(m, m.Payload)
			}
		})
		t.Cleanup(func() { close(answer); e.Session().Close(); wg.Wait() })
		for i := range 3 {
			got := make(chan error, 1)
			go func() {
				b, err := session.SendRec(patient(t), "s", []byte{byte(i)})
				if err == nil && b[0] != byte(i) {
					err = errors.New("another answer")
				}
				got <- err
			}()
			<-received
			a.end() // with a request in work
			if i == 1 {
				answer <- struct{}{} // it is answered while there is no node
			}
			a.begin()
			eventually(t, "the name again", a.knows("s", endpoint.Open))
			if i != 1 {
				answer <- struct{}{}
			}
			if err := <-got; err != nil {
				t.Fatal(err)
			}
			if n := executed.Load(); n != int64(i+1) {
				t.Fatalf("executed %d times, asked %d times", n, i+1)
			}
		}
		// It can move afterwards, and one that is held when its node ends is held until the move is decided.
		there := words{}
		taken := standby(t, a.wired(), &there)
		do(t, a.wired(), 7, prepareProcess, "a")
		do(t, a.wired(), 7, quiesceEndpoint, "a")
		a.end()
		a.begin()
		eventually(t, "the held name again", a.knows("s", endpoint.Moving))
		eventually(t, "the caller to hear of it", func() bool {
			_, err := session.SendRec(dvs.NoWait(patient(t)), "s", nil)
			return errors.Is(err, dvs.ErrMigrating)
		})
		do(t, a.wired(), 7, abortOld, "a")
		answer <- struct{}{}
		if _, err := session.SendRec(patient(t), "s", []byte("x")); err != nil {
			t.Fatal(err)
		}
		<-received
		eventually(t, "no standby", func() bool { return len(taken) == 0 })
	})
}

// What cannot be taken up again is said: a name that another has now, an owner that does not come back, a node that does not.
func TestWhatANodeThatBeganAnewCannotGiveBack(t *testing.T) {
	a := newRestartable(t)
	again := dvs.Options{Reconnect: 500 * time.Millisecond}
	client := connect(t, a.path, again)
	late, gone := connect(t, a.path, again), connect(t, a.path, dvs.Options{})
	e, lost := bind(t, late, "s", dvs.BindOptions{}), bind(t, gone, "gone", dvs.BindOptions{})
	waitingFor := make(chan error, 1)
	go func() {
		_, err := client.SendRec(patient(t), "gone", nil)
		waitingFor <- err
	}()
	eventually(t, "the request", func() bool { return lost.Pending() == 1 })
	a.end()
	wantEnd(t, lost)
	eventually(t, "the client to notice", func() bool { return errors.Is(client.Notify("s"), dvs.ErrNotConnected) })
	_, err := client.SendRec(dvs.NoWait(patient(t)), "s", nil)
	if err == nil {
		t.Error("asked a node that is not there")
	}
	a.begin()
	eventually(t, "the name again", a.knows("s", endpoint.Open))
	wantErr(t, <-waitingFor, dvs.ErrOutcomeUnknown)
	if err := e.Unbind(t.Context()); err != nil {
		t.Fatal(err)
	}
	e = bind(t, late, "s", dvs.BindOptions{})
	a.end()
	_, err = client.SendRec(patient(t), "s", nil)
	wantErr(t, err, dvs.ErrNotConnected)
	wantEnd(t, e)
}

// wantEnd receives what is there already (a request may come by a ring as long as neither end knows that the node has ended), and then that the node is gone.
func wantEnd(t *testing.T, e *dvs.Endpoint) {
	t.Helper()
	_, err := e.Receive(patient(t), dvs.Any)
	for err == nil {
		_, err = e.Receive(patient(t), dvs.Any)
	}
	wantErr(t, err, dvs.ErrNotConnected)
}

// Callers at other nodes are told, or answered, and go on.
func TestCallersElsewhereOutliveTheNodeOfTheirServer(t *testing.T) {
	c := startCluster(t, "a", "b")
	s := connect(t, c.socket["a"], dvs.Options{Reconnect: time.Minute})
	echo(t, bind(t, s, "s", dvs.BindOptions{}))
	client := connect(t, c.socket["b"], dvs.Options{})
	for round := range 2 {
		for i := range 20 {
			b, err := client.SendRec(patient(t), "s", fmt.Append(nil, round, i))
			if err != nil || string(b) != fmt.Sprint(round, i) {
				t.Fatal(string(b), err)
			}
		}
		c.node["a"].kill()
		_, err := client.SendRec(limit(t, 50*time.Millisecond), "s", nil)
		if err != nil && !errors.Is(err, dvs.ErrTimeout) && !errors.Is(err, dvs.ErrOutcomeUnknown) {
			t.Error(err)
		}
		c.startNode(t, "a")
		c.node["a"].must(t, "link", request{Name: "b", Addr: c.addr["b"]})
		eventually(t, "an answer", func() bool {
			_, err := client.SendRec(limit(t, time.Second), "s", nil)
			return err == nil
		})
	}
}
