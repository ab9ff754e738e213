package replica_test

import (
	"context"
	"errors"
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

func TestAPartitionedReplicaAnswersNothingThatIsWrong(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, kind replica.Kind) {
		g := newGroup(t, kind)
		g.full()
		l := g.clients(4)
		l.progress(50)
		was := g.serving()
		g.partition(was, true)
		eventually(t, "another one to serve", func() bool { now := g.serving(); return now != "" && now != was })
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
