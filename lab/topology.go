package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Roles of nodes.
const (
	roleClient     = "client"
	roleCore       = "core"
	roleController = "controller"
	roleEdge       = "edge"
	roleHost       = "host"
)

// asn is the provider's AS number; the sessions between core and edges are internal ones.
const asn = 64512

// guests is the prefix of the addresses that move. Documentation prefixes all around (RFC 5737).
const guests = "203.0.113.0/24"

// node is a machine of the lab: one namespace.
type node struct {
	name, site, role string
	address          string // by which the others know it
	gateway          string // next hop of its default route; none for the core
}

// cable joins the interfaces of two nodes. A cable with a site is that site's emulated uplink.
type cable struct {
	a, b port
	site string
}

type port struct {
	node, device string
	address      netip.Prefix
}

// sites in the order in which they are listed.
var sites = [...]string{"west", "east"}

// nodes of every lab.
var nodes = [...]node{
	{name: "client", role: roleClient, address: "192.0.2.10", gateway: "192.0.2.9"},
	{name: "core", role: roleCore, address: "192.0.2.9"},
	{name: "witness", role: roleController, address: "192.0.2.14", gateway: "192.0.2.13"},
	{name: "west-edge", site: "west", role: roleEdge, address: "198.51.100.1", gateway: "192.0.2.1"},
	{name: "west-host", site: "west", role: roleHost, address: "198.51.100.2", gateway: "198.51.100.1"},
	{name: "east-edge", site: "east", role: roleEdge, address: "198.51.100.17", gateway: "192.0.2.5"},
	{name: "east-host", site: "east", role: roleHost, address: "198.51.100.18", gateway: "198.51.100.17"},
}

// cables of every lab. An edge's uplink address is the one of its port on the cable with its site's name.
var cables = [...]cable{
	{a: at("core", "client", "192.0.2.9/30"), b: at("client", "uplink", "192.0.2.10/30")},
	{a: at("core", "witness", "192.0.2.13/30"), b: at("witness", "uplink", "192.0.2.14/30")},
	{a: at("core", "west", "192.0.2.1/30"), b: at("west-edge", "uplink", "192.0.2.2/30"), site: "west"},
	{a: at("core", "east", "192.0.2.5/30"), b: at("east-edge", "uplink", "192.0.2.6/30"), site: "east"},
	{a: at("west-edge", "lan", "198.51.100.1/28"), b: at("west-host", "lan", "198.51.100.2/28")},
	{a: at("east-edge", "lan", "198.51.100.17/28"), b: at("east-host", "lan", "198.51.100.18/28")},
}

func at(node, device, address string) port {
	return port{node: node, device: device, address: netip.MustParsePrefix(address)}
}

// Nodes returns the names of a lab's nodes.
func Nodes() []string {
	names := make([]string, 0, len(nodes))
	for _, n := range nodes {
		names = append(names, n.name)
	}
	return names
}

// Sites returns the names of a lab's sites.
func Sites() []string { return slices.Clone(sites[:]) }

func findNode(name string) (node, error) {
	for _, n := range nodes {
		if n.name == name {
			return n, nil
		}
	}
	return node{}, fmt.Errorf("node %q: %w", name, ErrUnknownNode)
}

// uplink returns the cable between the core and the site.
func uplink(site string) (cable, error) {
	for _, c := range cables {
		if c.site == site && site != "" {
			return c, nil
		}
	}
	return cable{}, fmt.Errorf("site %q: no such site; the sites are %s", site, strings.Join(sites[:], ", "))
}

// addressesOf returns the addresses of a node's interfaces with their prefix lengths.
func addressesOf(name string) []string {
	var out []string
	for _, c := range cables {
		for _, p := range [...]port{c.a, c.b} {
			if p.node == name {
				out = append(out, p.address.String())
			}
		}
	}
	return out
}

// namespaceOf returns the name of a node's network namespace.
func namespaceOf(lab, node string) string { return namespacePrefix(lab) + node }

func namespacePrefix(lab string) string { return "godwit-" + lab + "-" }

// namespacesOf returns the names of all namespaces that a lab may have.
func namespacesOf(lab string) []string {
	names := make([]string, 0, len(nodes))
	for _, n := range nodes {
		names = append(names, namespaceOf(lab, n.name))
	}
	return names
}
