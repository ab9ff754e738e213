package dvshost_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

// hole is lines between nodes that swallow everything while it is dark, as a machine does that has lost its power: nobody is told of anything.
type hole struct {
	wg sync.WaitGroup

	mu    sync.Mutex
	dark  bool
	word  string // makes it dark when it is said
	pass  bool   // that word still
	fell  chan struct{}
	conns map[net.Conn]struct{}
}

func newHole(t *testing.T) *hole {
	h := &hole{conns: map[net.Conn]struct{}{}}
	t.Cleanup(func() { h.end(); h.wg.Wait() })
	return h
}

// await makes it dark when the word is said, before it has been carried, or just after that.
func (h *hole) await(word string, pass bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.word, h.pass, h.fell = word, pass, make(chan struct{})
}

// end makes it light; what was under way is lost.
func (h *hole) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dark = false
	for c := range h.conns {
		_ = c.Close()
	}
}

// swallow tells whether these bytes go nowhere.
func (h *hole) swallow(b []byte) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.dark
	if h.word != "" && bytes.Contains(b, []byte(h.word)) {
		h.word, h.dark = "", true
		close(h.fell)
		return !h.pass
	}
	return was
}

// to returns an address that leads to another through the hole.
func (h *hole) to(t *testing.T, address string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	h.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				_ = in.Close()
				continue
			}
			h.mu.Lock()
			h.conns[in], h.conns[out] = struct{}{}, struct{}{}
			h.mu.Unlock()
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				h.wg.Go(func() { h.carry(pair[0], pair[1]) })
			}
		}
	})
	return l.Addr().String()
}

func (h *hole) carry(from, to net.Conn) {
	defer func() {
		_, _ = from.Close(), to.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.conns, from)
		delete(h.conns, to)
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 && !h.swallow(b[:n]) {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// lonely is two nodes with a hole between them, and a move from a to b that falls into it.
type lonely struct {
	*hole
	a, b    *testNode
	options dvshost.NodeOptions // of a
	moved   chan error
}

// fallInto moves a process whose counter is 42, and returns when the hole is dark.
func fallInto(t *testing.T, word string, pass bool) *lonely {
	t.Helper()
	return fallIntoWith(t, word, pass, func(a, _ *testNode) { a.run(t, "shop", "counter", module(t, built.counter)) })
}

func fallIntoWith(t *testing.T, word string, pass bool, start func(a, b *testNode)) *lonely {
	t.Helper()
	l := &lonely{hole: newHole(t), moved: make(chan error, 1)}
	nodes := startNodes(t, func(o *dvshost.NodeOptions) {
		o.PeerTimeout, o.State = 2*time.Second, t.TempDir() // a busy machine is not taken for a dead one
		for n, address := range o.Peers {
			o.Peers[n] = l.to(t, address)
		}
		if o.Name == "a" {
			l.options = *o
		}
	}, "a", "b")
	l.a, l.b = nodes["a"], nodes["b"]
	start(l.a, l.b)
	l.a.ask(t, "shop", "counter", "42")
	l.b.ask(t, "shop", "counter", "0") // b knows where it is
	l.await(word, pass)
	go func() {
		_, err := l.a.Move(context.WithoutCancel(patient(t)), dvshost.MoveRequest{Container: "shop", Name: "counter", To: "b"})
		l.moved <- err
	}()
	select {
	case <-l.fell:
	case err := <-l.moved:
		t.Fatalf("the move ended: %v", err)
	}
	return l
}

// phase waits until the move is in a phase.
func (l *lonely) phase(t *testing.T, want string) {
	t.Helper()
	eventually(t, "phase "+want, func() string {
		all, err := l.a.Moves(patient(t))
		if err != nil || len(all) != 1 || all[0].Phase != want {
			return fmt.Sprint(all, err)
		}
		return ""
	})
}

// alone waits until the process is at a, and nothing is left of it at b.
func (l *lonely) alone(t *testing.T, counter string) {
	t.Helper()
	eventually(t, "the process at a alone", func() string {
		atA, errA := l.a.List(patient(t))
		atB, errB := l.b.List(patient(t))
		moves, err := l.a.Moves(patient(t))
		if errA != nil || errB != nil || err != nil || len(atA) != 1 || atA[0].State != "running" || len(atB) != 0 || len(moves) != 0 {
			return fmt.Sprint(atA, atB, moves, errA, errB, err)
		}
		return ""
	})
	for _, n := range []*testNode{l.a, l.b} {
		if got := n.ask(t, "shop", "counter", "0"); got != counter {
			t.Errorf("asked from %s the counter is %s, want %s", n.name, got, counter)
		}
	}
}

// eventually waits until what is wrong is nothing.
func eventually(t *testing.T, what string, wrong func() string) {
	t.Helper()
	var is string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if is = wrong(); is == "" {
			return
		}
	}
	t.Fatalf("waited in vain for %s: %s", what, is)
}

func (l *lonely) abort(t *testing.T, giveUp bool) (dvshost.AbortInfo, error) {
	return l.a.Abort(patient(t), dvshost.AbortRequest{Container: "shop", Name: "counter", GiveUp: giveUp})
}

// Until its commit a move is aborted whether its destination answers or not: the process goes on at once. A destination that comes back lets go, and
// the next move takes a higher epoch.
func TestAMoveIsAbortedThoughItsDestinationIsGone(t *testing.T) {
	for what, word := range map[string]string{"converging": "PUT /v1/pages", "preparing": `"step":"process/destination/prepare"`} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l := fallInto(t, word, what == "converging")
			l.phase(t, what)
			info, err := l.abort(t, false)
			if err != nil || !info.Here || info.Committed || info.Lost != "" || info.To != "b" || info.Epoch == 0 {
				t.Errorf("aborted: %+v, %v", info, err)
			}
			if err := <-l.moved; err == nil || !strings.Contains(err.Error(), "aborted by the operator") {
				t.Errorf("who asked for the move is told %v", err)
			}
			if got := l.a.ask(t, "shop", "counter", "1"); got != "43" {
				t.Errorf("the counter is %s", got)
			}
			if _, err := l.abort(t, false); err != nil { // b has not been told
				t.Error(err)
			}
			l.end()
			l.alone(t, "43")
			if _, err := l.abort(t, false); err == nil || !strings.Contains(err.Error(), "nothing of that name moves") {
				t.Errorf("nothing to abort: %v", err)
			}
			if done := l.a.move(t, "shop", "counter", "b", false); done.Epoch <= info.Epoch {
				t.Errorf("the next move has epoch %d after %d", done.Epoch, info.Epoch)
			}
			if got := l.a.ask(t, "shop", "counter", "0"); got != "43" {
				t.Errorf("at b the counter is %s", got)
			}
		})
	}
}

