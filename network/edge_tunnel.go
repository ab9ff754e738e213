package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"time"
)

// PrepareTunnel builds this edge's end of the tunnel. Nothing goes through it yet. An older tunnel of the service is
// taken down first, held traffic going back where it came from: a newer epoch exists, so that attempt is over.
func (e *Edge) PrepareTunnel(ctx context.Context, t Tunnel) error {
	if err := e.checkTunnel(t); err != nil {
		return err
	}
	s, err := e.lock(ctx, t.Service, t.Epoch)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	if t.Epoch <= s.rec.Closed {
		return s.errorf("prepare tunnel", t.Epoch, fmt.Errorf("it was taken down already: %w", ErrStaleEpoch))
	}
	if err := e.supersede(s, t.Epoch); err != nil {
		return err
	}
	if have := s.rec.Tunnel; have != nil && !reflect.DeepEqual(have.Tunnel, t) {
		if have.Phase != phasePrepared {
			return s.errorf("prepare tunnel", t.Epoch, fmt.Errorf("it is in use (%s) and differs from what is asked", have.Phase))
		}
		if err := e.dismantle(s, have); err != nil {
			return err
		}
	}
	if err := e.claim(t); err != nil {
		return err
	}
	next := s.rec
	next.Seen = t.Epoch
	if next.Tunnel == nil || next.Tunnel.Phase == phasePrepared {
		next.Tunnel = &tunnelRecord{Tunnel: t, Phase: phasePrepared}
	}
	if err := e.saveLocked(s, next); err != nil {
		return s.errorf("prepare tunnel", t.Epoch, err)
	}
	if err := e.build(s); err != nil {
		return s.errorf("prepare tunnel", t.Epoch, err)
	}
	s.problem = nil
	return nil
}

func (e *Edge) checkTunnel(t Tunnel) error {
	var err error
	switch {
	case t.Role != RoleSource && t.Role != RoleDestination:
		err = fmt.Errorf("role %q: want %s or %s", t.Role, RoleSource, RoleDestination)
	case len(t.Addresses) == 0:
		err = errors.New("no addresses")
	case !t.Peer.Unmap().Is4() || !e.opts.Underlay.Unmap().Is4():
		err = fmt.Errorf("tunnels need IPv4 underlay addresses at both ends, not %q and %q", e.opts.Underlay, t.Peer)
	case t.Role == RoleDestination && !t.Host.Unmap().Is4():
		err = fmt.Errorf("the destination's host needs an IPv4 address, not %q", t.Host)
	default:
		err = checkAddresses(t.Addresses)
	}
	if err != nil {
		return fmt.Errorf("service %s, epoch %d: prepare tunnel: %w", t.Service, t.Epoch, err)
	}
	return nil
}

// supersede takes down a tunnel of an older epoch.
func (e *Edge) supersede(s *service, epoch uint64) error {
	old := s.rec.Tunnel
	if old == nil || old.Epoch == epoch {
		return nil
	}
	e.log.Warn("taking down the tunnel of an older epoch", "service", s.name, "epoch", old.Epoch, "newer", epoch, "phase", old.Phase)
	if old.Role == RoleSource && (old.Phase == phasePrepared || old.Phase == phaseHeld) {
		return e.putBack(s)
	}
	return e.takeDown(s, s.rec)
}

// claim reserves the tunnel's device and network identifier, which are computed from the epoch.
func (e *Edge) claim(t Tunnel) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for device, owner := range e.devices {
		other, _ := deviceEpoch(device, tunnelPrefix)
		if owner != t.Service && vni(other) == vni(t.Epoch) {
			return fmt.Errorf("service %s, epoch %d: prepare tunnel: service %s has a tunnel with the same identifier; epochs must be unique over all services",
				t.Service, t.Epoch, owner)
		}
	}
	e.devices[tunnelDevice(t.Epoch)] = t.Service
	return nil
}

