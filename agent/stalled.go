package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/server"
	"github.com/godwit-project/godwit/storage"
)

const (
	// reviveEvery is how often guests are looked at that were stopped because a disk took no write, reviveLast the longest pause
	// between two attempts for one guest.
	reviveEvery = 2 * time.Second
	reviveLast  = time.Minute
	// roomToWrite is what has to be free on the host's disk before a guest goes on, in bytes, so that it is not stopped again at once.
	roomToWrite = 64 << 20
)

// reviver lets guests go on that their platform has stopped because a disk took no write: full, or out of reach. The guest was told of
// nothing, and the platform writes again what failed.
type reviver struct {
	status func(ctx context.Context, service string) (server.Status, error)
	start  func(ctx context.Context, service string) error
	short  func(service string) (bool, error) // it is known that the disk has no room yet
	logger *slog.Logger
	next   map[string]attempt
}

// attempt is when a guest may go on next, and the pause after that.
type attempt struct {
	at    time.Time
	pause time.Duration
}

// look lets a guest go on if it is stopped, there may be room, and the last attempt was not a moment ago.
func (r *reviver) look(ctx context.Context, service string, now time.Time) error {
	st, err := r.status(ctx, service)
	if err != nil || !st.Stalled {
		return err
	}
	a, before := r.next[service]
	if before && now.After(a.at.Add(2*reviveLast)) {
		a, before = attempt{}, false // it has run meanwhile
	}
	if before && now.Before(a.at) {
		return nil
	}
	if !before {
		r.logger.Error("a virtual server is stopped, because a disk took no write", "service", service, "cause", st.Err)
		a.pause = reviveEvery
	}
	short, err := r.short(service)
	if err != nil {
		return err
	}
	if r.next == nil {
		r.next = make(map[string]attempt)
	}
	if short {
		r.next[service] = attempt{at: now.Add(reviveEvery), pause: reviveEvery}
		return nil
	}
	r.next[service] = attempt{at: now.Add(a.pause), pause: min(2*a.pause, reviveLast)}
	if err := r.start(ctx, service); err != nil {
		return fmt.Errorf("let service %s go on: %w", service, err)
	}
	return nil
}

// short says whether there is no sense in trying yet: a volume of the service that lies in the store's file system found no room there, and there
// is none still. Of all other disks (block devices, thin ones too, and external ones) the host does not know the room, and that of its own
// file system says nothing of it: there an attempt is what finds out. A replica that has no room stops nobody: its link breaks.
func (h *host) short(service string) (bool, error) {
	spec, err := h.specOf(service)
	if err != nil {
		return false, err
	}
	for _, s := range lying(spec) {
		v, err := h.store.Volume(volumeName(service, s))
		if err != nil || v.Status().Device || !foundNoRoom(v.Alerts()) {
			continue // what is damaged or not there says itself why
		}
		free, err := h.store.Free()
		return free < roomToWrite, err
	}
	return false, nil
}

// foundNoRoom says whether that was the matter with the write that failed last. Alerts come with the last first.
func foundNoRoom(all []storage.Alert) bool {
	for _, a := range all {
		switch a.Kind {
		case storage.FaultNoSpace:
			return true
		case storage.FaultWrite, storage.FaultFailed:
			return false
		}
	}
	return false
}

// reviveAll looks at all services that run here, until the host is closed.
func (h *host) reviveAll() {
	ticker := time.NewTicker(reviveEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-h.life.Done():
			return
		}
		for _, name := range h.book.services() {
			home := uint64(0)
			h.book.view(name, func(e entry) { home = e.Home })
			if home == 0 {
				continue
			}
			if err := h.reviver.look(h.life, name, time.Now()); err != nil && h.life.Err() == nil {
				h.logger.Warn("a virtual server that is stopped does not go on", "service", name, "err", err)
			}
		}
	}
}

// goOn starts a machine that is there. One that was stopped to be handed over refuses.
func (h *host) goOn(ctx context.Context, service string) error {
	spec, err := h.specOf(service)
	if err != nil {
		return err
	}
	m, err := h.machine(ctx, spec)
	if err != nil {
		return err
	}
	return h.platform.Start(ctx, m)
}

// specOf is what a service that runs here was started with.
func (h *host) specOf(service string) (*pb.ServiceSpec, error) {
	var raw []byte
	h.book.view(service, func(e entry) { raw = e.Spec })
	spec := new(pb.ServiceSpec)
	if err := protojson.Unmarshal(raw, spec); err != nil {
		return nil, fmt.Errorf("read what service %s was started with: %w", service, err)
	}
	return spec, nil
}
