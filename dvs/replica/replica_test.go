package replica_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/dvs/replica/replicatest"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

func both(t *testing.T, f func(t *testing.T, kind replica.Kind)) {
	for _, kind := range []replica.Kind{replica.Passive, replica.Active} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			f(t, kind)
		})
	}
}

func TestWhoeverServesIsKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind replica.Kind) {
		g := newGroup(t, kind)
		g.full()
		l := g.clients(4)
		for range 3 {
			l.progress(50)
			dead := g.serving()
			if dead == "" {
				continue
			}
			g.kill(dead)
			l.progress(50)
			g.start(dead)
			g.full()
		}
		l.settle()
	})
}

func TestAPersonIsToldWhatAGroupWaitsFor(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind replica.Kind) {
		g := newGroup(t, kind)
		g.full()
		dead := names[0]
		if dead == g.serving() {
			dead = names[1]
		}
		g.kill(dead)
		eventually(t, "the line to "+dead+" to be down", func() bool {
			r := g.replica(g.serving())
			return r != nil && strings.Contains(r.Describe(), "line to "+dead+" down: cut off")
		})
		r := g.replica(names[2])
		said := r.Describe()
		t.Log(said)
		if want := map[replica.Kind]string{replica.Passive: "synced", replica.Active: "term"}[kind]; !strings.Contains(said, want) {
			t.Errorf("it says %q", said)
		}
		g.kill(names[2])
		if said := r.Describe(); !strings.Contains(said, "ended") {
			t.Errorf("one that has ended says %q", said)
		}
	})
}

// One that is dead is no member, though the others of an active group need not notice; when it has begun again and joined it is one. So who looks at that
// knows when the next may end.
func TestADeadReplicaIsNoMember(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind replica.Kind) {
		g := newGroup(t, kind)
		g.full()
		dead := others(g.serving())[0]
		g.kill(dead)
		eventually(t, "a member less", func() bool {
			r := g.replica(g.serving())
			return r != nil && len(r.Members()) == len(names)-1
		})
		g.start(dead)
		g.full()
	})
}

// Two join, one over a slow line: the image is still on that when the other is listed. It joins nevertheless, and soon.
func TestAnImageThatTheRecordOvertakes(t *testing.T) {
	t.Parallel()
	g := newGroup(t, replica.Passive)
	g.full()
	l := &load{g: g}
	if _, err := l.ask(state.Request{Caller: 9, Seq: 1, Payload: replicatest.Request(1, strings.Repeat("x", 2<<20))}); err != nil {
		t.Fatal(err)
	}
	var others []string
	for _, n := range names {
		if n != g.serving() {
			others = append(others, n)
		}
	}
	for _, n := range others {
		g.kill(n)
	}
	eventually(t, "the primary to go on alone", func() bool {
		r := g.replica(g.serving())
		return r != nil && len(r.Members()) == 1
	})
	g.mu.Lock()
	for _, n := range names {
		g.slow[[2]string{n, others[0]}] = true
	}
	g.mu.Unlock()
	began := time.Now()
	for _, n := range others {
		g.start(n)
	}
	g.full()
	if took := time.Since(began); took > 30*time.Second { // half of what an image may take
		t.Errorf("it took %v", took)
	}
}

func TestAPartitionedReplicaAnswersNothingThatIsWrong(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind replica.Kind) {
		g := newGroup(t, kind)
		g.full()
		l := g.clients(4)
		l.progress(50)
		was := g.cutOff()
		l.progress(50)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if reply, err := g.replica(was).Handle(ctx, state.Request{Caller: 77, Seq: 1, Payload: replicatest.Request(0, "")}); err == nil {
			t.Errorf("the old one still answers: %q", reply)
		}
		g.partition(was, false)
		l.progress(50)
		g.full()
		l.settle()
	})
}

func TestARequestThatComesAgainIsExecutedOnce(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind replica.Kind) {
		g := newGroup(t, kind)
		g.full()
		l := &load{g: g}
		q := state.Request{Caller: 9, Seq: 1, Payload: replicatest.Request(1, "x")}
		for range 3 {
			if reply, err := l.ask(q); err != nil || string(reply) != "x" {
				t.Fatalf("%q, %v", reply, err)
			}
		}
		g.kill(g.serving())
		if reply, err := l.ask(q); err != nil || string(reply) != "x" {
			t.Fatalf("after the failover: %q, %v", reply, err)
		}
		_, err := g.replica(g.serving()).Handle(t.Context(), state.Request{Caller: 9, Seq: 2})
		var refused *replica.Failure
		if !errors.As(err, &refused) || refused.Text != "empty" {
			t.Errorf("a refusal of the machine came as %v", err)
		}
	})
}

// What the group remembers of a caller that has ended is forgotten, by all; that is no change of the machine.
func TestACallerThatHasEndedIsForgotten(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind replica.Kind) {
		g := newGroup(t, kind)
		g.full()
		l := &load{g: g}
		add := func(caller uint64) string {
			t.Helper()
			reply, err := l.ask(state.Request{Caller: caller, Seq: 1, Payload: replicatest.Request(1, "x")})
			if err != nil {
				t.Fatal(err)
			}
			return string(reply)
		}
		ask := func(caller uint64, want string) {
			t.Helper()
			if got := add(caller); got != want {
				t.Fatalf("%q, want %s", got, want)
			}
		}
		ask(9, "x")
		g.replica(g.serving()).Gone(9)
		eventually(t, "the table to forget 9", func() bool { return add(9) == "xx" }) // executed again
		ask(10, "xxx")
		g.replica(g.serving()).Gone(10)
		g.kill(g.serving()) // maybe before the others have heard that 10 is gone
		ask(11, "xxxx")
		for _, n := range names {
			if r := g.replica(n); r != nil && r.Err() != nil {
				t.Error(r.Err())
			}
		}
	})
}

// The primary dies when the store has listed another, and before it has told anybody of that: those that are left find out, and go on.
func TestAPrimaryThatDiesBeforeItTellsWhoIsListed(t *testing.T) {
	t.Parallel()
	listed := make(chan string, 1)
	var once sync.Once
	g := newGroupOn(t, replica.Passive, func(ctx context.Context, held state.Record) {
		if len(held.Synced) == 2 {
			once.Do(func() {
				listed <- held.Primary.Name
				<-ctx.Done() // nobody hears the store's answer
			})
		}
	})
	dead := <-listed
	g.kill(dead)
	l := &load{g: g}
	if reply, err := l.ask(state.Request{Caller: 9, Seq: 1, Payload: replicatest.Request(1, "x")}); err != nil || string(reply) != "x" {
		t.Errorf("%q, %v; the store holds %+v, %s is dead", reply, err, &g.store.record, dead)
	}
}
