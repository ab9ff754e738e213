//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// defaultMTU leaves room for a tunnel's headers inside the usual 1500.
	defaultMTU = 1450
	// linkWait bounds the wait for the network card's driver.
	linkWait = 10 * time.Second
	// firstRetry and lastRetry: a lab boots in seconds, so the first unanswered DISCOVER must not cost the usual four.
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Second
)

// configuration is what the network card gets, from DHCP or from the command line.
type configuration struct {
	address netip.Prefix
	routes  []route
	mtu     int
}

// route with an invalid gateway is on the link.
type route struct {
	to      netip.Prefix
	gateway netip.Addr
}

// setUpNetwork brings the first network card up and returns the machine's address. The lease is never given back nor renewed:
// the address is the service's and stays with it wherever it runs.
func setUpNetwork(ctx context.Context, console *console, o options) (netip.Addr, error) {
	link, err := firstLink(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo) // only local tools would miss it
	}
	// The service has IPv4 addresses only; neighbour discovery and router solicitations would be work for nobody.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return netip.Addr{}, fmt.Errorf("turn IPv6 off: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return netip.Addr{}, fmt.Errorf("bring up %s: %w", link.Attrs().Name, err)
	}
	c := fixed(o)
	if !o.address.IsValid() {
		if c, err = askDHCP(ctx, console, link.Attrs().Name); err != nil {
			return netip.Addr{}, err
		}
	}
	if err := apply(link, c); err != nil {
		return netip.Addr{}, err
	}
	return c.address.Addr(), nil
}

// firstLink waits for a card other than the loopback; the driver has been loaded, but may still be probing.
func firstLink(ctx context.Context) (netlink.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, linkWait)
	defer cancel()
	for {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, fmt.Errorf("list network cards: %w", err)
		}
		for _, l := range links {
			if l.Attrs().Flags&net.FlagLoopback == 0 {
				return l, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no network card within %v: give the machine a virtio-net device", linkWait)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func fixed(o options) configuration {
	c := configuration{address: o.address, mtu: defaultMTU}
	if o.gateway.IsValid() {
		c.routes = []route{{to: netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway: o.gateway}}
	}
	return c
}

// askDHCP asks until somebody answers.
func askDHCP(ctx context.Context, console *console, name string) (configuration, error) {
	for pause, attempt := firstRetry, 1; ; pause, attempt = min(2*pause, lastRetry), attempt+1 {
		c, err := askOnce(ctx, name, pause)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return configuration{}, ctx.Err()
		}
		if attempt%10 == 0 {
			console.printf("still without an address after %d DHCP attempts on %s: %v", attempt, name, err)
		}
		if !errors.Is(err, nclient4.ErrNoResponse) {
			time.Sleep(pause) // the others return at once
		}
	}
}

func askOnce(ctx context.Context, name string, timeout time.Duration) (configuration, error) {
	client, err := nclient4.New(name, nclient4.WithTimeout(timeout), nclient4.WithRetry(1))
	if err != nil {
		return configuration{}, fmt.Errorf("open %s for DHCP: %w", name, err)
	}
	defer client.Close()
	lease, err := client.Request(ctx, dhcpv4.WithRequestedOptions(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionInterfaceMTU))
	if err != nil {
		return configuration{}, err
	}
	return fromLease(lease.ACK)
}

// fromLease reads the options. Classless routes, where given, replace the router option (RFC 3442).
func fromLease(ack *dhcpv4.DHCPv4) (configuration, error) {
	ip, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok {
		return configuration{}, fmt.Errorf("DHCP answer without an address")
	}
	bits := 32
	if mask := ack.SubnetMask(); mask != nil {
		bits, _ = mask.Size()
	}
	c := configuration{address: netip.PrefixFrom(ip, bits), mtu: defaultMTU}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil {
		c.mtu = int(mtu)
	}
	for _, r := range ack.ClasslessStaticRoute() {
		to, ok := netip.AddrFromSlice(r.Dest.IP.To4())
		if !ok {
			return configuration{}, fmt.Errorf("DHCP answer with a bad route %v", r)
		}
		ones, _ := r.Dest.Mask.Size()
		hop := route{to: netip.PrefixFrom(to, ones)}
		if gateway, ok := netip.AddrFromSlice(r.Router.To4()); ok && !gateway.IsUnspecified() {
			hop.gateway = gateway
		}
		c.routes = append(c.routes, hop)
	}
	if len(c.routes) == 0 && len(ack.Router()) > 0 {
		if gateway, ok := netip.AddrFromSlice(ack.Router()[0].To4()); ok {
			c.routes = []route{{to: netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway: gateway}}
		}
	}
	return c, nil
}

// apply sets address, MTU and routes. Gateways are taken to be on the link whatever the mask says: the lab's is outside it.
func apply(link netlink.Link, c configuration) error {
	name := link.Attrs().Name
	if err := netlink.LinkSetMTU(link, c.mtu); err != nil {
		return fmt.Errorf("set MTU %d on %s: %w", c.mtu, name, err)
	}
	address := &netlink.Addr{IPNet: ipNet(c.address)}
	if err := netlink.AddrReplace(link, address); err != nil {
		return fmt.Errorf("set address %s on %s: %w", c.address, name, err)
	}
	for _, r := range c.routes {
		nr := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.to.Masked())}
		if r.gateway.IsValid() {
			nr.Gw = r.gateway.AsSlice()
			nr.SetFlag(netlink.FLAG_ONLINK)
		} else {
			nr.Scope = unix.RT_SCOPE_LINK
		}
		if err := netlink.RouteReplace(nr); err != nil {
			return fmt.Errorf("set route to %s by way of %s on %s: %w", r.to, r.gateway, name, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
