package qemu

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// guestModel is a guest that keeps dirtying a working set at some rate, moved over a link of some rate.
type guestModel struct {
	memory, set, dirtying, link float64 // bytes, bytes/s
}

// run plays the model in steps of 10 ms until there is a verdict; it returns what a stop would then cost and after how long.
func (g guestModel) run(c *convergence) (v verdict, cost float64, took time.Duration) {
	const tick = 10 * time.Millisecond
	pass, remaining, dirty, sent := 1, g.memory, 0.0, 0.0
	for took = 0; took < 2*time.Hour; took += tick {
		v = c.look(sample{at: time.Unix(0, 0).Add(took), pass: pass, remaining: int64(remaining), sent: int64(sent)})
		if v != goOn {
			return v, remaining + dirty, took
		}
		step := min(remaining, g.link*tick.Seconds())
		remaining, sent = remaining-step, sent+step
		dirty = min(g.set, dirty+g.dirtying*tick.Seconds())
		if remaining <= 0 {
			pass, remaining, dirty = pass+1, dirty, 0
		}
	}
	return goOn, remaining + dirty, took
}

func limits() *convergence {
	return &convergence{holdAt: 50 * time.Millisecond, worst: time.Second, patience: 30}
}

func TestConvergenceHoldsWhenTheRestIsSmallOrAsSmallAsItGets(t *testing.T) {
	const mb = 1e6
	for name, c := range map[string]struct {
		guest guestModel
		want  verdict
		cost  float64 // at most
	}{
		"an idle guest holds after its first pass":                   {guestModel{256 * mb, 0.1 * mb, 0.1 * mb, 12 * mb}, holdNow, 0.7 * mb},
		"a busy one converges pass by pass":                          {guestModel{256 * mb, 100 * mb, 4 * mb, 12 * mb}, holdNow, 0.7 * mb},
		"a small working set is a plateau that can be borne":         {guestModel{256 * mb, 3 * mb, 500 * mb, 12 * mb}, holdNow, 6.5 * mb},
		"a guest that outruns the link for a large set is given up":  {guestModel{256 * mb, 200 * mb, 500 * mb, 12 * mb}, giveUp, 400 * mb},
		"as fast as the link is no convergence either":               {guestModel{256 * mb, 256 * mb, 12.5 * mb, 12 * mb}, giveUp, 520 * mb},
		"over a slow link little is enough, whatever it is measured": {guestModel{1 * mb, 0.05 * mb, 0.01 * mb, 0.01 * mb}, holdNow, 0.14 * mb},
	} {
		t.Run(name, func(t *testing.T) {
			v, cost, took := c.guest.run(limits())
			t.Logf("verdict %d, cost %.2f MB, after %v", v, cost/mb, took)
			if v != c.want || cost > c.cost {
				t.Errorf("verdict %d, want %d; a stop costs %.0f bytes, at most %.0f", v, c.want, cost, c.cost)
			}
		})
	}
}

func TestConvergenceAlwaysComesToAVerdictAndHoldsOnlyWhatCanBeBorne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := guestModel{
			memory:   rapid.Float64Range(1e6, 1e9).Draw(t, "memory"),
			set:      rapid.Float64Range(0, 1e9).Draw(t, "set"),
			dirtying: rapid.Float64Range(0, 2e8).Draw(t, "dirtying"),
			link:     rapid.Float64Range(1e6, 1e9).Draw(t, "link"),
		}
		g.set = min(g.set, g.memory)
		v, cost, took := g.run(limits())
		if v == goOn {
			t.Fatalf("no verdict after %v", took)
		}
		// A sample is 10 ms old at most, and the model's guest may dirty unevenly within a pass.
		if bearable := 2*g.link + 1e6; v == holdNow && cost > bearable {
			t.Fatalf("holds at %.0f bytes over %.0f bytes/s", cost, g.link)
		}
	})
}