// source returns the service, locked, whose tunnel this epoch's source end is.
func (e *Edge) source(ctx context.Context, name string, epoch uint64, what string) (*service, error) {
	s, err := e.lock(ctx, name, epoch)
	if err != nil {
		return nil, err
	}
	if t := s.rec.Tunnel; t == nil || t.Epoch != epoch || t.Role != RoleSource {
		s.mu.Unlock()
		return nil, s.errorf(what, epoch, ErrNotPrepared)
	}
	return s, nil
}

// Hold queues packets to the service's addresses from now on. What was on its way to the host before still arrives
// there; the queue keeps 8192 packets or 16 MiB and then drops the oldest.
func (e *Edge) Hold(ctx context.Context, name string, epoch uint64) error {
	s, err := e.source(ctx, name, epoch, "hold")
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.rec.Tunnel.Phase != phasePrepared && s.rec.Tunnel.Phase != phaseHeld {
		return s.errorf("hold", epoch, ErrCommitted)
	}
	if err := e.advance(s, phaseHeld); err != nil {
		return s.errorf("hold", epoch, err)
	}
	if err := e.routeLocked(s); err != nil {
		return s.errorf("hold", epoch, err)
	}
	return nil
}

// LetGo sends what is held into the tunnel, in order, and everything that comes after. It is Commit at the source:
// there is no Restore after it.
func (e *Edge) LetGo(ctx context.Context, name string, epoch uint64) error {
	s, err := e.source(ctx, name, epoch, "let go")
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.rec.Tunnel.Phase == phaseWithdrawn {
		return nil
	}
	if err := e.advance(s, phaseLetGo); err != nil {
		return s.errorf("let go", epoch, err)
	}
	if err := s.hold.letGo(func() error { return e.routeLocked(s) }); err != nil {
		return s.errorf("let go", epoch, err)
	}
	return nil
}

func (e *Edge) advance(s *service, to phase) error {
	if s.rec.Tunnel.Phase == to {
		return nil
	}
	moved := *s.rec.Tunnel
	moved.Phase = to
	next := s.rec
	next.Tunnel = &moved
	return e.saveLocked(s, next)
}

// Restore gives held traffic and the route back to the local host and takes the tunnel down: the source's abort.
// There may be nothing to restore; then the epoch is fenced and no more.
func (e *Edge) Restore(ctx context.Context, name string, epoch uint64) error {
	s, err := e.ending(ctx, name, epoch)
	if s == nil {
		return err
	}
	defer s.mu.Unlock()
	t := s.rec.Tunnel
	if t == nil {
		return e.fence(s, epoch)
	}
	if t.Role != RoleSource {
		return s.errorf("restore", epoch, errors.New("this edge is the destination; use Drop"))
	}
	if t.Phase == phaseLetGo || t.Phase == phaseWithdrawn {
		return s.errorf("restore", epoch, ErrCommitted)
	}
	return e.putBack(s)
}

// Drop takes the destination's end of the tunnel down again: the destination's abort.
func (e *Edge) Drop(ctx context.Context, name string, epoch uint64) error {
	s, err := e.ending(ctx, name, epoch)
	if s == nil {
		return err
	}
	defer s.mu.Unlock()
	if s.rec.Placement != nil && s.rec.Placement.Epoch == epoch {
		return s.errorf("drop", epoch, fmt.Errorf("the service was activated here: %w", ErrCommitted))
	}
	if t := s.rec.Tunnel; t != nil && t.Role == RoleSource {
		return s.errorf("drop", epoch, errors.New("this edge is the source; use Restore"))
	}
	if s.rec.Tunnel == nil {
		return e.fence(s, epoch)
	}
	return e.takeDown(s, s.rec)
}

