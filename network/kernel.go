package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// aliasPrefix marks a link as ours: an interface alias is the only free text that the kernel keeps with one.
const aliasPrefix = "godwit "

// kernel is what the edge and the host ask of netlink. Every call is idempotent: ensure means there and right
// afterwards, remove means gone.
type kernel struct {
	netlink  *netlink.Handle
	protocol netlink.RouteProtocol
}

func openKernel(protocol int) (*kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("network: open netlink: %w", err)
	}
	return &kernel{netlink: h, protocol: netlink.RouteProtocol(protocol)}, nil
}

func (k *kernel) close() { k.netlink.Close() }

func hostRoute(a netip.Addr) *net.IPNet {
	a = a.Unmap()
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// via is where a route leads: a gateway, a device, or a gateway taken to be on a device whatever its addresses.
type via struct {
	gateway netip.Addr
	device  string
}

func (v via) String() string {
	switch {
	case !v.gateway.IsValid():
		return "dev " + v.device
	case v.device == "":
		return v.gateway.String()
	default:
		return v.gateway.String() + " dev " + v.device
	}
}

// ensureRoute puts or replaces, in one step, the route to one address; table 0 is the main one.
func (k *kernel) ensureRoute(a netip.Addr, v via, table int) error {
	r := netlink.Route{Dst: hostRoute(a), Protocol: k.protocol, Table: table}
	if v.device != "" {
		link, err := k.netlink.LinkByName(v.device)
		if err != nil {
			return fmt.Errorf("network: route %s %s: %w", a, v, err)
		}
		r.LinkIndex, r.Scope = link.Attrs().Index, netlink.SCOPE_LINK
	}
	if v.gateway.IsValid() {
		r.Gw, r.Scope = v.gateway.AsSlice(), netlink.SCOPE_UNIVERSE
		if v.device != "" {
			r.SetFlag(netlink.FLAG_ONLINK)
		}
	}
	if err := k.netlink.RouteReplace(&r); err != nil {
		return fmt.Errorf("network: route %s via %s: %w", a, v, err)
	}
	return nil
}

// removeRoute takes away our route to an address, never somebody else's.
func (k *kernel) removeRoute(a netip.Addr, table int) error {
	err := k.netlink.RouteDel(&netlink.Route{Dst: hostRoute(a), Protocol: k.protocol, Table: table, Scope: netlink.SCOPE_NOWHERE})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("network: remove route %s: %w", a, err)
	}
	return nil
}

// routes lists our routes in all tables.
func (k *kernel) routes() ([]netlink.Route, error) {
	list, err := k.netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{Protocol: k.protocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("network: list routes: %w", err)
	}
	return list, nil
}

func ruleFor(device string, table int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.IifName, r.Table, r.Protocol = netlink.FAMILY_V4, rulePriority, device, table, edgeProtocol
	return r
}

func (k *kernel) ensureRule(device string, table int) error {
	if err := k.netlink.RuleAdd(ruleFor(device, table)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("network: rule iif %s: %w", device, err)
	}
	return nil
}

func (k *kernel) removeRule(device string, table int) error {
	err := k.netlink.RuleDel(ruleFor(device, table))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("network: remove rule iif %s: %w", device, err)
	}
	return nil
}

// rules lists our policy rules.
func (k *kernel) rules() ([]netlink.Rule, error) {
	list, err := k.netlink.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("network: list rules: %w", err)
	}
	ours := list[:0]
	for _, r := range list {
		if r.Protocol == edgeProtocol && r.Priority == rulePriority {
			ours = append(ours, r)
		}
	}
	return ours, nil
}

// link returns nil if there is none of that name.
func (k *kernel) link(name string) (netlink.Link, error) {
	link, err := k.netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("network: look up device %s: %w", name, err)
	}
	return link, nil
}

func (k *kernel) removeLink(name string) error {
	link, err := k.link(name)
	if err != nil || link == nil {
		return err
	}
	if err := k.netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("network: remove device %s: %w", name, err)
	}
	return nil
}

