package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/godwit-project/godwit/lab"
)

// What every guest has as its gateway on every host.
const (
	gatewayAddress = "169.254.1.1"
	gatewayMAC     = "02:67:77:00:00:01"
	guestMTU       = "1450"
)

// place is where a site's nodes are reached.
type place struct {
	host string // address of its host
	edge string // address of its edge, as the core sees it
	core string // address of the core, as its edge sees it
}

// routes are what leads to the bare guest: set up by hand, and switched without starting a program, so that the switch
// costs the bare run nothing that an operator could have saved.
type routes struct {
	bed     *bed
	places  map[string]place // by site
	handles map[string]*netlink.Handle
	spaces  []netns.NsHandle
}

// openRoutes sets up the same tap on the host of either site, and the way there from its edge.
func (b *bed) openRoutes(ctx context.Context) (*routes, error) {
	r := &routes{bed: b, places: make(map[string]place), handles: make(map[string]*netlink.Handle)}
	status, err := b.lab.Status(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.open(ctx, status); err != nil {
		return nil, errors.Join(fmt.Errorf("set up the network of the bare guest: %w", err), r.close(ctx))
	}
	return r, nil
}

func (r *routes) open(ctx context.Context, status lab.Status) error {
	addresses := make(map[string][]netip.Prefix)
	for _, n := range status.Nodes {
		for _, text := range n.Addresses {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return fmt.Errorf("address of %s: %w", n.Name, err)
			}
			addresses[n.Name] = append(addresses[n.Name], p)
		}
		if n.Name != "core" && !strings.HasSuffix(n.Name, "-edge") {
			continue
		}
		if err := r.openNode(n); err != nil {
			return err
		}
	}
	for _, site := range lab.Sites() {
		host := addresses[site+"-host"]
		edge, core, ok := neighbours(addresses[site+"-edge"], addresses["core"])
		if len(host) == 0 || !ok {
			return fmt.Errorf("find the addresses of site %s: the lab says %v", site, addresses)
		}
		r.places[site] = place{host: host[0].Addr().String(), edge: edge.String(), core: core.String()}
		if err := r.tap(ctx, site+"-host"); err != nil {
			return err
		}
	}
	return nil
}

func (r *routes) openNode(n lab.NodeStatus) error {
	ns, err := netns.GetFromPath(filepath.Join("/run/netns", n.Namespace))
	if err != nil {
		return fmt.Errorf("open node %s: %w", n.Name, err)
	}
	r.spaces = append(r.spaces, ns)
	r.handles[n.Name], err = netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("open node %s: %w", n.Name, err)
	}
	return nil
}

// neighbours finds the addresses with which two nodes reach each other.
func neighbours(a, b []netip.Prefix) (netip.Addr, netip.Addr, bool) {
	for _, x := range a {
		for _, y := range b {
			if x.Masked() == y.Masked() {
				return x.Addr(), y.Addr(), true
			}
		}
	}
	return netip.Addr{}, netip.Addr{}, false
}

// tap makes the guest's network card on a host, as Godwit would.
func (r *routes) tap(ctx context.Context, host string) error {
	for _, words := range []string{
		"tuntap add dev " + bareTap + " mode tap vnet_hdr",
		"link set " + bareTap + " address " + gatewayMAC + " txqueuelen 4096 mtu " + guestMTU + " up",
		"address add " + gatewayAddress + "/32 dev " + bareTap + " scope link",
		"route replace " + bareAddress + "/32 dev " + bareTap,
		"neigh replace " + bareAddress + " lladdr " + bareMAC + " dev " + bareTap + " nud permanent",
	} {
		if err := r.ip(ctx, host, words); err != nil {
			return err
		}
	}
	return nil
}

// ip runs the program of that name in a node.
func (r *routes) ip(ctx context.Context, node, words string) error {
	var out bytes.Buffer
	code, err := r.bed.lab.Exec(ctx, node, append([]string{"ip"}, strings.Fields(words)...), lab.Stdio{Out: &out, Err: &out})
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("ip %s on %s: %s", words, node, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// switchTo makes everybody send to the guest at a site: its edge first, then the core, then the other edge, for what is
// on its way there.
func (r *routes) switchTo(site string) error {
	there := r.places[site]
	if err := r.lead(site+"-edge", there.host); err != nil {
		return err
	}
	if err := r.lead("core", there.edge); err != nil {
		return err
	}
	for other, p := range r.places {
		if other == site {
			continue
		}
		if err := r.lead(other+"-edge", p.core); err != nil {
			return err
		}
	}
	return nil
}

func (r *routes) lead(node, gateway string) error {
	route := &netlink.Route{
		Dst: &net.IPNet{IP: net.ParseIP(bareAddress).To4(), Mask: net.CIDRMask(32, 32)}, Gw: net.ParseIP(gateway).To4(),
	}
	if err := r.handles[node].RouteReplace(route); err != nil {
		return fmt.Errorf("lead the bare guest's traffic from %s by way of %s: %w", node, gateway, err)
	}
	return nil
}

// close removes what open made, also after an interrupt.
func (r *routes) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var errs []error
	for site := range r.places {
		errs = append(errs, r.ip(ctx, site+"-host", "link delete "+bareTap))
	}
	for node, h := range r.handles {
		if h == nil {
			continue
		}
		for _, route := range r.ours(h) {
			if err := h.RouteDel(&route); err != nil {
				errs = append(errs, fmt.Errorf("remove the bare guest's route from %s: %w", node, err))
			}
		}
		h.Close()
	}
	for _, ns := range r.spaces {
		errs = append(errs, ns.Close())
	}
	return errors.Join(errs...)
}

// ours are the routes to the bare guest.
func (r *routes) ours(h *netlink.Handle) []netlink.Route {
	to := &net.IPNet{IP: net.ParseIP(bareAddress).To4(), Mask: net.CIDRMask(32, 32)}
	found, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: to}, netlink.RT_FILTER_DST)
	if err != nil {
		return nil
	}
	return found
}