// Release takes the tunnel down after the move, at either end. At the source it also ends the announcement, should
// Withdraw not have been asked; the destination's Placement stays.
func (e *Edge) Release(ctx context.Context, name string, epoch uint64) error {
	s, err := e.ending(ctx, name, epoch)
	if s == nil {
		return err
	}
	defer s.mu.Unlock()
	t := s.rec.Tunnel
	if t == nil {
		return e.fence(s, epoch)
	}
	if t.Role == RoleSource && (t.Phase == phasePrepared || t.Phase == phaseHeld) {
		return s.errorf("release", epoch, fmt.Errorf("traffic was not let go yet (%s); use Restore to give up", t.Phase))
	}
	next := s.rec
	if t.Role == RoleSource && next.Placement != nil && next.Placement.Epoch < epoch {
		next.Placement, next.Pref = nil, 0
	}
	return e.takeDown(s, next)
}

// ending returns the service, locked, for a call that takes this epoch's tunnel down. Both results are nil where it
// has been taken down already, also when newer epochs have come since.
func (e *Edge) ending(ctx context.Context, name string, epoch uint64) (*service, error) {
	s, err := e.lockAny(ctx, name)
	if err != nil {
		return nil, err
	}
	t := s.rec.Tunnel
	switch {
	case t != nil && t.Epoch == epoch:
		return s, nil
	case epoch <= s.rec.Closed:
		s.mu.Unlock()
		return nil, nil
	case epoch < s.rec.Seen:
		seen := s.rec.Seen
		s.mu.Unlock()
		return nil, stale(name, epoch, seen)
	case t != nil:
		s.mu.Unlock()
		return nil, s.errorf("take the tunnel down", epoch, fmt.Errorf("%w: epoch %d has one", ErrNotPrepared, t.Epoch))
	default:
		return s, nil
	}
}

// fence records that an epoch is over here, so that a delayed PrepareTunnel of it builds nothing.
func (e *Edge) fence(s *service, epoch uint64) error {
	next := s.rec
	next.Seen, next.Closed = max(next.Seen, epoch), max(next.Closed, epoch)
	if err := e.saveLocked(s, next); err != nil {
		return s.errorf("fence", epoch, err)
	}
	return nil
}

// putBack is Restore of the tunnel that the record has.
func (e *Edge) putBack(s *service) error {
	t := s.rec.Tunnel
	old, next := s.rec, s.rec
	next.Tunnel, next.Closed = nil, max(next.Closed, t.Epoch)
	if err := e.saveLocked(s, next); err != nil {
		return s.errorf("restore", t.Epoch, err)
	}
	back := func() error {
		return errors.Join(e.routeLocked(s), e.removeRoutes(missing(routed(old), routed(next))))
	}
	if err := e.letGoTo(s, t.Tunnel, back); err != nil {
		return s.errorf("restore", t.Epoch, err)
	}
	return e.dismantle(s, t)
}

// letGoTo points the hold's table at the local host, lets the queue go there, and turns the main route.
func (e *Edge) letGoTo(s *service, t Tunnel, turn func() error) error {
	host := t.Host
	if s.rec.Placement != nil {
		host = s.rec.Placement.Host
	}
	if s.hold == nil || !host.IsValid() {
		return turn()
	}
	for _, a := range t.Addresses {
		if err := e.kernel.ensureRoute(a, via{gateway: host}, tunnelTable(t.Epoch)); err != nil {
			return errors.Join(err, turn()) // the queue is lost then, the service must not be
		}
	}
	return s.hold.letGo(turn)
}

// takeDown makes next, without its tunnel, durable, and then true.
func (e *Edge) takeDown(s *service, next record) error {
	old, t := s.rec, s.rec.Tunnel
	next.Tunnel, next.Closed = nil, max(next.Closed, t.Epoch)
	if err := e.saveLocked(s, next); err != nil {
		return s.errorf("take the tunnel down", t.Epoch, err)
	}
	err := errors.Join(
		e.withdraw(missing(placed(old), placed(next))),
		e.removeRoutes(missing(routed(old), routed(next))),
		e.routeLocked(s),
	)
	if err != nil {
		return s.errorf("take the tunnel down", t.Epoch, err)
	}
	return e.dismantle(s, t)
}

