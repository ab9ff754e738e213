package wan

import (
	"net"
	"sync"
	"sync/atomic"
)

// Meter counts what streams put on the wire, TLS included, in both directions, by service and epoch. The zero value is
// ready.
type Meter struct {
	mu     sync.Mutex
	counts map[meterKey]*atomic.Int64
}

type meterKey struct {
	service string
	epoch   uint64
}

// Bytes is what the streams of one attempt have carried so far, seen from this end.
func (m *Meter) Bytes(service string, epoch uint64) int64 {
	return m.counter(service, epoch).Load()
}

// Forget drops the counters of a service's attempts before the given epoch.
func (m *Meter) Forget(service string, before uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.counts {
		if k.service == service && k.epoch < before {
			delete(m.counts, k)
		}
	}
}

func (m *Meter) counter(service string, epoch uint64) *atomic.Int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counts == nil {
		m.counts = make(map[meterKey]*atomic.Int64)
	}
	k := meterKey{service, epoch}
	c := m.counts[k]
	if c == nil {
		c = new(atomic.Int64)
		m.counts[k] = c
	}
	return c
}

// countedConn counts and paces below TLS. What it counts before the stream's purpose is known waits in early.
type countedConn struct {
	net.Conn
	early atomic.Int64
	owner atomic.Pointer[owner]
	turn  turn // the writer's: TLS writes one record after the other
}

// owner is what a connection's bytes are counted under and paced by.
type owner struct {
	counter *atomic.Int64
	budget  *Budget
	class   Class
}

func newCountedConn(conn net.Conn) *countedConn {
	return &countedConn{Conn: conn, turn: turn{ready: make(chan struct{}, 1)}}
}

func (c *countedConn) belongTo(counter *atomic.Int64, budget *Budget, class Class) {
	c.owner.Store(&owner{counter, budget, class})
	counter.Add(c.early.Swap(0))
}

func (c *countedConn) add(n int) {
	if o := c.owner.Load(); o != nil {
		o.counter.Add(int64(n))
		return
	}
	c.early.Add(int64(n))
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.add(n)
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	if o := c.owner.Load(); o != nil {
		o.budget.take(o.class, len(p), &c.turn)
	}
	n, err := c.Conn.Write(p)
	c.add(n)
	return n, err
}
