package dvshost_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

// A replicated process goes on when the node that answers for it ends: each number grows by one with each request, also then.
func TestAReplicatedProcessOutlivesItsNode(t *testing.T) {
	kv := module(t, built.kv)
	for _, mode := range []string{"passive", "active"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			nodes := startNodes(t, nil, "a", "b", "c")
			if err := nodes["b"].RunReplicated(patient(t), "shop", "kv", kv, "", "1m", mode, []string{"a", "b", "c"}); err != nil {
				t.Fatal(err)
			}
			var answers string
			for name, n := range nodes {
				all, err := n.List(t.Context())
				if err != nil || len(all) != 1 {
					t.Fatalf("%v, %v", all, err)
				}
				if all[0].State == "answering" {
					answers = name
				}
			}
			client := nodes["b"]
			if answers == "b" {
				client = nodes["c"]
			}
			s := client.session(t, "shop")
			ask := func(want int) {
				t.Helper()
				b, err := s.SendRec(patient(t), "kv", []byte("add n 1"))
				if err != nil || string(b) != fmt.Sprint("ok ", want) {
					t.Fatalf("%q, %v, want %d", b, err, want)
				}
			}
			for i := range 20 {
				ask(i + 1)
			}
			began := time.Now()
			nodes[answers].stop()
			for i := range 20 {
				ask(i + 21)
			}
			t.Logf("%s had answered; %v for the end of it and 20 requests", answers, time.Since(began).Round(time.Millisecond))
			if err := client.Stop(t.Context(), "shop", "kv"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.SendRec(dvs.NoWait(t.Context()), "kv", []byte("get n")); err == nil {
				t.Error("it answers after its end")
			}
		})
	}
}

// All nodes of a replicated process begin again, one after the other, and then the one that answers ends: the nodes still agree on who follows, for
// their record of that is on disk.
func TestAReplicatedProcessOutlivesARestartOfAllItsNodes(t *testing.T) {
	t.Parallel()
	options := map[string]dvshost.NodeOptions{}
	nodes := startNodes(t, func(o *dvshost.NodeOptions) {
		o.State = t.TempDir()
		options[o.Name] = *o
	}, "a", "b", "c")
	if err := nodes["a"].RunReplicated(patient(t), "shop", "kv", module(t, built.kv), "", "1m", "passive", []string{"a", "b", "c"}); err != nil {
		t.Fatal(err)
	}
	// full waits until all three have the state, and returns who answers.
	full := func() string {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			for name, n := range nodes {
				all, err := n.List(patient(t))
				if err == nil && len(all) == 1 && all[0].State == "answering" && all[0].Replicas == 3 {
					return name
				}
			}
		}
		t.Fatal("not all nodes have joined again")
		return ""
	}
	want := 0
	ask := func(at string) {
		t.Helper()
		want++
		if got := nodes[at].ask(t, "shop", "kv", "add n 1"); got != fmt.Sprint("ok ", want) {
			t.Fatalf("answer %q, want %d", got, want)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		full()
		nodes[name].stop()
		other := "a"
		if name == "a" {
			other = "b"
		}
		ask(other)
		nodes[name].start(t, options[name])
	}
	answers := full()
	nodes[answers].stop()
	for _, other := range []string{"a", "b", "c"} {
		if other != answers {
			ask(other)
		}
	}
}

func TestTooFewNodesForReplicas(t *testing.T) {
	nodes := startNodes(t, nil, "a", "b")
	err := nodes["a"].RunReplicated(patient(t), "shop", "kv", module(t, built.kv), "", "", "passive", []string{"a", "b"})
	if err == nil || errors.Is(err, dvs.ErrNotBound) {
		t.Errorf("two nodes: %v", err)
	}
}
