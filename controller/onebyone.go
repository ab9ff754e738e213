package controller

import (
	"context"
	"fmt"
	"sync"
)

// oneByOne lets one at a time in for each name. The zero value is ready.
type oneByOne struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed by who is in when leaving
}

// enter waits until nobody is in, or ctx ends.
func (o *oneByOne) enter(ctx context.Context, name string) (leave func(), err error) {
	for {
		o.mu.Lock()
		before, taken := o.held[name]
		if !taken {
			if o.held == nil {
				o.held = make(map[string]chan struct{})
			}
			mine := make(chan struct{})
			o.held[name] = mine
			o.mu.Unlock()
			return func() {
				o.mu.Lock()
				defer o.mu.Unlock()
				delete(o.held, name)
				close(mine)
			}, nil
		}
		o.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, fmt.Errorf("somebody else is at %s: %w", name, ctx.Err())
		}
	}
}
