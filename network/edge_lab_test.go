//go:build lab

package network

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	labService = "shop"
	labAddress = "203.0.113.10"
	labMAC     = "02:00:00:00:00:0a"
)

// site is an edge and a host, with what the other site needs to know of them.
type site struct {
	name       string
	edge, host *helper
	edgeConfig helperConfig
	edgeIP     string
	hostIP     string
}

func (l *lab) site(name, edgeIP, coreIP, hostIP string) *site {
	s := &site{name: name, edgeIP: edgeIP, hostIP: hostIP, edgeConfig: helperConfig{
		Dir: filepath.Join(l.t.TempDir(), name), Own: ip(edgeIP), Neighbor: ip(coreIP),
	}}
	s.edge = l.helper(name+"-edge", s.edgeConfig)
	s.host = l.helper(name+"-host", helperConfig{Dir: filepath.Join(l.t.TempDir(), name+"-host")})
	return s
}

func (l *lab) sites() (west, east *site) {
	west = l.site("west", westEdgeIP, coreWestIP, westHostIP)
	east = l.site("east", eastEdgeIP, coreEastIP, eastHostIP)
	for _, s := range []*site{west, east} {
		s.established(l)
	}
	return west, east
}

// established waits until the session is up and, after a restart, the core has all routes again: a second death before
// that is not forgiven (RFC 4724).
func (s *site) established(l *lab) {
	l.t.Helper()
	until(l.t, s.name+"'s BGP session", func() bool {
		sessions := s.edge.must(request{Op: "status"}).Sessions
		return len(sessions) == 1 && sessions[0].Established
	})
	until(l.t, "the core to have "+s.name+"'s routes", func() bool {
		return !strings.Contains(l.birdc("show", "protocols", "all", s.name), "graceful restart active")
	})
}

func (s *site) status() EdgeStatus {
	for _, st := range s.edge.must(request{Op: "status"}).Status {
		if st.Service == labService {
			return st
		}
	}
	return EdgeStatus{}
}

func (s *site) placement(epoch uint64) Placement {
	return Placement{Service: labService, Addresses: []netip.Addr{ip(labAddress)}, Host: ip(s.hostIP), Epoch: epoch}
}

func (s *site) tunnel(epoch uint64, role string, peer *site) Tunnel {
	t := Tunnel{Service: labService, Epoch: epoch, Addresses: []netip.Addr{ip(labAddress)}, Peer: ip(peer.edgeIP), Role: role}
	if role == RoleDestination {
		t.Host = ip(s.hostIP)
	}
	return t
}

func (s *site) attachGuest(open bool) {
	s.host.must(request{Op: "attach", Open: open, Attachment: Attachment{
		Service: labService, MAC: labMAC, Addresses: []netip.Addr{ip(labAddress)}, Hostname: labService,
	}})
	s.host.must(request{Op: "boot", Service: labService})
}

// settled waits until the guest has had what was on its way to it.
func (s *site) settled(t *testing.T) {
	t.Helper()
	last, since := s.host.must(request{Op: "frames", Service: labService}).Frames, time.Now()
	until(t, "the last packets to reach the guest", func() bool {
		if n := s.host.must(request{Op: "frames", Service: labService}).Frames; n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 30*time.Millisecond
	})
}

func op(name string, epoch uint64) request {
	return request{Op: name, Service: labService, Epoch: epoch}
}

// figures of one move, for the log.
type figures struct{ prepare, hold, letGo, activate, converge, release time.Duration }

func (l *lab) quiesce(from, to *site, epoch uint64, f *figures) {
	l.t.Helper()
	to.attachGuest(false)
	f.prepare = from.edge.must(request{Op: "prepare", Tunnel: from.tunnel(epoch, RoleSource, to)}).Took
	to.edge.must(request{Op: "prepare", Tunnel: to.tunnel(epoch, RoleDestination, from)})
	f.hold = from.edge.must(op("hold", epoch)).Took
	from.settled(l.t)
	from.host.must(request{Op: "gate", Service: labService, Open: false})
}

