package simulation

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// run lives n schedules on all processors. It returns the first that is violated, whichever was found first, or -1, what was
// counted until then, and how it was violated.
func (c Core[B, C]) run(seed uint64, broken B, n int) (violated int, sum C, why error) {
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		mu   sync.Mutex
	)
	violated = -1
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				i := *c.Flags.first + int(next.Add(1)) - 1
				mu.Lock()
				over := i >= *c.Flags.first+n || violated >= 0 && i > violated
				mu.Unlock()
				if over {
					return
				}
				count, _, err := c.Live(seed, uint64(i), broken, false)
				mu.Lock()
				if c.Add(&sum, count); err != nil && (violated < 0 || i < violated) {
					violated, why = i, err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return violated, sum, why
}
