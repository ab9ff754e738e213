package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/node"
)

// These tests are named by the line of the acceptance list that they show. Processes that only talk are sessions of this process: they
// share nothing but their node's socket and its rings.

func patient(t testing.TB) context.Context { return limit(t, 30*time.Second) }

func wantErr(t testing.TB, err error, all ...error) {
	t.Helper()
	for _, want := range all {
		if !errors.Is(err, want) {
			t.Errorf("%v is not %q", err, want)
		}
	}
}

// places runs f with a server and a client on one node (direct and not), and on two.
func places(t *testing.T, f func(t *testing.T, server, client func() *dvs.Session)) {
	for _, o := range []dvs.Options{{}, {NodeOnly: true}} {
		t.Run(fmt.Sprintf("one node, NodeOnly %v", o.NodeOnly), func(t *testing.T) {
			_, path := startNode(t, node.Options{Name: "a"})
			f(t, func() *dvs.Session { return connect(t, path, o) }, func() *dvs.Session { return connect(t, path, o) })
		})
	}
	t.Run("two nodes", func(t *testing.T) {
		a, b := pair(t)
		f(t, func() *dvs.Session { return connect(t, a.path, dvs.Options{}) }, func() *dvs.Session { return connect(t, b.path, dvs.Options{}) })
	})
}

func TestLine02ContainersAreApart(t *testing.T) {
	_, path := startNode(t, node.Options{Name: "a", Admit: func(_ node.Program, c string) error {
		if c == "closed" {
			return errors.New("members only")
		}
		return nil
	}})
	for _, c := range []string{"red", "blue"} {
		e := bind(t, connect(t, path, dvs.Options{Container: c}), "same", dvs.BindOptions{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				m, err := e.ReceiveRequest(context.Background())
				if err != nil {
					return
				}
				_ = e.Reply(m, []byte(c))
			}
		}()
		t.Cleanup(func() { _ = e.Unbind(context.Background()); <-done })
	}
	for _, c := range []string{"red", "blue"} {
		got, err := connect(t, path, dvs.Options{Container: c}).SendRec(patient(t), "same", nil)
		if string(got) != c || err != nil {
			t.Errorf("in %s: %q, %v", c, got, err)
		}
	}
	_, err := connect(t, path, dvs.Options{Container: "green"}).SendRec(dvs.NoWait(patient(t)), "same", nil)
	wantErr(t, err, dvs.ErrNotBound)
	_, err = dvs.Connect(t.Context(), path, dvs.Options{Container: "closed"})
	wantErr(t, err, dvs.ErrContainer)
}

