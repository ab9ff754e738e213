package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"

	"github.com/godwit-project/godwit/network/bgp"
)

// Attach routes a service's addresses to its host and announces them, with the preference of p.Epoch. The Placement
// that is there already may be attached again whatever epochs were seen since, as agents do after a restart.
func (e *Edge) Attach(ctx context.Context, p Placement) error {
	s, err := e.lockPlacement(ctx, p)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	next := s.rec
	next.Placement = &p
	next.Seen = max(next.Seen, p.Epoch)
	if next.Pref, err = LocalPref(p.Epoch); err != nil {
		return err
	}
	return e.place(s, next, "attach", p.Epoch)
}

// Activate routes the addresses to the host that takes over, for traffic of this site and from the tunnel. It is
// Commit at the destination; routers elsewhere learn of it by Announce.
func (e *Edge) Activate(ctx context.Context, p Placement) error {
	s, err := e.lockPlacement(ctx, p)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	next := s.rec
	next.Placement = &p
	next.Seen = max(next.Seen, p.Epoch)
	if err := e.kernel.resolve(p.Host); err != nil {
		return s.errorf("activate", p.Epoch, err)
	}
	return e.place(s, next, "activate", p.Epoch)
}

// Announce announces a service that lives here, with a preference above that of every earlier epoch.
func (e *Edge) Announce(ctx context.Context, name string, epoch uint64) error {
	s, err := e.lock(ctx, name, epoch)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.rec.Placement == nil || s.rec.Placement.Epoch != epoch {
		return s.errorf("announce", epoch, fmt.Errorf("%w: activate it first", ErrNotAttached))
	}
	next := s.rec
	if next.Pref, err = LocalPref(epoch); err != nil {
		return err
	}
	return e.place(s, next, "announce", epoch)
}

// Withdraw ends the announcement of a service that has moved away in this epoch. What still arrives here goes on
// through the tunnel until Release.
func (e *Edge) Withdraw(ctx context.Context, name string, epoch uint64) error {
	s, err := e.lock(ctx, name, epoch)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.rec.Placement != nil && s.rec.Placement.Epoch >= epoch {
		return s.errorf("withdraw", epoch, errors.New("the service lives at this site in this epoch; use Detach to take it off the network"))
	}
	if t := s.rec.Tunnel; t != nil && t.Role == RoleSource && (t.Phase == phasePrepared || t.Phase == phaseHeld) {
		return s.errorf("withdraw", epoch, fmt.Errorf("traffic was not let go yet (%s)", t.Phase))
	}
	next, old := s.rec, s.rec
	next.Placement, next.Pref, next.Seen = nil, 0, epoch
	if t := s.rec.Tunnel; t != nil && t.Phase == phaseLetGo {
		moved := *t
		moved.Phase = phaseWithdrawn
		next.Tunnel = &moved
	}
	return e.unplace(s, old, next, "withdraw", epoch)
}

// Detach takes a service off this edge altogether: announcement, route, and a tunnel if there is one.
func (e *Edge) Detach(ctx context.Context, name string, epoch uint64) error {
	s, err := e.lock(ctx, name, epoch)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	old := s.rec
	next := record{Seen: epoch, Closed: s.rec.Closed}
	if t := old.Tunnel; t != nil {
		next.Closed = max(next.Closed, t.Epoch)
	}
	if err := e.unplace(s, old, next, "detach", epoch); err != nil {
		return err
	}
	if old.Tunnel == nil {
		return nil
	}
	return e.dismantle(s, old.Tunnel)
}

func (e *Edge) lockPlacement(ctx context.Context, p Placement) (*service, error) {
	if err := checkAddresses(p.Addresses); err != nil {
		return nil, fmt.Errorf("service %s: %w", p.Service, err)
	}
	if !p.Host.Unmap().Is4() {
		return nil, fmt.Errorf("service %s: the host needs an IPv4 address, not %q", p.Service, p.Host)
	}
	s, err := e.lockAny(ctx, p.Service)
	if err != nil {
		return nil, err
	}
	if p.Epoch < s.rec.Seen && !samePlacement(s.rec.Placement, p) {
		seen := s.rec.Seen
		s.mu.Unlock()
		return nil, stale(p.Service, p.Epoch, seen)
	}
	return s, nil
}

func samePlacement(have *Placement, p Placement) bool {
	return have != nil && have.Epoch == p.Epoch && have.Host == p.Host && slices.Equal(have.Addresses, p.Addresses)
}

// place makes next durable and then true: routes first, announcements after them.
func (e *Edge) place(s *service, next record, what string, epoch uint64) error {
	gone := missing(placed(s.rec), placed(next))
	if err := e.saveLocked(s, next); err != nil {
		return s.errorf(what, epoch, err)
	}
	if err := e.withdraw(gone); err != nil {
		return s.errorf(what, epoch, err)
	}
	if err := errors.Join(e.removeRoutes(gone), e.routeLocked(s), e.announceLocked(s)); err != nil {
		return s.errorf(what, epoch, err)
	}
	s.problem = nil
	return nil
}