// WaitIdle returns when no packet has gone into the tunnel for quiet: all routers have learnt the direct way. progress
// (may be nil) is told how many have gone in so far. It waits as long as ctx allows. The destination must have
// announced before: from now on this site's own traffic to the service takes the provider's way.
func (e *Edge) WaitIdle(ctx context.Context, name string, epoch uint64, quiet time.Duration, progress func(packets uint64)) error {
	s, err := e.lock(ctx, name, epoch)
	if err != nil {
		return err
	}
	t, closed := s.rec.Tunnel, s.rec.Closed
	switch {
	case t == nil && closed >= epoch:
		s.mu.Unlock()
		return nil
	case t == nil || t.Epoch != epoch || t.Role != RoleSource || t.Phase == phasePrepared || t.Phase == phaseHeld:
		err = ErrNotPrepared
	default:
		err = e.steer(s)
	}
	s.mu.Unlock()
	if err != nil {
		return s.errorf("wait until the tunnel is idle", epoch, err)
	}
	if err := e.waitStill(ctx, tunnelDevice(epoch), quiet, progress); err != nil {
		return s.errorf("wait until the tunnel is idle", epoch, err)
	}
	return nil
}

// steer leaves to the tunnel only what comes in from the provider, and lets the site's own traffic to the service go
// the provider's way: else a neighbour that talks to the service would keep the tunnel busy for ever. Should the
// provider not know the new place yet, it sends such a packet back, and then the tunnel takes it. Where there is no
// way by the uplink, all stays as it is.
func (e *Edge) steer(s *service) error {
	if s.rec.Tunnel.Uplink != "" || !e.opts.NextHop.IsValid() {
		return nil
	}
	uplink, err := e.kernel.deviceOf(e.opts.NextHop)
	if err != nil || uplink == "" {
		return err
	}
	for _, a := range s.rec.Tunnel.Addresses {
		if ok, err := e.kernel.leadsBy(uplink, a); err != nil || !ok {
			return err
		}
	}
	moved := *s.rec.Tunnel
	moved.Uplink = uplink
	old, next := s.rec, s.rec
	next.Tunnel = &moved
	if err := e.saveLocked(s, next); err != nil {
		return err
	}
	if err := e.kernel.ensureRule(uplink, tunnelTable(moved.Epoch)); err != nil {
		return err
	}
	return e.removeRoutes(missing(routed(old), routed(next)))
}

func (e *Edge) waitStill(ctx context.Context, device string, quiet time.Duration, progress func(uint64)) error {
	tick := time.NewTicker(min(max(quiet/10, 5*time.Millisecond), 500*time.Millisecond))
	defer tick.Stop()
	last, since, first := uint64(0), time.Now(), true
	for {
		link, err := e.kernel.link(device)
		if err != nil {
			return err
		}
		if link == nil || link.Attrs().Statistics == nil {
			return fmt.Errorf("device %s is gone", device)
		}
		sent := link.Attrs().Statistics.TxPackets
		if first || sent != last {
			last, since, first = sent, time.Now(), false
			if progress != nil {
				progress(sent)
			}
		}
		if time.Since(since) >= quiet {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s still carries traffic (%d packets): some router has not learnt the new route: %w", device, last, ctx.Err())
		case <-tick.C:
		}
	}
}

// tunnelPeer is the far end's address inside every tunnel. Ends have no address of their own: the neighbour entry
// says all that the kernel needs to send, and a device without addresses brings no connected routes along.
var tunnelPeer = netip.AddrFrom4([4]byte{169, 254, 2, 1})

func throughTunnel(epoch uint64) via { return via{gateway: tunnelPeer, device: tunnelDevice(epoch)} }