func (l *lab) commit(from, to *site, epoch uint64, f *figures) {
	l.t.Helper()
	f.activate = to.edge.must(request{Op: "activate", Placement: to.placement(epoch)}).Took
	to.host.must(request{Op: "gate", Service: labService, Open: true})
	f.letGo = from.edge.must(op("letgo", epoch)).Took
}

func (l *lab) finish(from, to *site, epoch uint64, f *figures) {
	l.t.Helper()
	start := time.Now()
	to.edge.must(op("announce", epoch))
	until(l.t, "the core to prefer "+to.name, func() bool { return l.coreHop(labAddress) == to.edgeIP })
	f.converge = time.Since(start)
	wait := op("waitidle", epoch)
	wait.Quiet = 200 * time.Millisecond
	from.edge.must(wait)
	from.edge.must(op("withdraw", epoch))
	f.release = from.edge.must(op("release", epoch)).Took
	to.edge.must(op("release", epoch))
	from.host.must(request{Op: "halt", Service: labService})
	from.host.must(request{Op: "detach", Service: labService})
}

func (l *lab) begin(west *site) {
	west.attachGuest(true)
	west.edge.must(request{Op: "attach", Placement: west.placement(1)})
	until(l.t, "the core to learn the service", func() bool { return l.coreHop(labAddress) == west.edgeIP })
}

func noLoss(t *testing.T, r result) {
	t.Helper()
	t.Logf("%+v", r)
	if r.lost != 0 || r.twice != 0 {
		t.Errorf("%d of %d packets lost, %d came twice", r.lost, r.sent, r.twice)
	}
	if r.late > r.sent/100 {
		t.Errorf("%d of %d packets out of order", r.late, r.sent)
	}
}

func TestTenMovesThereAndBackLoseNoPacketAndLeaveNothing(t *testing.T) {
	l := newLab(t)
	west, east := l.sites()
	before := map[string]string{"east-edge": l.traces("east-edge"), "east-host": l.traces("east-host")}
	l.begin(west)
	before["west-edge"], before["west-host"] = l.traces("west-edge"), l.traces("west-host")
	from, to := west, east
	for move := range 10 {
		epoch := uint64(move + 2)
		s := l.stream("client", labAddress)
		var f figures
		l.quiesce(from, to, epoch, &f)
		until(t, "traffic to be held", func() bool { return from.status().Held >= 20 })
		l.commit(from, to, epoch, &f)
		l.finish(from, to, epoch, &f)
		t.Logf("move %d to %s: %+v", move+1, to.name, f)
		noLoss(t, s.end(t))
		from, to = to, from
	}
	for node, was := range before {
		if now := l.traces(node); now != was {
			t.Errorf("%s differs from before:\n--- before\n%s\n--- now\n%s", node, was, now)
		}
	}
}

func TestAbortPutsEverythingBackWithoutLoss(t *testing.T) {
	l := newLab(t)
	west, east := l.sites()
	l.begin(west)
	nodes := []string{"east-edge", "west-edge", "west-host"}
	before := map[string]string{}
	for _, n := range nodes {
		before[n] = l.traces(n)
	}
	s := l.stream("client", labAddress)
	var f figures
	l.quiesce(west, east, 2, &f)
	until(t, "traffic to be held", func() bool { return west.status().Held >= 20 })
	east.edge.must(op("drop", 2))
	west.host.must(request{Op: "gate", Service: labService, Open: true})
	took := west.edge.must(op("restore", 2)).Took
	t.Logf("restore took %v", took)
	until(t, "the guest to be reached again", func() bool { return west.status().Held == 0 })
	west.settledAfterTraffic(t)
	noLoss(t, s.end(t))
	for _, again := range []string{"restore", "drop"} {
		west.edge.must(op(again, 2))
		east.edge.must(op(again, 2))
	}
	for _, late := range []request{{Op: "prepare", Tunnel: west.tunnel(2, RoleSource, east)}, op("hold", 2), op("letgo", 1)} {
		if r := west.edge.call(late); r.Error == "" {
			t.Errorf("%s of an aborted epoch was obeyed", late.Op)
		}
	}
	for _, n := range nodes {
		if now := l.traces(n); now != before[n] {
			t.Errorf("%s differs from before:\n--- before\n%s\n--- now\n%s", n, before[n], now)
		}
	}
}

