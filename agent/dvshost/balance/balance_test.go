package balance_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost/balance"
)

var start = time.Unix(1000, 0)

func TestDecisions(t *testing.T) {
	limits := balance.Limits{High: 0.8, Low: 0.5, Gain: 0.1, CoolDown: time.Minute, Pause: 10 * time.Second}
	small, half, big := balance.Process{Name: "small", Load: 0.05}, balance.Process{Name: "half", Load: 0.4}, balance.Process{Name: "big", Load: 0.9}
	came := half
	came.Came = start.Add(-30 * time.Second)
	idle, busy := balance.Node{Name: "idle"}, balance.Node{Name: "busy", Load: 0.7}
	for name, c := range map[string]struct {
		load      float64
		processes []balance.Process
		others    []balance.Node
		want      balance.Move
	}{
		"not too much to do":                  {0.8, []balance.Process{half}, []balance.Node{idle}, balance.Move{}},
		"the one that helps most":             {0.9, []balance.Process{small, half}, []balance.Node{busy, idle}, balance.Move{Process: "half", To: "idle"}},
		"nowhere to go":                       {0.9, []balance.Process{half}, []balance.Node{busy}, balance.Move{}},
		"too little gain":                     {0.9, []balance.Process{small}, []balance.Node{idle}, balance.Move{}},
		"it would only be elsewhere":          {0.9, []balance.Process{big}, []balance.Node{idle}, balance.Move{}},
		"one that has come lately stays":      {0.9, []balance.Process{came}, []balance.Node{idle}, balance.Move{}},
		"nobody else":                         {0.9, []balance.Process{half}, nil, balance.Move{}},
		"one that got something lately rests": {0.9, []balance.Process{half}, []balance.Node{{Name: "idle", Came: start.Add(-time.Second)}}, balance.Move{}},
	} {
		p := balance.Policy{Limits: limits}
		if got, ok := p.Decide(start, c.load, c.processes, c.others); got != c.want || ok != (c.want != balance.Move{}) {
			t.Errorf("%s: %v, %v", name, got, ok)
		}
	}
}

// A node that has begun to give up processes goes on to the low mark, with pauses, and begins again at the high one only.
func TestHysteresis(t *testing.T) {
	p := balance.Policy{Limits: balance.Limits{High: 0.8, Low: 0.5, Gain: 0.05, Pause: 10 * time.Second}}
	one, idle := []balance.Process{{Name: "one", Load: 0.1}}, []balance.Node{{Name: "idle"}}
	for i, c := range []struct {
		after time.Duration
		load  float64
		want  bool
	}{
		{0, 0.7, false}, {1, 0.85, true}, {2, 0.9, false}, {12, 0.7, true}, {23, 0.6, true}, {40, 0.5, false}, {60, 0.7, false}, {80, 0.81, true},
	} {
		now := start.Add(c.after * time.Second)
		_, got := p.Decide(now, c.load, one, idle)
		if got != c.want {
			t.Errorf("%d: at load %.2f it moves: %v", i, c.load, got)
		}
		if got {
			p.Moved(now)
		}
	}
}

// Whatever the loads are: nodes that can come below the mark do, nobody is driven above it, and when the loads stay as they are the moves end.
func TestMovesEnd(t *testing.T) {
	const seconds = 600
	for schedule := range 2000 {
		rng := rand.New(rand.NewPCG(7, uint64(schedule)))
		limits := balance.Limits{High: 0.8, Low: 0.6, Gain: 0.05, CoolDown: 30 * time.Second, Pause: 5 * time.Second}
		nodes := make([]struct {
			policy    balance.Policy
			processes []balance.Process
			came      time.Time
		}, 2+rng.IntN(5))
		for i := range nodes {
			nodes[i].policy.Limits = limits
			for j := range rng.IntN(8) {
				nodes[i].processes = append(nodes[i].processes, balance.Process{Name: fmt.Sprint(i, ".", j), Load: rng.Float64() * 0.3})
			}
		}
		load := func(i int) (sum float64) {
			for _, p := range nodes[i].processes {
				sum += p.Load
			}
			return sum
		}
		moves, last := 0, 0
		for second := range seconds {
			now := start.Add(time.Duration(second) * time.Second)
			i := rng.IntN(len(nodes))
			var others []balance.Node
			for j := range nodes {
				if j != i {
					others = append(others, balance.Node{Name: fmt.Sprint(j), Load: load(j), Came: nodes[j].came})
				}
			}
			m, ok := nodes[i].policy.Decide(now, load(i), nodes[i].processes, others)
			if !ok {
				continue
			}
			nodes[i].policy.Moved(now)
			moves, last = moves+1, second
			var to int
			_, _ = fmt.Sscan(m.To, &to)
			for at, p := range nodes[i].processes {
				if p.Name == m.Process {
					nodes[i].processes = append(nodes[i].processes[:at:at], nodes[i].processes[at+1:]...)
					p.Came = now
					nodes[to].processes, nodes[to].came = append(nodes[to].processes, p), now
				}
			}
			if load(to) > limits.High {
				t.Fatalf("schedule %d: node %d was driven to %.2f", schedule, to, load(to))
			}
		}
		if moves > 60 || last > seconds*9/10 {
			t.Errorf("schedule %d: %d moves, the last one at %d s", schedule, moves, last)
		}
	}
}
