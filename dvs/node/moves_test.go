package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/node"
)

func command(epoch uint64, step [3]string, peer string) node.Command {
	return node.Command{
		Container: "c", Endpoint: "s", Participant: step[0], Role: step[1], Verb: step[2], Epoch: epoch, Peer: peer,
	}
}

func do(t testing.TB, n wired, epoch uint64, step [3]string, peer string) {
	t.Helper()
	if err := n.Do(patient(t), command(epoch, step, peer)); err != nil {
		t.Fatal(err)
	}
}

// words is a state that is one string.
type words struct {
	mu   sync.Mutex
	text string
}

func (w *words) set(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = text
}

func (w *words) get() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text
}

// movable binds "s" with that state.
func movable(w *words) dvs.BindOptions {
	return dvs.BindOptions{
		Snapshot: func() ([]byte, error) { return []byte(w.get()), nil },
		Restore:  func(b []byte) error { w.set(string(b)); return nil },
	}
}

// standby waits to take "s" over; the channel tells when it has.
func standby(t testing.TB, n wired, s *words) chan *dvs.Endpoint {
	t.Helper()
	o := movable(s)
	o.Standby = true
	_, got := standbyWith(t, n, o)
	return got
}

func waitStandby(t testing.TB, n wired, o dvs.BindOptions) *dvs.Session {
	s, _ := standbyWith(t, n, o)
	return s
}

func standbyWith(t testing.TB, n wired, o dvs.BindOptions) (*dvs.Session, chan *dvs.Endpoint) {
	t.Helper()
	got := make(chan *dvs.Endpoint, 1)
	session := connect(t, n.path, dvs.Options{})
	var wg sync.WaitGroup
	wg.Go(func() {
		e, err := session.Bind(context.Background(), "s", o)
		if err == nil {
			got <- e
		}
		close(got)
	})
	t.Cleanup(func() { session.Close(); wg.Wait() })
	eventually(t, "a standby", func() bool {
		for _, i := range n.Endpoints() {
			if i.Name == "s" && i.Standby {
				return true
			}
		}
		return false
	})
	return session, got
}

// waiting makes an endpoint wait for a message that never comes, as a program does that is idle. It ends with the endpoint.
func waiting(t testing.TB, e *dvs.Endpoint) {
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = e.Receive(context.Background(), "nobody") })
	t.Cleanup(func() { _ = e.Unbind(context.Background()); wg.Wait() })
}

