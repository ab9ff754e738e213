package dvshost_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
)

// The destination's node ends at some moment of a move, and begins again. Either the move had come to its end before, or the process goes on
// where it was, with everything that it had acknowledged, or, where the destination cannot remember whether it was the owner, nobody goes on. One that
// remembers may have ended within the commit, between its decision and the note that it is done: it cannot know either, but that is a rare moment.
func TestTheDestinationEnds(t *testing.T) {
	var mu sync.Mutex
	ended := map[string]int{}
	for step := range 12 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			t.Parallel()
			var options dvshost.NodeOptions
			nodes := startNodes(t, func(o *dvshost.NodeOptions) {
				if o.Name == "b" {
					if step%3 != 0 {
						o.State = t.TempDir()
					}
					options = *o
				}
			}, "a", "b")
			a, b := nodes["a"], nodes["b"]
			a.run(t, "shop", "counter", module(t, built.counter))
			a.ask(t, "shop", "counter", "fill 1000000")
			a.ask(t, "shop", "counter", "1")
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			acked := 1
			s := a.session(t, "shop")
			wg.Go(func() {
				for i := 2; ctx.Err() == nil; i++ {
					asking, end := context.WithTimeout(context.Background(), 20*time.Second)
					answer, err := s.SendRec(asking, "counter", []byte("1"))
					end()
					if err != nil {
						return // the process has died with node b, and the caller is told
					}
					if acked = i; string(answer) != fmt.Sprint(i) {
						t.Errorf("answer %d is %s", i, answer)
					}
				}
			})
			wg.Go(func() {
				time.Sleep(time.Duration(step) * 3 * time.Millisecond) // some moment of the move
				b.stop()
				b.start(t, options)
			})
			_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "counter", To: "b", Frozen: step%2 == 0})
			cancel()
			wg.Wait()
			lost := err != nil && strings.Contains(err.Error(), "the process is lost")
			what := "succeeded"
			switch {
			case lost && step%3 != 0 && !strings.Contains(err.Error(), "has ended within the commit"):
				t.Errorf("lost, though the destination remembers: %v", err)
			case lost && step%3 != 0:
				what = "lost in the commit"
			case lost:
				what = "lost"
			case err != nil:
				what = "failed"
				if got := a.ask(t, "shop", "counter", "0"); got != fmt.Sprint(acked) {
					t.Errorf("the counter is %s, %d were acknowledged", got, acked)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			ended[what]++
		})
	}
	t.Cleanup(func() {
		t.Logf("moves: %v", ended)
		if n := ended["lost in the commit"]; n > 1 {
			t.Errorf("%d of 8 were lost, though the destination remembers: it ended within the commit each time", n)
		}
	})
}
