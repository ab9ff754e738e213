package dvshost

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
)

// linkTime is how long another host may take to say its name.
const linkTime = 2 * time.Second

// Endpoints lists what the node knows, by name.
func (h *Host) Endpoints() []EndpointInfo {
	var all []EndpointInfo
	for _, e := range h.o.Node.Endpoints() {
		all = append(all, EndpointInfo{
			Container: e.Container, Name: e.Name, State: stateName(e.State), Node: e.Node, Epoch: e.Version.Epoch, Serial: e.Version.Serial,
			Program: e.Program, PID: e.PID, Standby: e.Standby, Watchers: e.Watchers,
		})
	}
	slices.SortFunc(all, func(a, b EndpointInfo) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Name, b.Name))
	})
	return all
}

func stateName(s endpoint.RouteState) string {
	switch s {
	case endpoint.Open:
		return "active"
	case endpoint.Moving:
		return "moving"
	case endpoint.Dead:
		return "dead"
	case endpoint.Cut:
		return "cut off"
	default:
		return "nowhere"
	}
}

// Stats returns what has been counted.
func (h *Host) Stats() StatsInfo {
	n := h.o.Node.Stats()
	var b *BalanceInfo
	h.mu.Lock()
	if h.balanced != nil {
		now := *h.balanced
		b = &now
	}
	h.mu.Unlock()
	return StatsInfo{
		Load: h.Load().Load, Balance: b,
		Node: h.o.Name, Processes: len(h.List()), Endpoints: len(h.o.Node.Endpoints()), Introductions: n.Introductions, Relayed: n.Relayed,
		PacketsOut: n.Out, PacketsIn: n.In, Writes: n.Writes, Reconnects: n.Reconnects, Streams: n.Streams,
	}
}

func (h *Host) peerNames() []string { return slices.Sorted(maps.Keys(h.allPeers())) }

// Links asks all other hosts for their names.
func (h *Host) Links(ctx context.Context) []LinkInfo {
	ctx, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	peers := h.allPeers()
	names := slices.Sorted(maps.Keys(peers))
	all := make([]LinkInfo, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			peer := peers[name]
			begin := time.Now()
			err := peer.check(ctx)
			all[i] = LinkInfo{Node: name, Address: peer.address(), State: "up", RoundTripMs: ms(time.Since(begin)), Err: text(err)}
			if err != nil {
				all[i].State = "down"
			}
		})
	}
	wg.Wait()
	return all
}

// callers are sessions of one container for calls of people: as many as there are calls at a time.
type callers struct {
	mu   sync.Mutex
	idle []*dvs.Session
}

// maxIdle bounds the sessions that are kept.
const maxIdle = 4

// Call makes a request of any endpoint.
func (h *Host) Call(ctx context.Context, container, name string, payload []byte) ([]byte, error) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, dvs.ErrClosed
	}
	c := h.callers[container]
	if c == nil {
		c = &callers{}
		h.callers[container] = c
	}
	h.mu.Unlock()
	s, err := c.take(ctx, h.o.Socket, container)
	if err != nil {
		return nil, err
	}
	reply, err := s.SendRec(ctx, name, payload)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || errors.Is(err, dvs.ErrNotConnected) || !c.put(s) {
		s.Close()
	}
	return reply, err
}

func (c *callers) take(ctx context.Context, socket, container string) (*dvs.Session, error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		s := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return s, nil
	}
	c.mu.Unlock()
	return dvs.Connect(ctx, socket, dvs.Options{Container: container, Program: "godwit dvs call"})
}

func (c *callers) put(s *dvs.Session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) == maxIdle {
		return false
	}
	c.idle = append(c.idle, s)
	return true
}

func (c *callers) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.idle {
		s.Close()
	}
	c.idle = nil
}
