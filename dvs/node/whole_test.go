package node_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

// elsewhere is another node at the same path, as a process finds it that has been moved.
func elsewhere(t *testing.T, name, path string) *node.Node {
	t.Helper()
	n, err := node.New(node.Options{Name: name, PeerTimeout: linkTimeout})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.Serve(l) })
	t.Cleanup(func() { n.Close(); wg.Wait() })
	return n
}

// A process that is frozen and finds itself at another node, as one does that CRIU has moved, gives up what it remembers of its endpoint, waits to take
// it over, and goes on in the Receive in which it was. It neither receives nor calls before.
func TestAProcessThatFindsItselfElsewhereWaitsForItsEndpoint(t *testing.T) {
	t.Setenv(dvs.EnvMoves, dvs.MovesWhole)
	t.Setenv(dvs.EnvName, "s")
	a := newRestartable(t)
	t.Setenv(dvs.EnvSocket, a.path)
	e := bind(t, connect(t, "", dvs.Options{}), "", dvs.BindOptions{})
	if e.Name() != "s" {
		t.Fatalf("it has bound %q", e.Name())
	}
	received := make(chan string, 1)
	late := make(chan error, 1)
	go func() {
		m, err := e.Receive(limit(t, 50*time.Millisecond), dvs.Any) // whose time is over while it is frozen
		if err == nil {
			err = e.Reply(m, []byte("and here"))
		}
		received <- string(m.Payload)
		late <- err
	}()
	old := make(chan error, 1)
	go func() { old <- a.Do(patient(t), command(7, quiesceEndpoint, "a")) }() // held; nobody is there to stage it
	if err := <-old; err == nil {
		t.Fatal("there is no standby")
	}
	wantErr(t, e.Notify("x"), dvs.ErrMigrating)

	a.end()
	b := elsewhere(t, "b", a.path)
	eventually(t, "the process as a standby", func() bool { i := b.Endpoints(); return len(i) == 1 && i[0].Standby && i[0].PID == 0 })
	select {
	case err := <-late:
		t.Fatalf("it ran on, and was not told to: %v", err)
	default:
	}
	wantErr(t, e.Notify("x"), dvs.ErrMigrating)

	arrival := bind(t, connect(t, "", dvs.Options{}), "", dvs.BindOptions{})
	waiting := make(chan error, 1)
	go func() {
		_, err := arrival.Receive(patient(t), "s")
		waiting <- err
	}()
	answered := make(chan string, 1)
	go func() {
		b, _ := connect(t, "", dvs.Options{}).SendRec(patient(t), "s", []byte("there"))
		answered <- string(b)
	}()
	eventually(t, "the request", func() bool { return arrival.Pending() == 1 })
	do(t, wired{b, a.path}, 9, prepareProcess, "b")
	do(t, wired{b, a.path}, 9, quiesceEndpoint, "b")
	do(t, wired{b, a.path}, 9, commitNew, "b")
	wantErr(t, <-waiting, dvs.ErrMoved)
	if got := <-received; got != "there" {
		t.Errorf("received %q", got)
	}
	if err := <-late; err != nil {
		t.Error(err)
	}
	if got := <-answered; got != "and here" {
		t.Errorf("answered %q", got)
	}
}

// A program that was started to take a state over binds its name as a standby, whatever it says.
func TestAProgramThatTakesOverIsAStandby(t *testing.T) {
	a := newRestartable(t)
	text := words{text: "old"}
	owner := bind(t, connect(t, a.path, dvs.Options{}), "s", movable(&text))
	go func() { _, _ = owner.Receive(patient(t), dvs.Any) }()
	t.Setenv(dvs.EnvMoves, dvs.MovesState)
	t.Setenv(dvs.EnvName, "s")
	other := words{}
	there := make(chan *dvs.Endpoint, 1)
	s := connect(t, a.path, dvs.Options{})
	go func() {
		e, _ := s.Bind(patient(t), "", movable(&other))
		there <- e
	}()
	eventually(t, "the standby", func() bool { return a.Endpoints()[0].Standby })
	do(t, a.wired(), 5, prepareProcess, "a")
	do(t, a.wired(), 5, quiesceEndpoint, "a")
	do(t, a.wired(), 5, commitNew, "a")
	if e := <-there; e == nil || other.get() != "old" {
		t.Errorf("%v has %q", e, other.get())
	}
}
