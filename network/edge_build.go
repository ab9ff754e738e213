package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-project/godwit/network/bgp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	vxlanPort     = 4789
	vxlanOverhead = 50
)

// build makes the kernel have the tunnel of the record, whatever part of it is there.
func (e *Edge) build(s *service) error {
	t := s.rec.Tunnel.Tunnel
	if err := e.buildTunnel(t); err != nil {
		return err
	}
	to, from := via{gateway: t.Host}, tunnelDevice(t.Epoch)
	if t.Role == RoleSource {
		if err := e.buildHold(s); err != nil {
			return err
		}
		to, from = throughTunnel(t.Epoch), holdDevice(t.Epoch)
	}
	for _, a := range t.Addresses {
		if err := e.kernel.ensureRoute(a, to, tunnelTable(t.Epoch)); err != nil {
			return err
		}
	}
	if err := e.kernel.ensureRule(from, tunnelTable(t.Epoch)); err != nil {
		return err
	}
	if up := s.rec.Tunnel.Uplink; up != "" {
		return e.kernel.ensureRule(up, tunnelTable(t.Epoch))
	}
	if t.Role == RoleDestination {
		return e.kernel.resolve(t.Host)
	}
	return e.kernel.resolve(t.Peer)
}

func mark(t Tunnel) string { return fmt.Sprintf("edge %d %s", t.Epoch, t.Service) }

func (e *Edge) buildTunnel(t Tunnel) error {
	name := tunnelDevice(t.Epoch)
	mtu, err := e.kernel.pathMTU(t.Peer)
	if err != nil {
		return err
	}
	link, err := e.kernel.link(name)
	if err != nil {
		return err
	}
	if link != nil && !e.isTunnel(link, t) {
		if err := e.kernel.removeLink(name); err != nil {
			return err
		}
		link = nil
	}
	if link == nil {
		if link, err = e.addTunnel(name, t); err != nil {
			return err
		}
	}
	if err := e.kernel.raise(link, mark(t), mtu-vxlanOverhead); err != nil {
		return err
	}
	return e.kernel.permanentNeighbor(link, tunnelPeer, tunnelMAC(otherRole(t.Role), t.Epoch))
}

// addTunnel creates the device. Its default destination is the peer and it learns nothing: the forwarding table has
// that one entry for ever.
func (e *Edge) addTunnel(name string, t Tunnel) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, tunnelMAC(t.Role, t.Epoch)
	err := e.kernel.netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: vni(t.Epoch), Port: vxlanPort,
		SrcAddr: e.opts.Underlay.Unmap().AsSlice(), Group: t.Peer.Unmap().AsSlice(),
	})
	if err != nil {
		return nil, fmt.Errorf("network: create tunnel %s to %s: %w", name, t.Peer, err)
	}
	return e.kernel.netlink.LinkByName(name)
}

func (e *Edge) isTunnel(link netlink.Link, t Tunnel) bool {
	v, ok := link.(*netlink.Vxlan)
	return ok && v.VxlanId == vni(t.Epoch) && v.Group.Equal(t.Peer.Unmap().AsSlice()) &&
		v.SrcAddr.Equal(e.opts.Underlay.Unmap().AsSlice()) &&
		v.HardwareAddr.String() == tunnelMAC(t.Role, t.Epoch).String()
}

func (e *Edge) buildHold(s *service) error {
	t := s.rec.Tunnel
	name := holdDevice(t.Epoch)
	if s.hold == nil {
		h, err := openHold(name, t.Phase != phasePrepared && t.Phase != phaseHeld)
		if err != nil {
			return err
		}
		s.hold = h
		h.start()
	}
	link, err := e.kernel.netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("network: hold device %s: %w", name, err)
	}
	if err := e.kernel.netlink.LinkSetTxQLen(link, holdPackets); err != nil {
		return fmt.Errorf("network: lengthen the queue of %s: %w", name, err)
	}
	if err := e.kernel.raise(link, mark(t.Tunnel), holdMTU); err != nil {
		return err
	}
	// What this machine itself sends to the service comes out of the hold with a local source address.
	return setSysctl("ipv4/conf/"+name+"/accept_local", "1")
}

