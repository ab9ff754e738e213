package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/server"
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
	memory  server.Memory // mapped from then on
	arrived chan struct{} // closed when stream is there
	offered chan struct{} // source: not nil from the offer on, closed at its end
	done    chan struct{} // destination: closed when the stream is no longer needed
	once    sync.Once
}

func (l *checkLine) end() { l.once.Do(func() { close(l.done) }) }

// line returns a service's line for an epoch, a new one where there was none or an older one.
func (c *checkLines) line(service string, epoch uint64) *checkLine {
	c.mu.Lock()
	l := c.lines[service]
	c.mu.Unlock()
	if l != nil && l.epoch == epoch {
		return l
	}
	c.drop(service)
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.lines[service]; l != nil && l.epoch == epoch {
		return l
	}
	l = &checkLine{epoch: epoch, arrived: make(chan struct{}), done: make(chan struct{})}
	if c.lines == nil {
		c.lines = make(map[string]*checkLine)
	}
	c.lines[service] = l
	return l
}

// connect puts a stream, and the memory that is to be compared over it, into the line; false if they are there already.
func (c *checkLines) connect(l *checkLine, s *wan.Stream, m server.Memory) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.stream != nil {
		return false
	}
	l.stream, l.memory = s, m
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
	stream, memory, offered := l.stream, l.memory, l.offered
	c.mu.Unlock()
	l.end()
	if stream == nil {
		return
	}
	// Nothing is lost with it: the check is over, or failed.
	_ = stream.Close()
	if offered != nil {
		<-offered
	}
	_ = memory.Close()
}

// openCheck connects the two ends, where the platform asks for a check.
func (h *host) openCheck(ctx context.Context, s *pb.MigrationStep) error {
	name := s.GetService().GetName()
	l := h.checks.line(name, s.GetEpoch())
	select {
	case <-l.arrived:
		return l.memory.Ready()
	default:
	}
	memory, err := h.platform.Memory(name)
	if memory == nil || err != nil {
		return err
	}
	if err := memory.Ready(); err != nil {
		return errors.Join(err, memory.Close())
	}
	conn, err := h.dialTo(s, streamCheck, name, wan.Handover)(ctx)
	if err != nil {
		return errors.Join(err, memory.Close())
	}
	if !h.checks.connect(l, conn.(*wan.Stream), memory) {
		return errors.Join(conn.Close(), memory.Close())
	}
	return nil
}

// offerMemory lets the destination compare, while the rest of the stream is on its way. The guest has stopped, and stays so
// until drop.
func (h *host) offerMemory(s *pb.MigrationStep) error {
	name := s.GetService().GetName()
	l := h.checks.line(name, s.GetEpoch())
	if l.stream == nil {
		memory, err := h.platform.Memory(name)
		if memory == nil || err != nil {
			return err // nothing to check
		}
		return errors.Join(memory.Close(), fmt.Errorf("the memory check of %s has no connection: the agent was restarted", name))
	}
	if l.offered != nil {
		return nil // a repetition
	}
	l.offered = make(chan struct{})
	h.background.Add(1)
	go func() {
		defer h.background.Done()
		defer close(l.offered)
		if err := memcheck.Offer(h.life, l.stream, l.memory); err != nil && h.life.Err() == nil && h.undecided(l.stream.Hello) {
			h.logger.Warn("memory check ended", "service", name, "epoch", l.epoch, "err", err)
		}
	}()
	return nil
}

// takeCheck holds the destination's end until repairMemory is through with it.
func (h *host) takeCheck(ctx context.Context, s *wan.Stream) {
	l := h.checks.line(s.Hello.Service, s.Hello.Epoch)
	memory, err := h.platform.Memory(s.Hello.Service)
	if err == nil && memory != nil {
		err = memory.Ready()
	}
	if memory == nil || err != nil {
		h.logger.Warn("memory cannot be checked", "service", s.Hello.Service, "epoch", s.Hello.Epoch, "err", err)
		return
	}
	if !h.checks.connect(l, s, memory) {
		_ = memory.Close()
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
	if err := memory.Close(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	l := h.checks.line(name, s.GetEpoch())
	defer l.end()
	select {
	case <-l.arrived:
	case <-ctx.Done():
		return fmt.Errorf("memory check of %s: the source has not connected: %w", name, ctx.Err())
	}
	began := time.Now()
	pages, err := memcheck.Repair(ctx, l.stream, l.memory)
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if pages > 0 {
		level = slog.LevelWarn
	}
	h.logger.Log(ctx, level, "memory compared with the source's; what the emulator had missed was sent again", "service", name, "epoch", s.GetEpoch(), "pages", pages, "after", time.Since(began))
	return nil
}
