package dvshost

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost/balance"
)

const (
	// loadEvery is how often loads are measured where nothing else is said.
	loadEvery = time.Second
	// fresh is what the newest measurement counts; those before it share the rest.
	fresh = 0.5
)

// LoadInfo is what a node says of its load: the share of its processors' time that its processes have taken lately. Programs outside of
// it do not count: it cannot move them.
type LoadInfo struct {
	Load float64 `json:"load"`
	// Came is how long ago it got a process; 0: never.
	Came time.Duration `json:"came,omitempty"`
}

// BalanceInfo says what a node has moved by itself.
type BalanceInfo struct {
	High   float64 `json:"high"`
	Low    float64 `json:"low"`
	Giving bool    `json:"giving"` // above the high mark lately, and not at the low one since
	Moves  uint64  `json:"moves"`
	Failed uint64  `json:"failed"`
	Last   string  `json:"last,omitempty"` // the newest move
}

// meter measures how busy the processes are.
type meter struct {
	mu   sync.Mutex
	at   time.Time
	last map[*hosted]time.Duration
	load map[*hosted]float64
	came time.Time // when the newest process came
}

// measure takes in what has been done since the last time.
func (m *meter) measure(now time.Time, all []*hosted) {
	m.mu.Lock()
	defer m.mu.Unlock()
	room := now.Sub(m.at).Seconds() * float64(runtime.GOMAXPROCS(0))
	last, load := map[*hosted]time.Duration{}, map[*hosted]float64{}
	for _, p := range all {
		last[p] = time.Duration(p.busy.Load())
		if was, known := m.last[p]; known && room > 0 {
			load[p] = (1-fresh)*m.load[p] + fresh*min(1, (last[p]-was).Seconds()/room)
		}
		if p.came.After(m.came) {
			m.came = p.came
		}
	}
	m.at, m.last, m.load = now, last, load
}

// read returns the load of the node, and what there is to move.
func (m *meter) read() (load float64, processes map[*hosted]float64, came time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, one := range m.load {
		load += one
	}
	return load, maps.Clone(m.load), m.came
}

// Load says how much this node has to do.
func (h *Host) Load() LoadInfo {
	load, _, came := h.meter.read()
	info := LoadInfo{Load: load}
	if !came.IsZero() {
		info.Came = time.Since(came)
	}
	return info
}

// Weigh measures loads until the host is closed, and moves processes by them if there are limits.
func (h *Host) Weigh(every time.Duration, limits *balance.Limits) error {
	if every <= 0 {
		every = loadEvery
	}
	if limits != nil {
		if err := limits.Validate(); err != nil {
			return fmt.Errorf("move by load: %w", err)
		}
		h.mu.Lock()
		h.balanced = &BalanceInfo{High: limits.High, Low: limits.Low}
		h.mu.Unlock()
	}
	h.start(func() {
		var policy balance.Policy
		if limits != nil {
			policy.Limits = *limits
		}
		for {
			select {
			case <-h.ctx.Done():
				return
			case <-time.After(every):
			}
			h.mu.Lock()
			all := slices.Collect(maps.Values(h.running))
			h.mu.Unlock()
			h.meter.measure(time.Now(), all)
			if limits != nil {
				h.even(&policy)
			}
		}
	})
	return nil
}

// even moves at most one process.
func (h *Host) even(policy *balance.Policy) {
	load, all, _ := h.meter.read()
	var processes []balance.Process
	byName := map[string]*hosted{}
	for p, share := range all {
		name := p.key.String()
		byName[name] = p
		processes = append(processes, balance.Process{Name: name, Load: share, Came: p.came})
	}
	var others []balance.Node
	if load > policy.High || policy.Giving() { // nobody is asked for nothing
		others = h.askLoads()
	}
	now := time.Now()
	move, ok := policy.Decide(now, load, processes, others)
	h.tellBalance(func(b *BalanceInfo) { b.Giving = policy.Giving() })
	if !ok {
		return
	}
	k := byName[move.Process].key
	_, err := h.Move(h.ctx, k.container, k.name, move.To, false)
	policy.Moved(time.Now())
	h.tellBalance(func(b *BalanceInfo) {
		b.Last = fmt.Sprintf("%s to %s at load %.2f", k, move.To, load)
		if b.Moves++; err != nil {
			b.Moves--
			b.Failed++
			b.Last += ": " + err.Error()
		}
	})
	if err != nil {
		h.o.Log.Warn("DVS process not moved by load", "endpoint", k, "to", move.To, "err", err)
		return
	}
	h.o.Log.Info("DVS process moved by load", "endpoint", k, "to", move.To, "load", load)
}

func (h *Host) tellBalance(f func(*BalanceInfo)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h.balanced)
}

// askLoads asks all other hosts; those that do not answer get nothing.
func (h *Host) askLoads() []balance.Node {
	ctx, cancel := context.WithTimeout(h.ctx, linkTime)
	defer cancel()
	var (
		mu  sync.Mutex
		all []balance.Node
		wg  sync.WaitGroup
	)
	for name, peer := range h.allPeers() {
		wg.Go(func() {
			info, err := get[LoadInfo](ctx, peer.client, "/v1/load")
			if err != nil {
				return
			}
			n := balance.Node{Name: name, Load: info.Load}
			if info.Came > 0 {
				n.Came = time.Now().Add(-info.Came)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, n)
		})
	}
	wg.Wait()
	return all
}