// dismantle takes away whatever there is of a tunnel that the journal no longer has.
func (e *Edge) dismantle(s *service, t *tunnelRecord) error {
	var errs []error
	if s.hold != nil {
		errs = append(errs, s.hold.close())
		s.hold = nil
	}
	table := tunnelTable(t.Epoch)
	errs = append(errs,
		e.kernel.removeLink(holdDevice(t.Epoch)),
		e.kernel.removeRule(holdDevice(t.Epoch), table),
		e.kernel.removeRule(tunnelDevice(t.Epoch), table),
	)
	if t.Uplink != "" {
		errs = append(errs, e.kernel.removeRule(t.Uplink, table))
	}
	for _, a := range t.Addresses {
		errs = append(errs, e.kernel.removeRoute(a, table))
	}
	errs = append(errs, e.kernel.removeLink(tunnelDevice(t.Epoch)))
	e.mu.Lock()
	delete(e.devices, tunnelDevice(t.Epoch))
	e.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return s.errorf("take the tunnel down", t.Epoch, err)
	}
	return nil
}

// restore makes the kernel and the provider know what the journal says, and nothing else of ours.
func (e *Edge) restore(ctx context.Context) error {
	if err := enableForwarding(); err != nil {
		return err
	}
	var routes []bgp.Route
	records := e.journal.all()
	for name, rec := range records {
		s := &service{name: name, rec: rec}
		e.services[name] = s
		if err := e.restoreService(s); err != nil {
			s.problem = s.errorf("restore after restart", rec.Seen, err)
			e.log.Error("the network of a service is not as it should be", "service", name, "error", err)
		}
		if rec.Pref != 0 {
			for _, a := range placed(rec) {
				routes = append(routes, bgp.Route{Address: a.Unmap(), LocalPref: rec.Pref})
			}
		}
	}
	if err := e.sweep(records); err != nil {
		return err
	}
	return e.startSpeaker(ctx, routes, len(records) > 0)
}

// restoreService fails alone: one host that is out of reach must not keep the others' traffic down.
func (e *Edge) restoreService(s *service) error {
	if t := s.rec.Tunnel; t != nil {
		e.devices[tunnelDevice(t.Epoch)] = s.name
		if err := e.build(s); err != nil {
			return err
		}
	}
	return e.routeLocked(s)
}

func (e *Edge) startSpeaker(ctx context.Context, routes []bgp.Route, restarting bool) error {
	if len(e.opts.Neighbors) == 0 {
		return nil
	}
	speaker, err := bgp.Start(ctx, bgp.Options{
		Logger: e.log, RouterID: e.opts.RouterID, ASN: e.opts.ASN, NextHop: e.opts.NextHop,
		Neighbors: e.opts.Neighbors, Routes: routes, Restarting: restarting,
	})
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	e.speaker = speaker
	return nil
}

// sweep removes what an earlier process made and no record wants: a kill between journal and kernel leaves such.
func (e *Edge) sweep(records map[string]record) error {
	devices, mains, tables := wanted(records)
	links, err := e.kernel.markedLinks("edge")
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if !devices[l.Attrs().Name] {
			errs = append(errs, e.kernel.removeLink(l.Attrs().Name))
		}
	}
	rules, err := e.kernel.rules()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, r := range rules {
		if !tables[r.Table] {
			errs = append(errs, e.kernel.removeRule(r.IifName, r.Table))
		}
	}
	routes, err := e.kernel.routes()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, r := range routes {
		keep := tables[r.Table]
		if r.Table == unix.RT_TABLE_MAIN {
			keep = mains[r.Dst.String()]
		}
		if !keep {
			errs = append(errs, e.kernel.netlink.RouteDel(&r))
		}
	}
	return errors.Join(errs...)
}

// wanted lists the devices, the main table's destinations and the other tables that records call for.
func wanted(records map[string]record) (devices, mains map[string]bool, tables map[int]bool) {
	devices, mains, tables = map[string]bool{}, map[string]bool{}, map[int]bool{}
	for _, rec := range records {
		for _, a := range routed(rec) {
			mains[hostRoute(a).String()] = true
		}
		if t := rec.Tunnel; t != nil {
			devices[tunnelDevice(t.Epoch)], devices[holdDevice(t.Epoch)] = true, true
			tables[tunnelTable(t.Epoch)] = true
		}
	}
	return devices, mains, tables
}