// What was aborted, and the destination was never told of, can be forgotten: a destination that comes back after all finds that out by itself.
func TestAnAbortedMoveIsForgotten(t *testing.T) {
	t.Parallel()
	l := fallInto(t, "PUT /v1/pages", true)
	l.phase(t, "converging")
	if _, err := l.abort(t, false); err != nil {
		t.Fatal(err)
	}
	l.phase(t, "aborting")
	if info, err := l.abort(t, true); err != nil || !info.Here || info.Lost != "" {
		t.Errorf("forgotten: %+v, %v", info, err)
	}
	if all, err := l.a.Moves(patient(t)); err != nil || len(all) != 0 {
		t.Errorf("moves that are not over: %v, %v", all, err)
	}
	<-l.moved
	l.end()
	l.alone(t, "42")
}

// After its commit a move is not aborted. One whose destination is gone can be given up: the copy that is held goes on, and it is said what may be lost.
// A destination that comes back is refused, whether it had become the owner or not.
func TestAMoveIsGivenUpAfterItsCommit(t *testing.T) {
	for _, heard := range []bool{true, false} {
		t.Run(fmt.Sprintf("the destination heard of the commit %v", heard), func(t *testing.T) {
			t.Parallel()
			l := fallInto(t, `"step":"endpoint/destination/commit"`, heard)
			l.phase(t, "committed")
			if heard {
				eventually(t, "b to be the owner", func() string {
					all, err := l.b.List(patient(t))
					if err != nil || len(all) != 1 || all[0].State != "running" {
						return fmt.Sprint(all, err)
					}
					return ""
				})
			}
			if _, err := l.abort(t, false); err == nil || !strings.Contains(err.Error(), "was committed") {
				t.Errorf("an abort after the commit: %v", err)
			}
			waits := l.a.session(t, "shop")
			answer := make(chan string, 1)
			go func() { // a caller who waits all the time
				b, err := waits.SendRec(context.WithoutCancel(patient(t)), "counter", []byte("1"))
				answer <- fmt.Sprint(string(b), err)
			}()
			info, err := l.abort(t, true)
			if err != nil || !info.Here || !info.Committed || !strings.Contains(info.Lost, "since the commit") {
				t.Errorf("given up: %+v, %v", info, err)
			}
			if err := <-l.moved; err == nil || !strings.Contains(err.Error(), "given up by an operator") {
				t.Errorf("who asked for the move is told %v", err)
			}
			if got := <-answer; got != "43<nil>" {
				t.Errorf("who waited is answered %s", got)
			}
			l.end()
			l.alone(t, "43")
			l.a.move(t, "shop", "counter", "b", false)
			if got := l.a.ask(t, "shop", "counter", "0"); got != "43" {
				t.Errorf("at b the counter is %s", got)
			}
		})
	}
}