func TestLine03RendezvousAndOrder(t *testing.T) {
	places(t, func(t *testing.T, server, client func() *dvs.Session) {
		e := bind(t, server(), "to", dvs.BindOptions{})
		sent := make(chan int, 4)
		errs := make(chan error, 4)
		var senders []*dvs.Endpoint
		for i := range 4 {
			senders = append(senders, bind(t, client(), fmt.Sprint("from-", i), dvs.BindOptions{}))
		}
		for i, s := range senders {
			go func() {
				err := s.Send(patient(t), "to", fmt.Append(nil, i))
				sent <- i
				errs <- err
			}()
			eventually(t, "the message", func() bool { return e.Pending() == i+1 })
			if len(sent) > 0 {
				t.Fatal("a send returned before it was received")
			}
		}
		m, err := e.Receive(patient(t), "from-2")
		if err != nil || m.From != "from-2" || string(m.Payload) != "2" {
			t.Fatalf("%+v, %v", m, err)
		}
		if got := <-sent; got != 2 {
			t.Errorf("send %d returned", got)
		}
		for _, want := range []string{"0", "1", "3"} {
			if m, err := e.Receive(patient(t), dvs.Any); err != nil || string(m.Payload) != want {
				t.Fatalf("got %q, %v, want %s", m.Payload, err, want)
			}
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestLine04And05RepliesMatch(t *testing.T) {
	places(t, func(t *testing.T, server, client func() *dvs.Session) {
		e := bind(t, server(), "s", dvs.BindOptions{})
		const n = 8
		got := make(chan string, n)
		for i := range n {
			c := client()
			go func() {
				b, err := c.SendRec(patient(t), "s", fmt.Append(nil, i))
				got <- fmt.Sprint(i, string(b), err)
			}()
		}
		var all []dvs.Message
		for range n {
			m, err := e.ReceiveRequest(patient(t))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, m)
		}
		for _, m := range slices.Backward(all) { // in another order than they came
			if err := e.Reply(m, m.Payload); err != nil {
				t.Error(err)
			}
		}
		for range n {
			if s := <-got; len(s) != len("00<nil>") || s[0] != s[1] {
				t.Error(s)
			}
		}
		wantErr(t, e.Reply(all[0], nil), dvs.ErrNotWaiting)

		impatient := client()
		_, err := impatient.SendRec(limit(t, 100*time.Millisecond), "s", []byte("late"))
		wantErr(t, err, dvs.ErrTimeout, context.DeadlineExceeded)
		if m, err := e.ReceiveRequest(dvs.NoWait(patient(t))); err == nil { // it may have been taken back in time
			wantErr(t, e.Reply(m, nil), nil)
		}
	})
}

// A request that is refused fails with the program's own text.
func TestLine05ARequestCanBeRefused(t *testing.T) {
	places(t, func(t *testing.T, server, client func() *dvs.Session) {
		e := bind(t, server(), "s", dvs.BindOptions{})
		c := client()
		got := make(chan error, 1)
		go func() {
			_, err := c.SendRec(patient(t), "s", nil)
			got <- err
		}()
		m, err := e.ReceiveRequest(patient(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Refuse(m, "not today"); err != nil {
			t.Error(err)
		}
		err = <-got
		wantErr(t, err, dvs.ErrRefused)
		if !strings.Contains(fmt.Sprint(err), "not today") {
			t.Error(err)
		}
		wantErr(t, e.Refuse(m, "again"), dvs.ErrNotWaiting)
	})
}

func TestLine05OnlyRequestsAreRequests(t *testing.T) {
	_, path := startNode(t, node.Options{Name: "a"})
	e := bind(t, connect(t, path, dvs.Options{}), "s", dvs.BindOptions{})
	c := connect(t, path, dvs.Options{})
	sent := make(chan error, 1)
	go func() { sent <- c.Send(patient(t), "s", nil) }()
	_, err := e.ReceiveRequest(limit(t, 100*time.Millisecond))
	wantErr(t, err, dvs.ErrTimeout)
	if _, err := e.Receive(patient(t), dvs.Any); err != nil {
		t.Error(err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestLine06NotificationsCoalesceAndComeFirst(t *testing.T) {
	places(t, func(t *testing.T, server, client func() *dvs.Session) {
		e := bind(t, server(), "s", dvs.BindOptions{})
		c := client()
		sent := make(chan error, 3)
		go func() { sent <- client().Send(patient(t), "s", []byte("first")) }()
		eventually(t, "the message", func() bool { return e.Pending() == 1 })
		for _, n := range []*dvs.Endpoint{bind(t, c, "one", dvs.BindOptions{}), bind(t, client(), "two", dvs.BindOptions{})} {
			eventuallyBound(t, n.Session(), "s")
			for range 5 {
				if err := n.Notify("s"); err != nil {
					t.Fatal(err)
				}
			}
			go func() { sent <- n.Send(patient(t), "s", []byte("last")) }() // comes after them
		}
		eventually(t, "the notifications", func() bool { return e.Pending() == 5 })
		var got []string
		for range 5 {
			m, err := e.Receive(patient(t), dvs.Any)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(m.Kind, m.From, string(m.Payload)))
		}
		slices.Sort(got[:2])
		want := []string{fmt.Sprint(endpoint.Notify, "one"), fmt.Sprint(endpoint.Notify, "two"), fmt.Sprint(endpoint.Send, "first")}
		if !slices.Equal(got[:3], want) {
			t.Errorf("got %v, want %v", got, want)
		}
		for range 3 {
			if err := <-sent; err != nil {
				t.Error(err)
			}
		}
		if _, err := e.Receive(dvs.NoWait(patient(t)), dvs.Any); !errors.Is(err, dvs.ErrAgain) {
			t.Errorf("something was left: %v", err)
		}
	})
}

func TestLine07Timeouts(t *testing.T) {
	t.Parallel()
	places(t, func(t *testing.T, server, client func() *dvs.Session) {
		e := bind(t, server(), "s", dvs.BindOptions{})
		c := client()
		_, err := e.Receive(dvs.NoWait(patient(t)), dvs.Any)
		wantErr(t, err, dvs.ErrAgain)
		_, err = e.Receive(limit(t, 30*time.Millisecond), dvs.Any)
		wantErr(t, err, dvs.ErrTimeout, context.DeadlineExceeded)
		_, err = c.SendRec(limit(t, 30*time.Millisecond), "nobody", nil)
		wantErr(t, err, dvs.ErrTimeout, dvs.ErrNotBound)
		_, err = c.SendRec(dvs.NoWait(patient(t)), "nobody", nil)
		wantErr(t, err, dvs.ErrNotBound)
		eventuallyBound(t, c, "s")
		_, err = c.SendRec(dvs.NoWait(patient(t)), "s", nil)
		wantErr(t, err, dvs.ErrAgain)
		_, err = c.SendRec(limit(t, 60*time.Millisecond), "s", []byte("given up"))
		wantErr(t, err, dvs.ErrTimeout)
		canceled, cancel := context.WithCancel(t.Context())
		time.AfterFunc(30*time.Millisecond, cancel)
		_, err = c.SendRec(canceled, "s", []byte("given up"))
		wantErr(t, err, dvs.ErrTimeout, context.Canceled)
		echo(t, e)
		if got, err := c.SendRec(t.Context(), "s", []byte("usable")); string(got) != "usable" || err != nil {
			t.Errorf("afterwards: %q, %v", got, err)
		}
	})
}

// eventuallyBound waits until a client's node knows the name: another node tells it a moment after the bind.
func eventuallyBound(t testing.TB, c *dvs.Session, name string) {
	t.Helper()
	eventually(t, name+" bound", func() bool {
		err := c.Send(dvs.NoWait(patient(t)), name, nil)
		return !errors.Is(err, dvs.ErrNotBound)
	})
}

func TestLine08CopiesBetweenBuffers(t *testing.T) {
	places(t, func(t *testing.T, server, client func() *dvs.Session) {
		const size = 700_001
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * i >> 3)
		}
		from, to := bind(t, server(), "from", dvs.BindOptions{}), bind(t, client(), "to", dvs.BindOptions{})
		into := make([]byte, size)
		from.Register("data", data, dvs.Access{Read: true})
		to.Register("room", into, dvs.Access{Write: true})
		third := bind(t, client(), "third", dvs.BindOptions{})
		eventuallyBound(t, third.Session(), "from")
		eventuallyBound(t, third.Session(), "to")
		release := []func(){blocked(t, from), blocked(t, to)}
		ctx := patient(t)
		if err := third.Copy(ctx, dvs.Place{Endpoint: "to", Buffer: "room"}, dvs.Place{Endpoint: "from", Buffer: "data"}, size); err != nil {
			t.Fatal(err)
		}
		own := make([]byte, size)
		third.Register("own", own, dvs.Access{})
		if err := third.Copy(ctx, dvs.Place{Endpoint: "third", Buffer: "own"}, dvs.Place{Endpoint: "from", Buffer: "data"}, size); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, own) {
			t.Error("the requester's own copy differs")
		}
		place := dvs.Place{Endpoint: "third", Buffer: "own"}
		wantErr(t, third.Copy(ctx, place, dvs.Place{Endpoint: "from", Buffer: "data", Offset: 1}, size), dvs.ErrRange)
		wantErr(t, third.Copy(ctx, place, dvs.Place{Endpoint: "from", Buffer: "data", Offset: 1<<64 - 1}, 2), dvs.ErrRange)
		wantErr(t, third.Copy(ctx, place, dvs.Place{Endpoint: "from", Buffer: "other"}, 1), dvs.ErrNoBuffer)
		wantErr(t, third.Copy(ctx, dvs.Place{Endpoint: "from", Buffer: "data"}, place, 1), dvs.ErrDenied)
		wantErr(t, third.Copy(ctx, place, dvs.Place{Endpoint: "to", Buffer: "room"}, 1), dvs.ErrDenied)
		for _, f := range release { // an owner may look at its buffers when it is not blocked
			f()
		}
		if !bytes.Equal(data, into) {
			t.Error("the copy differs")
		}
	})
}

// blocked keeps an endpoint waiting for a message until the test ends or the function that it returns is called.
func blocked(t testing.TB, e *dvs.Endpoint) (release func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = e.Receive(ctx, "nobody")
		}
	}()
	release = func() { cancel(); <-done }
	t.Cleanup(release)
	return release
}

func TestLine09DeathWakesEverybody(t *testing.T) {
	places(t, func(t *testing.T, server, client func() *dvs.Session) {
		s := server()
		e := bind(t, s, "s", dvs.BindOptions{})
		errs := make(chan error, 5)
		c := client()
		eventuallyBound(t, c, "s")
		for range 3 {
			go func() {
				_, err := client().SendRec(t.Context(), "s", []byte("x"))
				errs <- err
			}()
		}
		w := bind(t, c, "waiter", dvs.BindOptions{})
		woken := make(chan error, 1)
		go func() {
			_, err := w.Receive(t.Context(), "s")
			woken <- err
		}()
		for range 3 {
			if _, err := e.ReceiveRequest(patient(t)); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		for range 3 {
			wantErr(t, <-errs, dvs.ErrOutcomeUnknown, dvs.ErrDestinationDied)
		}
		wantErr(t, <-woken, dvs.ErrSourceDied)
		_, err := w.Receive(t.Context(), "s") // also when it has died before
		wantErr(t, err, dvs.ErrSourceDied)
		_, err = e.Receive(t.Context(), dvs.Any)
		wantErr(t, err, dvs.ErrClosed)
		_, err = c.SendRec(dvs.NoWait(t.Context()), "s", nil)
		wantErr(t, err, dvs.ErrNotBound)
	})
}

// An endpoint that bounds its queue refuses what is too much, and takes more once there is room.
func TestLine09AQueueThatIsFull(t *testing.T) {
	places(t, func(t *testing.T, server, client func() *dvs.Session) {
		e := bind(t, server(), "s", dvs.BindOptions{Queue: 2})
		got := make(chan error, 2)
		for range 2 {
			c := client()
			go func() { got <- c.Send(patient(t), "s", []byte("waits")) }()
		}
		eventually(t, "a full queue", func() bool { return e.Pending() == 2 })
		c := client()
		refused := make(chan error, 1)
		go func() { refused <- c.Send(patient(t), "s", []byte("too much")) }()
		eventually(t, "a refusal", func() bool { _ = e.Pending(); return len(refused) > 0 }) // a program that computes looks now and then
		wantErr(t, <-refused, dvs.ErrOverrun)
		for range 2 {
			if _, err := e.Receive(patient(t), dvs.Any); err != nil {
				t.Fatal(err)
			}
			if err := <-got; err != nil {
				t.Error(err)
			}
		}
		echo(t, e)
		if _, err := c.SendRec(patient(t), "s", []byte("now")); err != nil {
			t.Error(err)
		}
	})
}

func TestLine09OtherErrors(t *testing.T) {
	n, path := startNode(t, node.Options{Name: "a", MaxPayload: 1000})
	s := connect(t, path, dvs.Options{})
	e := bind(t, s, "s", dvs.BindOptions{})
	_, err := connect(t, path, dvs.Options{}).Bind(patient(t), "s", dvs.BindOptions{})
	wantErr(t, err, dvs.ErrNameUsed)
	_, err = s.Bind(patient(t), "", dvs.BindOptions{})
	wantErr(t, err, dvs.ErrName)
	_, err = s.SendRec(patient(t), "s", make([]byte, 1001))
	wantErr(t, err, dvs.ErrTooLong)
	if err := e.Unbind(patient(t)); err != nil {
		t.Error(err)
	}
	_, err = e.Receive(patient(t), dvs.Any)
	wantErr(t, err, dvs.ErrUnbound)
	_, err = dvs.Connect(t.Context(), path+"-not", dvs.Options{Container: "c"})
	wantErr(t, err, dvs.ErrNotConnected)
	first := make(chan error, 1)
	go func() { first <- s.Send(t.Context(), "nobody", nil) }()
	eventually(t, "a busy session", func() bool {
		return errors.Is(s.Send(dvs.NoWait(t.Context()), "nobody", nil), dvs.ErrBusy)
	})
	n.Close()
	wantErr(t, <-first, dvs.ErrNotConnected)
}
