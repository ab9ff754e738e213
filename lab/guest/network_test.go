//go:build linux

package main

import (
	"net"
	"net/netip"
	"reflect"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func lease(t *testing.T, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	t.Helper()
	ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(203, 0, 113, 10)))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range options {
		ack.UpdateOption(o)
	}
	return ack
}

func TestLeaseBecomesAConfiguration(t *testing.T) {
	everything := netip.MustParsePrefix("0.0.0.0/0")
	gateway := netip.MustParseAddr("169.254.1.1")
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	_, onLink, _ := net.ParseCIDR("169.254.1.1/32")
	host := netip.MustParsePrefix("203.0.113.10/32")
	for name, c := range map[string]struct {
		ack  *dhcpv4.DHCPv4
		want configuration
	}{
		"address alone": {lease(t), configuration{address: host, mtu: 1450}},
		"router outside the address's net": {
			lease(t, dhcpv4.OptSubnetMask(net.CIDRMask(32, 32)), dhcpv4.OptRouter(net.IPv4(169, 254, 1, 1))),
			configuration{address: host, mtu: 1450, routes: []route{{everything, gateway}}},
		},
		"classless routes replace the router": {
			lease(
				t, dhcpv4.OptRouter(net.IPv4(10, 0, 0, 1)), dhcpv4.OptClasslessStaticRoute(
					&dhcpv4.Route{Dest: onLink, Router: net.IPv4zero}, &dhcpv4.Route{Dest: all, Router: net.IPv4(169, 254, 1, 1)},
				),
			),
			configuration{address: host, mtu: 1450, routes: []route{{to: netip.MustParsePrefix("169.254.1.1/32")}, {everything, gateway}}},
		},
		"MTU and mask": {
			lease(t, dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)), dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x05, 0x78})),
			configuration{address: netip.MustParsePrefix("203.0.113.10/24"), mtu: 1400},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := fromLease(c.ack)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}
