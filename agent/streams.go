package agent

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/wan"
)

// The kinds of streams between hosts.
const (
	streamClock  = "clock"  // nothing: its opening compares the clocks
	streamMemory = "memory" // QEMU's migration stream
	streamVolume = "volume" // replication of the volume that is named
)

// accept lets in the streams of the attempt that this host is the destination of, and no others.
func (h *host) accept(_ context.Context, hello wan.Hello, _ tls.ConnectionState) (func(context.Context, *wan.Stream), error) {
	var j migration.Journal
	h.book.view(hello.Service, func(e entry) { j = e.Journal })
	if j.Epoch != hello.Epoch || j.Decision != migration.DecisionNone {
		return nil, fmt.Errorf("no stream of service %s, epoch %d, is expected here (epoch seen: %d)", hello.Service, hello.Epoch, j.Epoch)
	}
	switch hello.Kind {
	case streamClock:
		return func(context.Context, *wan.Stream) {}, nil
	case streamMemory:
		return h.takeMemory, nil
	case streamVolume:
		return h.takeVolume, nil
	}
	return nil, fmt.Errorf("streams of kind %q are not known here: install the same godwit at both sites", hello.Kind)
}

func (h *host) takeMemory(ctx context.Context, s *wan.Stream) {
	if err := h.platform.AcceptIncoming(ctx, s.Hello.Service, s.Hello.Epoch, s); err != nil && ctx.Err() == nil {
		h.logger.Warn("memory stream ended", "service", s.Hello.Service, "epoch", s.Hello.Epoch, "err", err)
	}
}

func (h *host) takeVolume(ctx context.Context, s *wan.Stream) {
	v, err := h.store.Volume(s.Hello.Name)
	if err == nil {
		err = v.ServeReplica(ctx, s)
	}
	if err != nil && ctx.Err() == nil {
		h.logger.Warn("replication stream ended", "volume", s.Hello.Name, "epoch", s.Hello.Epoch, "err", err)
	}
}