// markedLinks lists links that we made and left the mark on.
func (k *kernel) markedLinks(mark string) ([]netlink.Link, error) {
	list, err := k.netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("network: list devices: %w", err)
	}
	ours := list[:0]
	for _, l := range list {
		if strings.HasPrefix(l.Attrs().Alias, aliasPrefix+mark+" ") {
			ours = append(ours, l)
		}
	}
	return ours, nil
}

// raise marks a link as ours, sets its MTU and puts it up.
func (k *kernel) raise(link netlink.Link, mark string, mtu int) error {
	name := link.Attrs().Name
	if err := k.netlink.LinkSetAlias(link, aliasPrefix+mark); err != nil {
		return fmt.Errorf("network: mark device %s: %w", name, err)
	}
	if err := quietDevice(name); err != nil {
		return err
	}
	if err := k.netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("network: set MTU %d on %s: %w", mtu, name, err)
	}
	if err := k.netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("network: put device %s up: %w", name, err)
	}
	return nil
}

// permanentNeighbor says which MAC an address on a link has, so that nobody has to ask.
func (k *kernel) permanentNeighbor(link netlink.Link, a netip.Addr, mac net.HardwareAddr) error {
	err := k.netlink.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: a.Unmap().AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("network: neighbour %s on %s: %w", a, link.Attrs().Name, err)
	}
	return nil
}

// resolve makes the kernel find out a next hop's MAC now, as the first packets to an unknown one wait in a short queue
// that a burst overflows.
func (k *kernel) resolve(a netip.Addr) error {
	routes, err := k.netlink.RouteGet(a.Unmap().AsSlice())
	if err != nil || len(routes) == 0 {
		return fmt.Errorf("network: no route to %s: %w", a, err)
	}
	hop := routes[0].Gw
	if hop == nil {
		hop = a.Unmap().AsSlice()
	}
	known, err := k.netlink.NeighList(routes[0].LinkIndex, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("network: resolve %s: %w", a, err)
	}
	for _, n := range known {
		// To use an entry is to change it: a permanent one, which somebody has set, would lose its permanence.
		if n.IP.Equal(hop) && n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP|netlink.NUD_REACHABLE) != 0 {
			return nil
		}
	}
	err = k.netlink.NeighSet(&netlink.Neigh{
		LinkIndex: routes[0].LinkIndex, Family: netlink.FAMILY_V4, State: netlink.NUD_NONE, Flags: netlink.NTF_USE, IP: hop,
	})
	if err != nil {
		return fmt.Errorf("network: resolve %s: %w", a, err)
	}
	return nil
}

// leadsBy says whether a device has a route of somebody else's that covers the address, as a default route does.
func (k *kernel) leadsBy(device string, a netip.Addr) (bool, error) {
	link, err := k.link(device)
	if err != nil || link == nil {
		return false, err
	}
	routes, err := k.netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return false, fmt.Errorf("network: list routes by %s: %w", device, err)
	}
	for _, r := range routes {
		if r.Protocol != k.protocol && (r.Dst == nil || r.Dst.Contains(a.Unmap().AsSlice())) {
			return true, nil
		}
	}
	return false, nil
}

// deviceOf returns the device that has an address, or nothing.
func (k *kernel) deviceOf(a netip.Addr) (string, error) {
	addresses, err := k.netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", fmt.Errorf("network: list addresses: %w", err)
	}
	for _, have := range addresses {
		if have.IP.Equal(a.Unmap().AsSlice()) {
			link, err := k.netlink.LinkByIndex(have.LinkIndex)
			if err != nil {
				return "", fmt.Errorf("network: device of %s: %w", a, err)
			}
			return link.Attrs().Name, nil
		}
	}
	return "", nil
}

// pathMTU is the MTU towards an address: the route's if it has one, else its device's.
func (k *kernel) pathMTU(a netip.Addr) (int, error) {
	routes, err := k.netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return 0, fmt.Errorf("network: no route to %s: %w", a, err)
	}
	if routes[0].MTU > 0 {
		return routes[0].MTU, nil
	}
	link, err := k.netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return 0, fmt.Errorf("network: device towards %s: %w", a, err)
	}
	return link.Attrs().MTU, nil
}
