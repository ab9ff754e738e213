package demo

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// samplers look for the path at once: finding it takes a tenth of a second at least, the detour may not last much longer.
	samplers = 3
	// sampleEvery is the pause between two looks of one of them.
	sampleEvery = 20 * time.Millisecond
)

// sample is the path as it was once, and the phase of the migration when it had been found.
type sample struct {
	phase string
	path  []string
}

// sampler looks for the path again and again while it may change, which is from synchronizing on: before, it would only take
// the processor away from what is measured. Its goroutines are waited for by stop.
type sampler struct {
	ctx    context.Context
	cancel context.CancelFunc
	path   func(context.Context) ([]string, error)
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		started bool
		phase   string
		samples []sample
	}
}

func newSampler(ctx context.Context, path func(context.Context) ([]string, error)) *sampler {
	ctx, cancel := context.WithCancel(ctx)
	return &sampler{ctx: ctx, cancel: cancel, path: path}
}

// phase says which phase the migration is in now.
func (s *sampler) phase(phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.phase = phase
	switch phase {
	case "synchronizing", "quiesced", "committed", "optimizing":
		if !s.mu.started {
			s.mu.started = true
			for range samplers {
				s.wg.Go(s.look)
			}
		}
	}
}

// stop returns the samples, each path once for each phase.
func (s *sampler) stop() []sample {
	s.cancel()
	s.wg.Wait()
	return s.mu.samples
}

func (s *sampler) look() {
	for s.ctx.Err() == nil {
		// Of a packet that nobody answered, the way that it went before is still a fact; a packet on its way when we stop too.
		if found, err := s.path(s.ctx); err == nil || len(found) > 0 {
			s.add(found)
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(sampleEvery):
		}
	}
}

func (s *sampler) add(path []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.mu.samples, func(other sample) bool {
		return other.phase == s.mu.phase && slices.Equal(other.path, path)
	}) {
		s.mu.samples = append(s.mu.samples, sample{s.mu.phase, path})
	}
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
