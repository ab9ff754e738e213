package demo

import (
	"context"
	"slices"
	"time"
)

// traceEvery is how often a packet is followed. The detour lasts from the switch to the new route, a moment; but packets that
// were held before it take it too, so that some are followed through it if they come more often than the hold lasts.
const traceEvery = 25 * time.Millisecond

// tracing follows packets in the background until it is stopped.
type tracing struct {
	cancel context.CancelFunc
	done   chan struct{}
	paths  [][]string
	err    error
}

func follow(ctx context.Context, trace func(context.Context) ([][]string, error)) *tracing {
	ctx, cancel := context.WithCancel(ctx)
	t := &tracing{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		t.paths, t.err = trace(ctx)
	}()
	return t
}

// stop returns the paths in the order in which they were first taken.
func (t *tracing) stop() ([][]string, error) {
	t.cancel()
	<-t.done
	return t.paths, t.err
}

// detour picks the path that went through the tunnel: in at the source's edge, out at the destination's. It is empty when no
// packet was seen on it.
func detour(paths [][]string) []string {
	for _, path := range paths {
		in, out := slices.Index(path, source+"-edge"), slices.Index(path, target+"-edge")
		if in >= 0 && out > in && slices.Contains(path[out:], target+"-host") {
			return path
		}
	}
	return []string{}
}

// nodes is the path, never null.
func nodes(path []string) []string {
	if path == nil {
		return []string{}
	}
	return path
}
