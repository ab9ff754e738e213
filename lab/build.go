package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/godwit-project/godwit/lab/link"
	"github.com/godwit-project/godwit/lab/namespace"
)

// provider is the network of a lab while its supervisor lives: what must be held open, and the emulated links.
type provider struct {
	lab     string
	mtu     int
	taps    []*link.TAP
	uplinks map[string]*link.Link // by site

	mu struct {
		sync.Mutex
		cut map[string]bool // sites whose uplink was cut on request
		off map[string]bool // sites whose edge has no power
	}
}

// sysctls make a namespace route the way a router of a provider does: asymmetric paths are normal while traffic turns
// from one site to another, and a packet that leaves where it came in is no reason to teach anybody a shorter way.
var sysctls = [...][2]string{
	{"net/ipv4/ip_forward", "1"},
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv4/conf/all/send_redirects", "0"},
	{"net/ipv4/conf/default/send_redirects", "0"},
	{"net/ipv4/conf/all/accept_redirects", "0"},
}

// buildNetwork makes the namespaces and all that lies between them. After an error close removes what was made, but
// for the namespaces themselves, which Down knows by name.
func buildNetwork(cfg Config) (*provider, error) {
	p := &provider{lab: cfg.Name, mtu: cfg.MTU, uplinks: make(map[string]*link.Link)}
	p.mu.cut, p.mu.off = make(map[string]bool), make(map[string]bool)
	for _, n := range nodes {
		if err := p.addNode(n); err != nil {
			return p, err
		}
	}
	for i, c := range cables {
		if err := p.addCable(c, i, cfg); err != nil {
			return p, err
		}
	}
	for _, n := range nodes {
		if err := p.addDefaultRoute(n); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p *provider) close() error {
	var errs []error
	for _, l := range p.uplinks {
		errs = append(errs, l.Close())
	}
	for _, t := range p.taps {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

func (p *provider) addNode(n node) error {
	name := namespaceOf(p.lab, n.name)
	if err := namespace.Create(name); err != nil {
		return err
	}
	return namespace.Do(name, func() error {
		for _, s := range sysctls {
			if n.role == roleClient && s[0] == "net/ipv4/ip_forward" {
				continue
			}
			if err := os.WriteFile("/proc/sys/"+s[0], []byte(s[1]), 0); err != nil {
				return fmt.Errorf("set up node %s: %w", n.name, err)
			}
		}
		return nil
	})
}

// handle returns netlink inside a node; the caller closes it.
func (p *provider) handle(node string) (*netlink.Handle, netns.NsHandle, error) {
	ns, err := netns.GetFromPath(namespace.Path(namespaceOf(p.lab, node)))
	if err != nil {
		return nil, ns, fmt.Errorf("open node %s: %w", node, err)
	}
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, ns, errors.Join(fmt.Errorf("open netlink in node %s: %w", node, err), ns.Close())
	}
	return h, ns, nil
}

// mac gives each port an address of its own, the same in every lab.
func mac(cable, end int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x67, 0x77, 0x00, byte(cable), byte(end + 1)}
}

func (p *provider) addCable(c cable, index int, cfg Config) error {
	var err error
	if c.site != "" {
		err = p.addUplink(c, cfg)
	} else {
		err = p.addVeth(c)
	}
	for end, side := range [...]port{c.a, c.b} {
		peer := c.b
		if end == 1 {
			peer = c.a
		}
		if err == nil {
			err = p.configure(side, mac(index, end), peer, mac(index, 1-end))
		}
	}
	if err != nil {
		return fmt.Errorf("lay the cable from %s to %s: %w", c.a.node, c.b.node, err)
	}
	return nil
}

// addVeth makes the pair inside the namespaces at once, so that nothing of it ever shows in the machine's own.
func (p *provider) addVeth(c cable) error {
	h, ns, err := p.handle(c.a.node)
	if err != nil {
		return err
	}
	defer ns.Close()
	defer h.Close()
	far, err := netns.GetFromPath(namespace.Path(namespaceOf(p.lab, c.b.node)))
	if err != nil {
		return err
	}
	defer far.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = c.a.device
	return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: c.b.device, PeerNamespace: netlink.NsFd(far)})
}

