package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/network"
)

// quiet is how long a tunnel must carry nothing before it counts as idle.
const quiet = time.Second

// errNoVolumes refuses what is for hosts.
var errNoVolumes = errors.New("an edge has no volumes")

// edge is a site's router: tunnel, switch and routes.
type edge struct {
	net    *network.Edge
	logger *slog.Logger
}

func openEdge(ctx context.Context, o Options, logger *slog.Logger) (*edge, error) {
	uplink, err := netip.ParseAddr(o.UplinkAddress)
	if err != nil {
		return nil, fmt.Errorf("--uplink-address %q: an edge needs its own address towards the provider: %w", o.UplinkAddress, err)
	}
	neighbors := make([]network.Neighbor, 0, len(o.BGPNeighbors))
	for _, text := range o.BGPNeighbors {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("--bgp-neighbor %q: want the address of the provider's router: %w", text, err)
		}
		neighbors = append(neighbors, network.Neighbor{Address: a, ASN: o.ASN})
	}
	e, err := network.NewEdge(ctx, network.EdgeOptions{
		Logger: logger, Dir: filepath.Join(o.Dir, "network"),
		RouterID: uplink, ASN: o.ASN, Neighbors: neighbors, NextHop: uplink, Underlay: uplink,
	})
	if err != nil {
		return nil, err
	}
	return &edge{net: e, logger: logger}, nil
}

func (e *edge) close() error { return e.net.Close() }

func (e *edge) facts(context.Context) *pb.HostFacts { return nil }

func (e *edge) observe(context.Context, string) *pb.Holding { return nil }

// volatile: what an edge makes is in the kernel and outlives it.
func (e *edge) volatile(migration.StepID) bool { return false }

func (e *edge) start(ctx context.Context, s *pb.StartService) error {
	p, err := placement(s.GetService(), s.GetPlace(), s.GetEpoch())
	if err != nil {
		return err
	}
	err = e.net.Attach(ctx, p)
	if errors.Is(err, network.ErrStaleEpoch) && e.attached(p.Service) {
		// An attempt with a newer epoch was aborted, and the service is where it was.
		return nil
	}
	return err
}

func (e *edge) attached(service string) bool {
	for _, st := range e.net.Status() {
		if st.Service == service {
			return st.Announced
		}
	}
	return false
}

func (e *edge) stop(ctx context.Context, s *pb.StopService) error {
	return e.net.Detach(ctx, s.GetService(), s.GetEpoch())
}

func (e *edge) replicate(context.Context, *pb.ReplicateService) error { return errNoVolumes }

func (e *edge) place(context.Context, *pb.PlaceVolume) error { return errNoVolumes }

func (e *edge) volume(context.Context, *pb.VolumeTask, func(*pb.TaskProgress)) (*pb.VolumeResult, error) {
	return nil, errNoVolumes
}

func placement(spec *pb.ServiceSpec, at *pb.Place, epoch uint64) (network.Placement, error) {
	addresses, err := addressesOf(spec)
	if err != nil {
		return network.Placement{}, err
	}
	host, err := netip.ParseAddrPort(at.GetHostAddress())
	if err != nil {
		return network.Placement{}, fmt.Errorf("address of host %s: %w", at.GetHost(), err)
	}
	return network.Placement{Service: spec.GetName(), Addresses: addresses, Host: host.Addr(), Epoch: epoch}, nil
}

// step carries out one verb. Each is one call of package network.
func (e *edge) step(ctx context.Context, s *pb.MigrationStep, id migration.StepID, report func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	name, epoch := s.GetService().GetName(), s.GetEpoch()
	switch id {
	case "network/source/prepare", "network/destination/prepare":
		return nil, e.prepareTunnel(ctx, s, id.Role())
	case "network/source/quiesce":
		return nil, e.net.Hold(ctx, name, epoch)
	case "network/source/commit":
		f := e.counters(name)
		return f, e.net.LetGo(ctx, name, epoch)
	case "network/destination/commit":
		p, err := placement(s.GetService(), s.GetDestination(), epoch)
		if err != nil {
			return nil, err
		}
		return nil, e.net.Activate(ctx, p)
	case "network/destination/optimize":
		return nil, e.announce(ctx, name, epoch, report)
	case "network/source/optimize":
		return e.retire(ctx, name, epoch, report)
	case "network/source/release", "network/destination/release":
		return nil, e.net.Release(ctx, name, epoch)
	case "network/source/abort":
		return nil, e.net.Restore(ctx, name, epoch)
	case "network/destination/abort":
		return nil, e.net.Drop(ctx, name, epoch)
	}
	if id.Verb() == migration.ObserveVerb {
		return nil, nil
	}
	return nil, fmt.Errorf("step %s is not known on an edge", id)
}

func (e *edge) prepareTunnel(ctx context.Context, s *pb.MigrationStep, role migration.Role) error {
	p, err := placement(s.GetService(), s.GetDestination(), s.GetEpoch())
	if err != nil {
		return err
	}
	t := network.Tunnel{Service: p.Service, Epoch: p.Epoch, Addresses: p.Addresses, Role: network.RoleSource, Host: p.Host}
	peer := s.GetDestination().GetEdgeUnderlay()
	if role == migration.Destination {
		t.Role, peer = network.RoleDestination, s.GetSource().GetEdgeUnderlay()
	}
	if t.Peer, err = netip.ParseAddr(peer); err != nil {
		return fmt.Errorf("address of the other edge: %w", err)
	}
	return e.net.PrepareTunnel(ctx, t)
}

// announce tells the provider, and returns when somebody has heard it: before that the source must not withdraw, for then
// nobody would know the way. The tunnel carries the traffic as long as it takes.
func (e *edge) announce(ctx context.Context, name string, epoch uint64, report func(*pb.TaskProgress)) error {
	const again = 100 * time.Millisecond
	if err := e.net.Announce(ctx, name, epoch); err != nil {
		return err
	}
	look := time.NewTicker(again)
	defer look.Stop()
	for {
		sessions, err := e.net.Sessions(ctx)
		if err != nil {
			return err
		}
		heard := len(sessions) == 0 // a customer's edge: there is nobody to tell
		for _, s := range sessions {
			heard = heard || s.Established
		}
		if heard {
			return nil
		}
		report(&pb.TaskProgress{Message: "no BGP session with the provider stands: the tunnel carries the traffic until one does"})
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// retire waits until nobody uses the detour any more, then takes the old route back.
func (e *edge) retire(ctx context.Context, name string, epoch uint64, report func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	err := e.net.WaitIdle(ctx, name, epoch, quiet, func(packets uint64) {
		report(&pb.TaskProgress{Done: int64(packets), Message: "packets still come through the tunnel"})
	})
	if err != nil {
		return nil, err
	}
	f := e.counters(name)
	return f, e.net.Withdraw(ctx, name, epoch)
}

func (e *edge) counters(name string) *pb.StepFigures {
	for _, st := range e.net.Status() {
		if st.Service == name {
			return &pb.StepFigures{HeldPackets: int64(st.Held), DroppedPackets: int64(st.HeldDropped), TunnelPackets: int64(st.TunnelTxPackets)}
		}
	}
	return nil
}
