package controller

import (
	"context"
	"log/slog"
	"sync"
)

// turns works in the background on making what is named what the store says: one at a time per name, and once more if it was asked
// for meanwhile.
type turns struct {
	// settle makes one of them so. It may be repeated at any time.
	settle func(ctx context.Context, name string) error
	kind   string // of what is named, for the log
	logger *slog.Logger
	work   context.Context // ends with the controller
	wg     *sync.WaitGroup

	mu   sync.Mutex
	busy map[string]bool // true: once more, because something has changed since
}

// take gives a name its turn.
func (t *turns) take(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.work.Err() != nil {
		return
	}
	if _, at := t.busy[name]; at {
		t.busy[name] = true
		return
	}
	if t.busy == nil {
		t.busy = make(map[string]bool)
	}
	t.busy[name] = false
	t.wg.Add(1)
	go func() {
		defer t.wg.Done()
		for again := true; again; {
			err := t.settle(t.work, name)
			if err != nil && t.work.Err() == nil {
				t.logger.Error(t.kind+" could not be made as wanted", t.kind, name, "err", err)
			}
			again = t.again(name)
		}
	}()
}

// again says whether it was asked for meanwhile; else the turn is over.
func (t *turns) again(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.busy[name] && t.work.Err() == nil {
		t.busy[name] = false
		return true
	}
	delete(t.busy, name)
	return false
}