func (p *provider) addUplink(c cable, cfg Config) error {
	var ends [2]*link.TAP
	for i, side := range [...]port{c.a, c.b} {
		err := namespace.Do(namespaceOf(p.lab, side.node), func() (err error) {
			ends[i], err = link.OpenTAP(side.device)
			return err
		})
		if err != nil {
			return err
		}
		p.taps = append(p.taps, ends[i])
	}
	l, err := link.Start(ends[0].End(), ends[1].End(), link.Settings{
		Rate: max(cfg.Bandwidth, 0), Delay: max(cfg.RTT, 0) / 4, Loss: cfg.Loss,
	}, cfg.Seed+uint64(len(p.uplinks)))
	if err != nil {
		return err
	}
	p.uplinks[c.site] = l
	return nil
}

// superFrame bounds, in bytes, what TCP hands to a device in one piece where a line lets that pass: it takes a quarter of a millisecond of a
// gigabit, in which everybody else waits.
const superFrame = 32 << 10

// configure sets up one end of a cable. The neighbour's entry is permanent: what the lab loses and cuts are packets,
// not the seconds that address resolution takes to try again.
func (p *provider) configure(side port, own net.HardwareAddr, peer port, peerMAC net.HardwareAddr) error {
	h, ns, err := p.handle(side.node)
	if err != nil {
		return err
	}
	defer ns.Close()
	defer h.Close()
	dev, err := h.LinkByName(side.device)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{
		IP: side.address.Addr().AsSlice(), Mask: net.CIDRMask(side.address.Bits(), side.address.Addr().BitLen()),
	}}
	neigh := &netlink.Neigh{
		LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: peer.address.Addr().AsSlice(), HardwareAddr: peerMAC,
	}
	for _, step := range []func() error{
		func() error { return h.LinkSetMTU(dev, p.mtu) },
		func() error { return h.LinkSetGSOMaxSize(dev, superFrame) },
		func() error { return h.LinkSetHardwareAddr(dev, own) },
		func() error { return h.AddrAdd(dev, addr) },
		func() error { return h.LinkSetUp(dev) },
		func() error { return h.NeighSet(neigh) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("set up %s of %s: %w", side.device, side.node, err)
		}
	}
	return nil
}

func (p *provider) addDefaultRoute(n node) error {
	if n.gateway == "" {
		return nil
	}
	h, ns, err := p.handle(n.name)
	if err != nil {
		return err
	}
	defer ns.Close()
	defer h.Close()
	// A veth is up when both its ends are: the kernel may take a moment to say so.
	var last error
	for range 50 {
		if last = h.RouteAdd(&netlink.Route{Gw: net.ParseIP(n.gateway)}); last == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("default route of %s: %w", n.name, last)
}

// setLink changes the uplink of a site.
func (p *provider) setLink(site string, change LinkChange) error {
	l, ok := p.uplinks[site]
	if !ok {
		_, err := uplink(site)
		return cmp.Or(err, fmt.Errorf("set the link of site %s: it is not laid yet", site))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := l.Settings()
	if change.Cut != nil {
		p.mu.cut[site] = *change.Cut
	}
	if change.Rate != nil {
		s.Rate = *change.Rate
	}
	if change.Delay != nil {
		s.Delay = *change.Delay
	}
	if change.Loss != nil {
		s.Loss = *change.Loss
	}
	if s.Rate < 0 || s.Delay < 0 || s.Loss < 0 || s.Loss > 1 {
		return fmt.Errorf("set the link of site %s: rate %d, delay %s, loss %v: none may be negative, nor loss above 1", site, s.Rate, s.Delay, s.Loss)
	}
	s.Cut = p.mu.cut[site] || p.mu.off[site]
	return l.Set(s)
}

// setPower says whether a site's edge has power. The kernel of a node without any goes on forwarding here, because
// all nodes share it; what a dead edge forwards is nothing, so its uplink carries nothing.
func (p *provider) setPower(site string, on bool) error {
	p.mu.Lock()
	p.mu.off[site] = !on
	p.mu.Unlock()
	return p.setLink(site, LinkChange{})
}

// links describes the uplinks.
func (p *provider) links() []LinkStatus {
	var out []LinkStatus
	for _, site := range sites {
		l, ok := p.uplinks[site]
		if !ok {
			continue
		}
		s := l.Settings()
		in, back := l.Counters()
		out = append(out, LinkStatus{
			Site: site, Cut: s.Cut, Rate: s.Rate, Delay: s.Delay, Loss: s.Loss, In: countersOf(in), Out: countersOf(back),
		})
	}
	return out
}

func countersOf(c link.Counters) LinkCounters {
	return LinkCounters{Bytes: c.Bytes, Packets: c.Packets, Dropped: c.Dropped()}
}
