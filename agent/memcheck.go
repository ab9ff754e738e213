package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/server/memcheck"
	"github.com/godwit-project/godwit/wan"
)

// checkTimeout bounds the wait for the other end of a memory check; it was connected before the guest stopped.
const checkTimeout = 10 * time.Second

// checkLines are the connections over which the memory of machines is compared after a handover (package memcheck), one
// for each service. They are opened while the guest still runs, for their handshakes would lie in the blackout.
type checkLines struct {
	mu    sync.Mutex
	lines map[string]*checkLine
}

type checkLine struct {
	epoch   uint64
	stream  *wan.Stream   // nil: awaited
	arrived chan struct{} // closed when stream is there
	offered chan struct{} // source: not nil from the offer on, closed at its end
	done    chan struct{} // destination: closed when the stream is no longer needed
	once    sync.Once
}

func (l *checkLine) end() { l.once.Do(func() { close(l.done) }) }

// line returns a service's line for an epoch, a new one where there was none or an older one.
func (c *checkLines) line(service string, epoch uint64) *checkLine {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lines[service]
	if l == nil || l.epoch != epoch {
		if l != nil {
			l.end()
		}
		l = &checkLine{epoch: epoch, arrived: make(chan struct{}), done: make(chan struct{})}
		if c.lines == nil {
			c.lines = make(map[string]*checkLine)
		}
		c.lines[service] = l
	}
	return l
}

// connect puts a stream into the line; false if there is one already.
func (c *checkLines) connect(l *checkLine, s *wan.Stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.stream != nil {
		return false
	}
	l.stream = s
	close(l.arrived)
	return true
}

// drop ends a service's line and waits until nobody reads the machine's memory any more.
func (c *checkLines) drop(service string) {
	c.mu.Lock()
	l := c.lines[service]
	delete(c.lines, service)
	if l == nil {
		c.mu.Unlock()
		return
	}
	stream, offered := l.stream, l.offered
	c.mu.Unlock()
	l.end()
	if stream != nil {
		_ = stream.Close() // nothing is lost with it: the check is over, or failed
	}
	if offered != nil {
		<-offered
	}
}

// openCheck connects the two ends, where the platform asks for a check.
func (h *host) openCheck(ctx context.Context, s *pb.MigrationStep) error {
	name := s.GetService().GetName()
	memory, err := h.platform.Memory(name)
	if memory == nil || err != nil {
		return err
	}
	if err := memory.Close(); err != nil {
		return err
	}
	l := h.checks.line(name, s.GetEpoch())
	select {
	case <-l.arrived:
		return nil
	default:
	}
	conn, err := h.dialTo(s, streamCheck, name, wan.Handover)(ctx)
	if err != nil {
		return err
	}
	if !h.checks.connect(l, conn.(*wan.Stream)) {
		return conn.Close()
	}
	return nil
}

// offerMemory lets the destination compare, while the rest of the stream is on its way. The guest has stopped, and stays so
// until drop.
func (h *host) offerMemory(s *pb.MigrationStep) error {
	name := s.GetService().GetName()
	memory, err := h.platform.Memory(name)
	if memory == nil || err != nil {
		return err
	}
	l := h.checks.line(name, s.GetEpoch())
	if l.stream == nil || l.offered != nil {
		return errors.Join(memory.Close(), fmt.Errorf("the memory check of %s has no connection: the agent was restarted, or this is a repetition", name))
	}
	l.offered = make(chan struct{})
	h.background.Add(1)
	go func() {
		defer h.background.Done()
		defer close(l.offered)
		err := errors.Join(memcheck.Offer(h.life, l.stream, memory), memory.Close())
		if err != nil && h.life.Err() == nil && h.undecided(l.stream.Hello) {
			h.logger.Warn("memory check ended", "service", name, "epoch", l.epoch, "err", err)
		}
	}()
	return nil
}

// takeCheck holds the destination's end until repairMemory is through with it.
func (h *host) takeCheck(ctx context.Context, s *wan.Stream) {
	l := h.checks.line(s.Hello.Service, s.Hello.Epoch)
	if !h.checks.connect(l, s) {
		return
	}
	select {
	case <-l.done:
	case <-ctx.Done():
	}
}

// repairMemory makes the memory of a machine that has loaded equal to what its source stopped with.
func (h *host) repairMemory(ctx context.Context, s *pb.MigrationStep) error {
	name := s.GetService().GetName()
	memory, err := h.platform.Memory(name)
	if memory == nil || err != nil {
		return err
	}
	l := h.checks.line(name, s.GetEpoch())
	defer l.end()
	began := time.Now()
	pages, err := h.repairOver(ctx, l, memory)
	if err := errors.Join(err, memory.Close()); err != nil {
		return err
	}
	if pages > 0 {
		h.logger.Warn("the emulator had missed changed memory, which was sent again", "service", name, "epoch", s.GetEpoch(), "pages", pages, "after", time.Since(began))
	}
	return nil
}

func (h *host) repairOver(ctx context.Context, l *checkLine, memory memcheck.Memory) (pages int, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	select {
	case <-l.arrived:
		return memcheck.Repair(ctx, l.stream, memory)
	case <-ctx.Done():
		return 0, fmt.Errorf("memory check: the source has not connected: %w", ctx.Err())
	}
}
