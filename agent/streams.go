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
	streamGroup  = "group"  // standing replication of all volumes of the service
	streamCheck  = "check"  // comparison of the memory that was handed over
)

// accept lets in the streams of the attempt that this host is the destination of, those of the standbys that are here, and no
// others.
func (h *host) accept(ctx context.Context, hello wan.Hello, state tls.ConnectionState) (func(context.Context, *wan.Stream), error) {
	if hello.Kind == streamGroup {
		return h.acceptGroup(ctx, hello, state)
	}
	if !h.undecided(hello) {
		return nil, fmt.Errorf("no stream of service %s is expected here for epoch %d", hello.Service, hello.Epoch)
	}
	switch hello.Kind {
	case streamClock:
		return func(context.Context, *wan.Stream) {}, nil
	case streamMemory:
		return h.takeMemory, nil
	case streamVolume:
		return h.takeVolume, nil
	case streamCheck:
		return h.takeCheck, nil
	}
	return nil, fmt.Errorf("streams of kind %q are not known here: install the same godwit at both sites", hello.Kind)
}

// undecided says whether a stream belongs to an attempt that is under way. How the streams of others end is of no
// interest.
func (h *host) undecided(hello wan.Hello) bool {
	var j migration.Journal
	h.book.view(hello.Service, func(e entry) { j = e.Journal })
	return j.Epoch == hello.Epoch && j.Decision == migration.DecisionNone
}

func (h *host) takeMemory(ctx context.Context, s *wan.Stream) {
	in, err := wan.Decompress(s)
	if err == nil {
		err = h.platform.AcceptIncoming(ctx, s.Hello.Service, s.Hello.Epoch, in)
	}
	if err != nil && ctx.Err() == nil && h.undecided(s.Hello) {
		h.logger.Warn("memory stream ended", "service", s.Hello.Service, "epoch", s.Hello.Epoch, "err", err)
	}
}

func (h *host) takeVolume(ctx context.Context, s *wan.Stream) {
	v, err := h.store.Volume(s.Hello.Name)
	if err == nil {
		err = v.ServeReplica(ctx, s)
	}
	if err != nil && ctx.Err() == nil && h.undecided(s.Hello) {
		h.logger.Warn("replication stream ended", "volume", s.Hello.Name, "epoch", s.Hello.Epoch, "err", err)
	}
}