// settledAfterTraffic waits for a hundred more packets to have come through.
func (s *site) settledAfterTraffic(t *testing.T) {
	t.Helper()
	start := s.host.must(request{Op: "frames", Service: labService}).Frames
	until(t, "packets to reach the guest", func() bool {
		return s.host.must(request{Op: "frames", Service: labService}).Frames > start+100
	})
}

func TestKilledEdgesTakeUpEveryState(t *testing.T) {
	l := newLab(t)
	west, east := l.sites()
	l.begin(west)
	before := l.traces("west-edge")
	restart := func(s *site, what string) {
		t.Helper()
		was, kernel := s.status(), l.traces(s.name+"-edge")
		s.edge.kill()
		if hop := l.coreHop(labAddress); hop == "" {
			t.Errorf("%s: the core lost its route when the edge was killed", what)
		}
		s.edge = l.helper(s.name+"-edge", s.edgeConfig)
		s.established(l)
		now := s.status()
		if now.Phase != was.Phase || now.RouteVia != was.RouteVia || now.LocalPref != was.LocalPref || now.Problem != "" {
			t.Errorf("%s: was %+v, is %+v", what, was, now)
		}
		if after := l.traces(s.name + "-edge"); after != kernel {
			t.Errorf("%s: kernel state was\n%s\nis\n%s", what, kernel, after)
		}
		if hop := l.coreHop(labAddress); hop == "" {
			t.Errorf("%s: the core lost its route after the restart", what)
		}
	}
	restart(west, "attached")

	east.attachGuest(false)
	west.edge.must(request{Op: "prepare", Tunnel: west.tunnel(2, RoleSource, east)})
	east.edge.must(request{Op: "prepare", Tunnel: east.tunnel(2, RoleDestination, west)})
	restart(west, "prepared at the source")
	restart(east, "prepared at the destination")

	west.edge.must(op("hold", 2))
	restart(west, "held")
	s := l.stream("client", labAddress)
	until(t, "traffic to be held after the restart", func() bool { return west.status().Held >= 20 })
	west.host.must(request{Op: "gate", Service: labService, Open: false})
	var f figures
	l.commit(west, east, 2, &f)
	noLoss(t, s.end(t))
	restart(west, "let go")
	restart(east, "activated")
	east.settledBy(t, l)
	east.edge.must(op("announce", 2))
	until(t, "the core to prefer east", func() bool { return l.coreHop(labAddress) == eastEdgeIP })
	wait := op("waitidle", 2)
	wait.Quiet = 200 * time.Millisecond
	west.edge.must(wait)
	restart(west, "idle")
	west.edge.must(op("withdraw", 2))
	restart(west, "withdrawn")
	l.finish(west, east, 2, &f)
	restart(east, "announced and released")
	if r := west.edge.call(op("hold", 2)); r.Error == "" {
		t.Error("a hold after release was obeyed")
	}
	if now := l.traces("west-edge"); strings.Contains(now, holdDevice(2)) || strings.Contains(now, tunnelDevice(2)) || now == before {
		t.Errorf("left behind at the source:\n%s", now)
	}
	until(t, "the core to keep east after all", func() bool { return l.coreHop(labAddress) == eastEdgeIP })
}

// settledBy sends a stream until packets arrive.
func (s *site) settledBy(t *testing.T, l *lab) {
	t.Helper()
	st := l.stream("client", labAddress)
	s.settledAfterTraffic(t)
	noLoss(t, st.end(t))
}

func TestKilledEdgeStillForwards(t *testing.T) {
	l := newLab(t)
	west, _ := l.sites()
	l.begin(west)
	s := l.stream("client", labAddress)
	west.settledAfterTraffic(t)
	west.edge.kill()
	west.settledAfterTraffic(t)
	west.edge = l.helper("west-edge", west.edgeConfig)
	west.established(l)
	west.settledAfterTraffic(t)
	noLoss(t, s.end(t))
	if out := l.birdc("show", "route", "for", labAddress, "all"); !strings.Contains(out, "local_pref: 101") {
		t.Errorf("the core forgot the route:\n%s", out)
	}
}