// Lines 14 and 16: what is queued at the server when the move begins, what is sent while it is held, and pending notifications are
// received at the new place, once, in order.
func TestLine14And16WhatWaitsMovesAlong(t *testing.T) {
	a, b := pair(t)
	text, there := words{text: "state of s"}, words{}
	old := bind(t, connect(t, a.path, dvs.Options{}), "s", movable(&text))
	taken := standby(t, b, &there)
	waiting(t, old)
	local, remote := connect(t, a.path, dvs.Options{}), connect(t, b.path, dvs.Options{})
	eventuallyBound(t, remote, "s")
	got := make(chan string, 8)
	ask := func(s *dvs.Session, payload string) {
		go func() {
			b, err := s.SendRec(patient(t), "s", []byte(payload))
			got <- fmt.Sprint(string(b), err)
		}()
	}
	ask(local, "1")
	eventually(t, "1", func() bool { return old.Pending() == 1 })
	ask(remote, "2")
	eventually(t, "2", func() bool { return old.Pending() == 2 })
	one := bind(t, connect(t, a.path, dvs.Options{}), "one", dvs.BindOptions{})
	if err := one.Notify("s"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the notification", func() bool { return old.Pending() == 3 })

	do(t, b, 7, prepareProcess, "a")
	do(t, a, 7, prepareEndpoint, "b")
	do(t, a, 7, quiesceEndpoint, "b")
	ask(connect(t, a.path, dvs.Options{}), "3") // these park
	ask(connect(t, b.path, dvs.Options{NodeOnly: true}), "4")
	two := bind(t, connect(t, b.path, dvs.Options{}), "two", dvs.BindOptions{})
	for _, n := range []*dvs.Endpoint{two, one} {
		if err := n.Notify("s"); err != nil {
			t.Fatal(err)
		}
	}
	late := connect(t, a.path, dvs.Options{})
	_, err := late.SendRec(dvs.NoWait(patient(t)), "s", nil)
	wantErr(t, err, dvs.ErrMigrating)
	_, err = late.SendRec(limit(t, 50*time.Millisecond), "s", nil)
	wantErr(t, err, dvs.ErrMigrating, dvs.ErrTimeout) // line 7: also while the peer migrates
	do(t, b, 7, commitNew, "a")
	do(t, a, 7, commitOld, "b")

	e := <-taken
	if there := there.get(); there != "state of s" {
		t.Errorf("the state came as %q", there)
	}
	var first []string
	eventually(t, "everything", func() bool { return e.Pending() == 6 })
	notes := map[string]int{}
	for range 6 {
		m, err := e.Receive(patient(t), dvs.Any)
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == endpoint.Notify {
			notes[m.From]++
			continue
		}
		first = append(first, string(m.Payload))
		if err := e.Reply(m, append(m.Payload, "!"...)); err != nil {
			t.Error(err)
		}
	}
	if first[0] != "1" || first[1] != "2" || notes["one"] != 1 || notes["two"] != 1 {
		t.Errorf("received %v and notifications %v", first, notes)
	}
	seen := map[string]bool{}
	for range 4 {
		seen[<-got] = true
	}
	for i := 1; i <= 4; i++ {
		if !seen[fmt.Sprint(i, "!<nil>")] {
			t.Errorf("replies %v", seen)
		}
	}
	_, err = old.Receive(patient(t), dvs.Any)
	wantErr(t, err, dvs.ErrMoved)
}

// Line 17: after a rollback those who parked on every node go on, and the server as well.
func TestLine17RollbackWakesEverybody(t *testing.T) {
	a, b := pair(t)
	text, there := words{text: "x"}, words{}
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", movable(&text))
	standby(t, b, &there)
	clients := []*dvs.Session{connect(t, a.path, dvs.Options{}), connect(t, b.path, dvs.Options{}), connect(t, a.path, dvs.Options{NodeOnly: true})}
	for _, c := range clients {
		eventuallyBound(t, c, "s")
	}
	echo(t, e)
	for epoch := uint64(3); epoch < 6; epoch++ {
		do(t, b, epoch, prepareProcess, "a")
		do(t, a, epoch, quiesceEndpoint, "b")
		errs := make(chan error, len(clients))
		for _, c := range clients {
			go func() {
				_, err := c.SendRec(patient(t), "s", []byte("parked"))
				errs <- err
			}()
		}
		for _, n := range []wired{b, a} {
			step, peer := abortNew, "a"
			if n == a {
				step, peer = abortOld, "b"
			}
			do(t, n, epoch, step, peer)
			do(t, n, epoch, step, peer) // again: nothing
		}
		for range clients {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
}

// An owner that goes on after a commit that was given up has an epoch above it: whoever obeyed that commit is refused, and callers need not know.
func TestAnOwnerThatGoesOnIsRaised(t *testing.T) {
	a, b := pair(t)
	text, there := words{text: "x"}, words{}
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", movable(&text))
	standby(t, b, &there)
	c := connect(t, b.path, dvs.Options{})
	eventuallyBound(t, c, "s")
	echo(t, e)
	do(t, b, 3, prepareProcess, "a")
	do(t, a, 3, quiesceEndpoint, "b")
	answered := make(chan error, 1)
	go func() {
		_, err := c.SendRec(patient(t), "s", []byte("parked"))
		answered <- err
	}()
	raise := command(5, abortOld, "b")
	raise.Raise = true
	for range 2 {
		if err := a.Do(patient(t), raise); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if _, err := c.SendRec(patient(t), "s", []byte("again")); err != nil {
		t.Error(err)
	}
	for _, n := range []wired{a, b} {
		for _, known := range n.Endpoints() {
			if known.Version.Epoch != 5 || known.State != endpoint.Open {
				t.Errorf("a node knows %+v", known)
			}
		}
	}
	for _, late := range []uint64{3, 4} {
		wantErr(t, b.Do(patient(t), command(late, commitNew, "a")), node.ErrOver)
	}
	do(t, b, 6, prepareProcess, "a")
	do(t, a, 6, quiesceEndpoint, "b")
	do(t, b, 6, commitNew, "a")
}

// Line 13: a request in work is finished before the move goes on; one that does not end makes it fail, and nothing hangs.
func TestLine13AnOpenRequestIsFinishedFirst(t *testing.T) {
	a, b := pair(t)
	text, there := words{text: "x"}, words{}
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", movable(&text))
	standby(t, b, &there)
	c := connect(t, b.path, dvs.Options{})
	eventuallyBound(t, c, "s")
	got := make(chan error, 1)
	go func() {
		_, err := c.SendRec(patient(t), "s", nil)
		got <- err
	}()
	m, err := e.ReceiveRequest(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	do(t, b, 3, prepareProcess, "a")
	err = a.Do(limit(t, 50*time.Millisecond), command(3, quiesceEndpoint, "b"))
	wantErr(t, err, context.DeadlineExceeded)
	do(t, b, 3, abortNew, "a")
	do(t, a, 3, abortOld, "b")
	do(t, b, 4, prepareProcess, "a")
	quiesced := make(chan error, 1)
	go func() { quiesced <- a.Do(patient(t), command(4, quiesceEndpoint, "b")) }()
	text.set("y")
	if err := e.Reply(m, nil); err != nil {
		t.Error(err)
	}
	waiting(t, e)
	if err := errors.Join(<-quiesced, <-got); err != nil {
		t.Fatal(err)
	}
	if there := there.get(); there != "y" {
		t.Errorf("the state came as %q", there)
	}
}

// Line 19: commands that come twice, late, or of an epoch that is over do no harm.
func TestLine19EpochsFence(t *testing.T) {
	a, b := pair(t)
	text, there := words{text: "x"}, words{}
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", movable(&text))
	taken := standby(t, b, &there)
	waiting(t, e)
	refused := func(n wired, epoch uint64, step [3]string, peer string) {
		t.Helper()
		if err := n.Do(patient(t), command(epoch, step, peer)); !errors.Is(err, node.ErrOver) {
			t.Errorf("%v of epoch %d: %v", step, epoch, err)
		}
	}
	for range 2 {
		do(t, b, 5, prepareProcess, "a")
		do(t, a, 5, quiesceEndpoint, "b")
	}
	refused(a, 4, quiesceEndpoint, "b")
	refused(b, 4, commitNew, "a")
	for range 2 {
		do(t, b, 5, abortNew, "a")
		do(t, a, 5, abortOld, "b")
	}
	refused(b, 5, commitNew, "a")
	refused(a, 5, commitOld, "b")
	refused(a, 5, quiesceEndpoint, "b")
	do(t, b, 6, prepareProcess, "a")
	if err := b.Do(patient(t), command(6, commitNew, "a")); err == nil {
		t.Error("a standby without a state became the owner")
	}
	do(t, b, 7, prepareProcess, "a")
	do(t, a, 7, quiesceEndpoint, "b")
	for range 2 {
		do(t, b, 7, commitNew, "a")
		do(t, a, 7, commitOld, "b")
	}
	refused(a, 7, abortOld, "b")
	refused(b, 7, abortNew, "a")
	if e := <-taken; e == nil {
		t.Fatal("the standby did not take over")
	}
}

// Line 18: the new owner's node dies before a third one has heard of the move. The name is free there, once the old owner's node has noticed.
func TestLine18TheNewOwnerDiesUnheard(t *testing.T) {
	a, b, w := severable(t, time.Second)
	var c wired
	c.Node, c.path = startNode(t, node.Options{Name: "c", PeerTimeout: time.Second})
	join(t, a, c, "a", "c", node.LinkOptions{})
	text, there := words{text: "x"}, words{}
	echo(t, bind(t, connect(t, a.path, dvs.Options{}), "s", movable(&text)))
	third := connect(t, c.path, dvs.Options{})
	eventuallyBound(t, third, "s")
	taken := standby(t, b, &there)
	do(t, b, 7, prepareProcess, "a")
	do(t, a, 7, prepareEndpoint, "b")
	do(t, a, 7, quiesceEndpoint, "b")
	do(t, b, 7, commitNew, "a")
	<-taken
	eventually(t, "what the new owner's node says", func() bool { return a.Endpoints()[0].Node == "b" })
	w.sever(true)
	eventually(t, "a free name", func() bool {
		_, err := third.Bind(patient(t), "s", dvs.BindOptions{})
		if err != nil {
			wantErr(t, err, dvs.ErrNameUsed)
		}
		return err == nil
	})
}

// Line 20: while the nodes are apart there is never a second owner, and the held one waits for the decision.
func TestLine20APartitionMakesNoSecondOwner(t *testing.T) {
	t.Parallel()
	a, b, w := severable(t, 300*time.Millisecond)
	text, there := words{text: "x"}, words{}
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", movable(&text))
	taken := standby(t, b, &there)
	echo(t, e)
	atA, atB := connect(t, a.path, dvs.Options{}), connect(t, b.path, dvs.Options{})
	eventuallyBound(t, atA, "s")
	eventuallyBound(t, atB, "s")
	do(t, b, 5, prepareProcess, "a")
	do(t, a, 5, quiesceEndpoint, "b")
	w.sever(true)
	eventually(t, "the partition to be noticed", func() bool {
		_, err := atB.SendRec(dvs.NoWait(t.Context()), "s", nil)
		return errors.Is(err, dvs.ErrNotBound)
	})
	_, err := atA.SendRec(limit(t, 50*time.Millisecond), "s", nil)
	wantErr(t, err, dvs.ErrMigrating)
	do(t, b, 5, commitNew, "a")
	echo(t, <-taken)
	if _, err := atB.SendRec(patient(t), "s", []byte("at b")); err != nil {
		t.Error(err)
	}
	_, err = atA.SendRec(limit(t, 50*time.Millisecond), "s", nil)
	wantErr(t, err, dvs.ErrMigrating)
	w.sever(false)
	if _, err := atA.SendRec(patient(t), "s", []byte("healed")); err != nil {
		t.Error(err)
	}
	_, err = e.Receive(patient(t), dvs.Any)
	wantErr(t, err, dvs.ErrMoved)
}

// Line 15: copies that are made while the owner of the buffer moves end well, and the data are whole.
func TestLine15CopiesGoOnDuringAMove(t *testing.T) {
	a, b := pair(t)
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(i * 31 >> 2)
	}
	text, there := words{text: "x"}, words{}
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", movable(&text))
	e.Register("data", data, dvs.Access{Read: true})
	blocked(t, e)
	taken := standby(t, b, &there)
	c := bind(t, connect(t, a.path, dvs.Options{}), "copier", dvs.BindOptions{})
	copies := make(chan error, 1)
	ctx, cancel := context.WithCancel(patient(t))
	first := make(chan struct{})
	go func() {
		into := make([]byte, len(data))
		c.Register("into", into, dvs.Access{})
		for n := 0; ctx.Err() == nil; n++ {
			clear(into)
			err := c.Copy(patient(t), dvs.Place{Endpoint: "copier", Buffer: "into"}, dvs.Place{Endpoint: "s", Buffer: "data"}, uint64(len(data)))
			if err == nil && !bytes.Equal(into, data) {
				err = errors.New("the copy differs")
			}
			if err != nil {
				copies <- err
				return
			}
			if n == 3 {
				close(first)
			}
		}
		copies <- nil
	}()
	<-first
	do(t, b, 7, prepareProcess, "a")
	do(t, a, 7, quiesceEndpoint, "b")
	do(t, b, 7, commitNew, "a")
	do(t, a, 7, commitOld, "b")
	now := <-taken
	now.Register("data", data, dvs.Access{Read: true})
	blocked(t, now)
	direct := bind(t, connect(t, b.path, dvs.Options{}), "direct", dvs.BindOptions{})
	own := make([]byte, 1)
	direct.Register("own", own, dvs.Access{})
	if err := direct.Copy(patient(t), dvs.Place{Endpoint: "direct", Buffer: "own"}, dvs.Place{Endpoint: "s", Buffer: "data", Offset: 9}, 1); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-copies; err != nil {
		t.Error(err)
	}
}

// A process that has left keeps nothing of the endpoint: when it ends, servers still know what the endpoint, as a caller, has asked.
func TestACallerThatMovedIsNotGone(t *testing.T) {
	a, b := pair(t)
	served := bind(t, connect(t, b.path, dvs.Options{}), "service", dvs.BindOptions{})
	echo(t, served)
	text, there := words{text: "x"}, words{}
	session := connect(t, a.path, dvs.Options{})
	e := bind(t, session, "s", movable(&text))
	taken := standby(t, b, &there)
	if _, err := e.SendRec(patient(t), "service", []byte("1")); err != nil {
		t.Fatal(err)
	}
	waiting(t, e)
	do(t, b, 7, prepareProcess, "a")
	do(t, a, 7, quiesceEndpoint, "b")
	_, err := e.SendRec(patient(t), "service", nil)
	wantErr(t, err, dvs.ErrMigrating)
	do(t, b, 7, commitNew, "a")
	do(t, a, 7, commitOld, "b")
	now := <-taken
	eventually(t, "the old owner's end", func() bool { return errors.Is(e.Notify("service"), dvs.ErrMoved) })
	_, err = e.SendRec(patient(t), "service", nil)
	wantErr(t, err, dvs.ErrMoved)
	session.Close()
	for i := range 20 {
		if _, err := now.SendRec(patient(t), "service", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
}
