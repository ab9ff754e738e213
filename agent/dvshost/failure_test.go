package dvshost_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
)

// The destination's node ends at some moment of a move. Either the move had come to its end before, or the process goes on where it was, with
// everything that it had acknowledged.
func TestTheDestinationEnds(t *testing.T) {
	ended := map[bool]int{}
	for step := range 12 {
		nodes := startNodes(t, nil, "a", "b")
		a, b := nodes["a"], nodes["b"]
		a.run(t, "shop", "counter", module(t, built.counter))
		a.ask(t, "shop", "counter", "fill 1000000")
		ctx, cancel := context.WithCancel(context.Background())
		var (
			wg    sync.WaitGroup
			acked int
		)
		s := a.session(t, "shop")
		wg.Go(func() {
			for i := 1; ctx.Err() == nil; i++ {
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
			time.Sleep(time.Duration(step) * 1500 * time.Microsecond) // some moment of the move
			b.stop()
		})
		_, err := a.Move(patient(t), dvshost.MoveRequest{Container: "shop", Name: "counter", To: "b", Frozen: step%2 == 0})
		ended[err == nil]++
		if err != nil {
			if got := a.ask(t, "shop", "counter", "0"); got == "0" {
				t.Errorf("step %d: the state is lost", step)
			}
		}
		cancel()
		wg.Wait()
		if err != nil {
			if got := a.ask(t, "shop", "counter", "0"); got != fmt.Sprint(acked) {
				t.Errorf("step %d: the counter is %s, %d were acknowledged", step, got, acked)
			}
		}
		a.stop()
	}
	t.Logf("moves that succeeded and failed: %v", ended)
}
