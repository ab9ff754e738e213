package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/godwit-project/godwit/network/bgp"
)

// Roles of a tunnel's ends.
const (
	RoleSource      = "source"
	RoleDestination = "destination"
)

// Neighbor is a router of the provider that the edge announces to.
type Neighbor = bgp.Neighbor

// EdgeOptions configure an edge.
type EdgeOptions struct {
	Logger *slog.Logger
	Dir    string // journal; must survive a restart of the machine's processes, need not survive a reboot

	// RouterID, ASN, Neighbors and NextHop (own address on the uplink) are for BGP. Without neighbours nothing is
	// announced: a customer's edge, where tunnel and local switch are all there is.
	RouterID  netip.Addr
	ASN       uint32
	Neighbors []Neighbor
	NextHop   netip.Addr

	// Underlay is the own address that tunnels start from. Needed for tunnels only.
	Underlay netip.Addr
}

// Placement says that a service runs at this site.
type Placement struct {
	Service   string
	Addresses []netip.Addr
	Host      netip.Addr // the next hop: the host's address
	Epoch     uint64     // the epoch that made this site the owner
}

// Tunnel is one end of the path between two edges for one migration.
type Tunnel struct {
	Service   string
	Epoch     uint64 // of the migration; unique over all services
	Addresses []netip.Addr
	Peer      netip.Addr // the other edge's Underlay
	Role      string     // RoleSource or RoleDestination
	Host      netip.Addr // destination: the local host to forward to
}

// EdgeStatus is what is true of one service at this edge.
type EdgeStatus struct {
	Service   string
	Epoch     uint64 // the highest seen
	Announced bool
	LocalPref uint32 // 0 when not announced

	// Phase of the tunnel: "prepared", "held", "letgo", "withdrawn", or empty when there is none.
	Phase        string
	TunnelDevice string
	Held         int    // packets waiting
	HeldDropped  uint64 // packets that the hold lost

	// Tunnel counters, in packets and bytes, since the device was made.
	TunnelTxPackets, TunnelTxBytes uint64
	TunnelRxPackets, TunnelRxBytes uint64

	RouteVia string // where the main route to the addresses leads; empty: there is none of ours

	// Problem: why this is not, or not wholly, true since a restart; the call that failed may be sent again. Empty: none.
	Problem string
}

// phase of a tunnel's end. At the destination it stays prepared.
//
//	prepared ──Hold──▶ held ──LetGo──▶ letgo ──Withdraw──▶ withdrawn ──Release──▶ gone
//	   └──────────────┴──Restore──▶ gone
type phase string

const (
	phasePrepared  phase = "prepared"
	phaseHeld      phase = "held"
	phaseLetGo     phase = "letgo"
	phaseWithdrawn phase = "withdrawn"
)

// tunnelRecord is a tunnel as the journal has it.
type tunnelRecord struct {
	Tunnel
	Phase phase
	// Uplink: only what comes in by this device still goes into the tunnel; see steer. Empty: everything does.
	Uplink string `json:",omitempty"`
}

// record is one service as the journal has it. It outlives the service's presence: Seen and Closed fence.
type record struct {
	Seen      uint64 // the highest epoch heard of
	Closed    uint64 // the highest epoch whose tunnel was taken down: it is not built again
	Placement *Placement
	Pref      uint32 // LOCAL_PREF announced; 0: not announced
	Tunnel    *tunnelRecord
}

// service is a record and what of it lives in this process.
type service struct {
	name string

	mu      sync.Mutex // held over journal and kernel changes, so that calls for one service follow one another
	rec     record
	hold    *hold
	problem error // why the kernel could not be made to agree with the record after a restart
}

// Edge is the edge half. Its methods may be called at the same time from several goroutines.
type Edge struct {
	opts    EdgeOptions
	log     *slog.Logger
	kernel  *kernel
	journal *journal[record]
	speaker *bgp.Speaker // nil: a customer's edge

	mu       sync.Mutex
	services map[string]*service
	devices  map[string]string // tunnel device → service that has it
	closed   bool
}

// NewEdge takes up what the journal says: routes, tunnels and holds are made sure of, what an earlier process left
// half-made is removed, and the announcements are made again before the first session is up.
func NewEdge(ctx context.Context, opts EdgeOptions) (*Edge, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	k, err := openKernel(edgeProtocol)
	if err != nil {
		return nil, err
	}
	j, err := openJournal[record](opts.Dir, "edge.journal")
	if err != nil {
		k.close()
		return nil, err
	}
	e := &Edge{
		opts: opts, log: opts.Logger.With("part", "network"), kernel: k, journal: j,
		services: map[string]*service{}, devices: map[string]string{},
	}
	if err := e.restore(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Close ends sessions, goroutines and files. Kernel state stays, and so do the announcements for the neighbours'
// restart time. Packets that are held at that moment are lost.
func (e *Edge) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	services := e.services
	e.services = map[string]*service{}
	e.mu.Unlock()

	var errs []error
	if e.speaker != nil {
		errs = append(errs, e.speaker.Close())
	}
	for _, s := range services {
		s.mu.Lock()
		if s.hold != nil {
			errs = append(errs, s.hold.close())
			s.hold = nil
		}
		s.mu.Unlock()
	}
	errs = append(errs, e.journal.close())
	e.kernel.close()
	return errors.Join(errs...)
}

// Sessions says how the BGP sessions are.
func (e *Edge) Sessions(ctx context.Context) ([]bgp.State, error) {
	if e.speaker == nil {
		return nil, nil
	}
	return e.speaker.Sessions(ctx)
}

// lock returns the service, locked, unless the epoch is older than one seen.
func (e *Edge) lock(ctx context.Context, name string, epoch uint64) (*service, error) {
	s, err := e.lockAny(ctx, name)
	if err != nil {
		return nil, err
	}
	if epoch < s.rec.Seen {
		seen := s.rec.Seen
		s.mu.Unlock()
		return nil, stale(name, epoch, seen)
	}
	return s, nil
}

func (e *Edge) lockAny(ctx context.Context, name string) (*service, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if name == "" {
		return nil, errors.New("network: no service named")
	}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, errors.New("network: edge is closed")
	}
	s := e.services[name]
	if s == nil {
		s = &service{name: name}
		e.services[name] = s
	}
	e.mu.Unlock()
	s.mu.Lock()
	return s, nil
}

// saveLocked makes a service's next record durable, and then the current one.
func (e *Edge) saveLocked(s *service, next record) error {
	if err := e.journal.put(s.name, next); err != nil {
		return err
	}
	s.rec = next
	return nil
}

func (s *service) errorf(what string, epoch uint64, err error) error {
	return fmt.Errorf("service %s, epoch %d: %s: %w", s.name, epoch, what, err)
}
