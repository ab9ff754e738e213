package demo

import (
	"context"
	"slices"
	"sync"
	"time"
)

// sampleEvery is the pause between two looks at the path.
const sampleEvery = 20 * time.Millisecond

// sample is the path as it was once, and the phase of the migration when it was looked for.
type sample struct {
	phase string
	path  []string
}

// sampler looks at the path again and again until it is stopped. Its goroutine is waited for by stop.
type sampler struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu struct {
		sync.Mutex
		phase   string
		samples []sample
	}
}

func startSampler(ctx context.Context, path func(context.Context) ([]string, error)) *sampler {
	ctx, cancel := context.WithCancel(ctx)
	s := &sampler{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for ctx.Err() == nil {
			// A path that cannot be found, as while packets are held, is no sample.
			if found, err := path(ctx); err == nil {
				s.add(found)
			}
			select {
			case <-ctx.Done():
			case <-time.After(sampleEvery):
			}
		}
	}()
	return s
}

// phase says in which phase the samples are that follow.
func (s *sampler) phase(phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.phase = phase
}

// stop returns the samples, each path once for each phase.
func (s *sampler) stop() []sample {
	s.cancel()
	<-s.done
	return s.mu.samples
}

func (s *sampler) add(path []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.mu.samples); n > 0 && s.mu.samples[n-1].phase == s.mu.phase && slices.Equal(s.mu.samples[n-1].path, path) {
		return
	}
	s.mu.samples = append(s.mu.samples, sample{s.mu.phase, path})
}

// detour picks the path that went through the tunnel: in at the source's edge, out at the destination's. It is empty when
// the tunnel was not needed for long enough to be seen.
func detour(samples []sample) []string {
	for _, one := range samples {
		in, out := slices.Index(one.path, source+"-edge"), slices.Index(one.path, target+"-edge")
		if in >= 0 && out > in && slices.Contains(one.path[out:], target+"-host") {
			return one.path
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
