package dvshost_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/agent/dvshost/balance"
)

// Processes that are kept busy leave a node that has more of them than it can do well, and their clients go on; then they stay.
func TestProcessesMoveByLoad(t *testing.T) {
	limits := balance.Limits{High: 0.05, Low: 0.04, Gain: 0.005, CoolDown: time.Minute, Pause: 200 * time.Millisecond}
	nodes := startNodes(t, func(o *dvshost.NodeOptions) {
		o.LoadEvery = 50 * time.Millisecond
		if o.Name == "a" {
			o.Balance = &limits
		}
	}, "a", "b")
	counter := module(t, built.counter)
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	const processes = 6 // of very different weight: one of them fits, whatever the machine is
	for i := range processes {
		name := fmt.Sprint("counter", i)
		nodes["a"].run(t, "shop", name, counter)
		nodes["a"].ask(t, "shop", name, fmt.Sprint("fill ", 12500<<i))
		s := nodes["a"].session(t, "shop")
		clients.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.SendRec(context.Background(), name, []byte("checksum")); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(5 * time.Millisecond) // so that what it takes is small, and no node becomes full
			}
		})
	}
	var stats dvshost.StatsInfo
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var err error
		if stats, err = nodes["a"].Stats(patient(t)); err != nil {
			t.Fatal(err)
		}
		if stats.Balance != nil && stats.Balance.Moves > 0 {
			break
		}
	}
	if stats.Balance == nil || stats.Balance.Moves == 0 || stats.Balance.Moves >= processes {
		t.Fatalf("node a tells %+v, %+v", stats, stats.Balance)
	}
	if all, err := nodes["b"].List(patient(t)); err != nil || len(all) == 0 {
		t.Errorf("node b has %v, %v", all, err)
	}
	t.Logf("load %.3f, %+v", stats.Load, *stats.Balance)
}

func TestLimitsOfLoadAreChecked(t *testing.T) {
	err := dvshost.Serve(t.Context(), dvshost.NodeOptions{Name: "a", Socket: t.TempDir() + "/a", Balance: &balance.Limits{High: 2}})
	if err == nil {
		t.Error("a node with nonsense for limits runs")
	}
}