// outside is a program that counts, of which a node knows nothing but its endpoint.
type outside struct {
	owner chan struct{} // closed when it is the owner
	ended chan error    // why it serves no longer
}

func startOutside(t *testing.T, n *testNode, standby bool) *outside {
	t.Helper()
	o := &outside{owner: make(chan struct{}), ended: make(chan error, 1)}
	s := n.session(t, "shop")
	sum := 0
	options := dvs.BindOptions{
		Standby:  standby,
		Snapshot: func() ([]byte, error) { return []byte(strconv.Itoa(sum)), nil },
		Restore: func(b []byte) (err error) {
			sum, err = strconv.Atoi(string(b))
			return err
		},
	}
	go func() {
		e, err := s.Bind(context.Background(), "counter", options)
		if err != nil {
			o.ended <- err
			return
		}
		close(o.owner)
		for {
			m, err := e.Receive(context.Background(), dvs.Any)
			if err != nil {
				o.ended <- err
				return
			}
			n, _ := strconv.Atoi(string(m.Payload))
			sum += n
			_ = e.Reply(m, []byte(strconv.Itoa(sum)))
		}
	}()
	return o
}

// The same for a program outside of the nodes: the copy that goes on is newer than what the destination may have made of the commit.
func TestAMoveOfAProgramOutsideIsGivenUpAfterItsCommit(t *testing.T) {
	for _, heard := range []bool{true, false} {
		t.Run(fmt.Sprintf("the destination heard of the commit %v", heard), func(t *testing.T) {
			t.Parallel()
			var here, there *outside
			l := fallIntoWith(t, `"step":"endpoint/destination/commit"`, heard, func(a, b *testNode) {
				here = startOutside(t, a, false)
				<-here.owner
				there = startOutside(t, b, true)
			})
			l.phase(t, "committed")
			if heard {
				<-there.owner
			}
			info, err := l.abort(t, true)
			if err != nil || !info.Here || !info.Committed || !strings.Contains(info.Lost, "since the commit") {
				t.Errorf("given up: %+v, %v", info, err)
			}
			<-l.moved
			if got := l.a.ask(t, "shop", "counter", "1"); got != "43" {
				t.Errorf("at a the counter is %s", got)
			}
			l.end()
			if heard {
				if err := <-there.ended; !errors.Is(err, dvs.ErrMoved) {
					t.Errorf("who comes back is told %v", err)
				}
			}
			for _, n := range []*testNode{l.b, l.a} {
				if got := n.ask(t, "shop", "counter", "0"); got != "43" {
					t.Errorf("asked from %s the counter is %s", n.name, got)
				}
			}
			select {
			case err := <-here.ended:
				t.Errorf("the copy that went on has ended: %v", err)
			default:
			}
		})
	}
}

// A node that has begun again after the commit holds no copy any more: to give the move up frees the name, and says that the process is lost.
func TestAMoveIsGivenUpByANodeThatBeganAgain(t *testing.T) {
	t.Parallel()
	l := fallInto(t, `"step":"endpoint/destination/commit"`, true)
	l.phase(t, "committed")
	l.a.stop()
	<-l.moved
	l.a.start(t, l.options)
	l.phase(t, "committed")
	if err := l.a.Run(patient(t), "shop", "counter", module(t, built.counter), "", "1m"); err == nil {
		t.Error("the name is free while the move is carried out")
	}
	if _, err := l.abort(t, false); err == nil || !strings.Contains(err.Error(), "was committed") {
		t.Errorf("an abort after the commit: %v", err)
	}
	info, err := l.abort(t, true)
	if err != nil || info.Here || !info.Committed || !strings.Contains(info.Lost, "whole state") {
		t.Errorf("given up: %+v, %v", info, err)
	}
	l.a.run(t, "shop", "counter", module(t, built.counter))
	if got := l.a.ask(t, "shop", "counter", "7"); got != "7" {
		t.Errorf("the new counter is %s", got)
	}
	l.end()
	l.alone(t, "7")
}

// Whoever is about to answer is not given up.
func TestADestinationThatAnswersIsNotGivenUp(t *testing.T) {
	t.Parallel()
	l := fallInto(t, `"step":"endpoint/destination/commit"`, false)
	l.phase(t, "committed")
	l.end()
	info, err := l.abort(t, true)
	if err == nil || !strings.Contains(err.Error(), "answers") && !strings.Contains(err.Error(), "had come to its end") {
		t.Errorf("given up: %+v, %v", info, err)
	}
	if err := <-l.moved; err != nil {
		t.Errorf("the move failed: %v", err)
	}
	if got := l.a.ask(t, "shop", "counter", "0"); got != "42" {
		t.Errorf("at b the counter is %s", got)
	}
}