// unplace makes next durable and then true: announcements go first, routes after them.
func (e *Edge) unplace(s *service, old, next record, what string, epoch uint64) error {
	if err := e.saveLocked(s, next); err != nil {
		return s.errorf(what, epoch, err)
	}
	if err := e.withdraw(placed(old)); err != nil {
		return s.errorf(what, epoch, err)
	}
	if err := errors.Join(e.removeRoutes(missing(routed(old), routed(next))), e.routeLocked(s)); err != nil {
		return s.errorf(what, epoch, err)
	}
	return nil
}

func placed(r record) []netip.Addr {
	if r.Placement == nil {
		return nil
	}
	return r.Placement.Addresses
}

// routed is every address that a record wants a main route for.
func routed(r record) []netip.Addr {
	if steered(r) {
		return missing(placed(r), r.Tunnel.Addresses)
	}
	out := slices.Clone(placed(r))
	if _, ok := tunnelRoute(r); ok {
		out = append(out, missing(r.Tunnel.Addresses, out)...)
	}
	return out
}

func missing(from, in []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range from {
		if !slices.Contains(in, a) {
			out = append(out, a)
		}
	}
	return out
}

// tunnelRoute is where the tunnel's addresses go while a hold or tunnel has taken them over.
func tunnelRoute(r record) (via, bool) {
	if r.Tunnel == nil || r.Tunnel.Role != RoleSource {
		return via{}, false
	}
	switch r.Tunnel.Phase {
	case phaseHeld:
		return via{device: holdDevice(r.Tunnel.Epoch)}, true
	case phaseLetGo, phaseWithdrawn:
		return throughTunnel(r.Tunnel.Epoch), r.Tunnel.Uplink == ""
	default:
		return via{}, false
	}
}

// steered says that the tunnel's addresses have no main route of ours any more; a rule leads them to the tunnel.
func steered(r record) bool {
	return r.Tunnel != nil && r.Tunnel.Role == RoleSource && r.Tunnel.Uplink != ""
}

// routeLocked makes the main routes what the record says.
func (e *Edge) routeLocked(s *service) error {
	taken, ok := tunnelRoute(s.rec)
	for _, a := range routed(s.rec) {
		v := taken
		if !ok || !slices.Contains(s.rec.Tunnel.Addresses, a) {
			v = via{gateway: s.rec.Placement.Host}
		}
		if err := e.kernel.ensureRoute(a, v, 0); err != nil {
			return err
		}
	}
	return nil
}

func (e *Edge) removeRoutes(addresses []netip.Addr) error {
	for _, a := range addresses {
		if err := e.kernel.removeRoute(a, 0); err != nil {
			return err
		}
	}
	return nil
}

func (e *Edge) announceLocked(s *service) error {
	if e.speaker == nil || s.rec.Pref == 0 {
		return nil
	}
	for _, a := range placed(s.rec) {
		if err := e.speaker.Announce(bgp.Route{Address: a.Unmap(), LocalPref: s.rec.Pref}); err != nil {
			return err
		}
	}
	return nil
}

func (e *Edge) withdraw(addresses []netip.Addr) error {
	if e.speaker == nil {
		return nil
	}
	for _, a := range addresses {
		if err := e.speaker.Withdraw(a.Unmap()); err != nil {
			return err
		}
	}
	return nil
}

// Status says what is true of every service that is present here, in the order of their names.
func (e *Edge) Status() []EdgeStatus {
	e.mu.Lock()
	services := make([]*service, 0, len(e.services))
	for _, s := range e.services {
		services = append(services, s)
	}
	e.mu.Unlock()
	out := make([]EdgeStatus, 0, len(services))
	for _, s := range services {
		s.mu.Lock()
		if s.rec.Placement != nil || s.rec.Tunnel != nil {
			out = append(out, e.statusLocked(s))
		}
		s.mu.Unlock()
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Service < out[j].Service })
	return out
}

func (e *Edge) statusLocked(s *service) EdgeStatus {
	st := EdgeStatus{Service: s.name, Epoch: s.rec.Seen, Announced: s.rec.Pref != 0, LocalPref: s.rec.Pref}
	if v, ok := tunnelRoute(s.rec); ok {
		st.RouteVia = v.String()
	} else if s.rec.Placement != nil && !steered(s.rec) {
		st.RouteVia = s.rec.Placement.Host.String()
	}
	if s.problem != nil {
		st.Problem = s.problem.Error()
	}
	t := s.rec.Tunnel
	if t == nil {
		return st
	}
	st.Phase, st.TunnelDevice = string(t.Phase), tunnelDevice(t.Epoch)
	if s.hold != nil {
		st.Held, st.HeldDropped = s.hold.counts()
		if link, err := e.kernel.link(s.hold.device); err == nil && link != nil && link.Attrs().Statistics != nil {
			st.HeldDropped += link.Attrs().Statistics.TxDropped
		}
	}
	if link, err := e.kernel.link(st.TunnelDevice); err == nil && link != nil && link.Attrs().Statistics != nil {
		n := link.Attrs().Statistics
		st.TunnelTxPackets, st.TunnelTxBytes = n.TxPackets, n.TxBytes
		st.TunnelRxPackets, st.TunnelRxBytes = n.RxPackets, n.RxBytes
	}
	return st
}