func TestANewerEpochSupersedesAHoldAndAnOlderOneIsRefused(t *testing.T) {
	l := newLab(t)
	west, east := l.sites()
	l.begin(west)
	before := l.traces("west-edge")
	west.edge.must(request{Op: "prepare", Tunnel: west.tunnel(2, RoleSource, east)})
	west.edge.must(op("hold", 2))
	s := l.stream("client", labAddress)
	until(t, "traffic to be held", func() bool { return west.status().Held >= 20 })
	west.edge.must(request{Op: "prepare", Tunnel: west.tunnel(5, RoleSource, east)})
	west.settledAfterTraffic(t)
	noLoss(t, s.end(t))
	for _, old := range []request{
		op("hold", 2), op("letgo", 2), op("withdraw", 2), op("detach", 4), op("announce", 2),
		{Op: "prepare", Tunnel: west.tunnel(4, RoleSource, east)},
		{Op: "attach", Placement: west.placement(4)},
		{Op: "activate", Placement: west.placement(4)},
	} {
		if r := west.edge.call(old); !strings.Contains(r.Error, ErrStaleEpoch.Error()) {
			t.Errorf("%s: %q", old.Op, r.Error)
		}
	}
	west.edge.must(request{Op: "attach", Placement: west.placement(1)}) // what is there may be said again
	if r := west.edge.call(op("release", 5)); r.Error == "" {
		t.Error("released without letting go")
	}
	west.edge.must(op("restore", 5))
	if now := l.traces("west-edge"); now != before {
		t.Errorf("was\n%s\nis\n%s", before, now)
	}
	west.edge.must(op("detach", 6))
	until(t, "the core to forget the service", func() bool { return l.coreHop(labAddress) == "" })
	if st := west.status(); st.Service != "" {
		t.Errorf("still there: %+v", st)
	}
}

func TestTrafficFromWithinTheSiteGoesOnAndLetsTheTunnelRest(t *testing.T) {
	l := newLab(t)
	west, east := l.sites()
	l.begin(west)
	outside, inside := l.stream("client", labAddress), l.stream("west-peer", labAddress)
	var f figures
	l.quiesce(west, east, 2, &f)
	until(t, "traffic to be held", func() bool { return west.status().Held >= 20 })
	l.commit(west, east, 2, &f)
	east.settledAfterTraffic(t)
	l.finish(west, east, 2, &f)
	east.settledAfterTraffic(t)
	noLoss(t, outside.end(t))
	noLoss(t, inside.end(t))
}

func TestThousandsOfHeldPacketsArriveInOrder(t *testing.T) {
	l := newLab(t)
	west, east := l.sites()
	l.begin(west)
	s := l.stream("client", labAddress)
	var f figures
	l.quiesce(west, east, 2, &f)
	until(t, "traffic to be held", func() bool { return west.status().Held >= 3000 })
	l.commit(west, east, 2, &f)
	t.Logf("letting 3000 packets go took %v", f.letGo)
	east.settledAfterTraffic(t)
	noLoss(t, s.end(t))
}

func TestADivertedTapLeavesTheServiceReachableFromItsHost(t *testing.T) {
	l := newLab(t)
	west, east := l.sites()
	l.begin(west)
	l.ip("east-host", "addr", "add", "10.2.9.9/32", "dev", "lo")
	east.host.must(request{Op: "attach", Attachment: Attachment{
		Service: labService, MAC: labMAC, Addresses: []netip.Addr{ip(labAddress)},
	}})
	if way := l.ip("east-host", "route", "get", labAddress); !strings.Contains(way, "dev "+TapName(labService)) {
		t.Errorf("attached, but the address is not led to the tap: %s", way)
	}
	east.host.must(request{Op: "divert", Service: labService, Open: true})
	l.ip("core", "route", "add", "10.2.0.0/16", "via", eastEdgeIP)
	s := l.stream("east-host", labAddress)
	west.settledAfterTraffic(t) // the neighbour at the destination reaches the service where it still is
	noLoss(t, s.end(t))
}
