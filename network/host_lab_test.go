//go:build lab

package network

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

func TestShutGateStopsBothWaysKeepsTheRouteAndOutlivesTheAgent(t *testing.T) {
	l := newLab(t)
	west, _ := l.sites()
	l.begin(west)
	s := l.stream("client", labAddress)
	west.settledAfterTraffic(t)
	west.host.must(request{Op: "gate", Service: labService, Open: false})
	before := west.host.must(request{Op: "frames", Service: labService}).Frames
	west.host.must(request{Op: "gate", Service: labService, Open: false})
	s.end(t)
	if n := west.host.must(request{Op: "frames", Service: labService}).Frames; n > before+1 {
		t.Errorf("%d packets reached the guest through a shut gate", n-before)
	}
	if r := west.host.call(request{Op: "dhcp", Service: labService}); r.Error == "" {
		t.Error("the guest got an answer out of a shut gate")
	}
	kept := l.traces("west-host")
	if !strings.Contains(kept, labAddress+" dev "+TapName(labService)) {
		t.Errorf("the route went with the gate:\n%s", kept)
	}
	west.host.kill()
	if now := l.traces("west-host"); now != kept {
		t.Errorf("the kernel's state was\n%s\nafter the agent died it is\n%s", kept, now)
	}
}

func TestKilledHostTakesUpItsTapsAndRemovesLeftovers(t *testing.T) {
	l := newLab(t)
	config := helperConfig{Dir: filepath.Join(t.TempDir(), "host")}
	h := l.helper("west-host", config)
	empty := l.traces("west-host")
	attach := request{Op: "attach", Open: true, Attachment: Attachment{
		Service: labService, MAC: labMAC, Addresses: []netip.Addr{ip(labAddress)}, Hostname: "shop-1",
	}}
	h.must(attach)
	full := l.traces("west-host")
	h.must(attach)
	if now := l.traces("west-host"); now != full {
		t.Errorf("attached twice: was\n%s\nis\n%s", full, now)
	}
	h.kill()
	l.ip("west-host", "link", "add", "leftover", "type", "veth", "peer", "name", "leftover2")
	l.ip("west-host", "link", "set", "leftover", "alias", "godwit host gone")
	h = l.helper("west-host", config)
	if now := l.traces("west-host"); now != full {
		t.Errorf("after a restart: was\n%s\nis\n%s", full, now)
	}
	h.must(request{Op: "boot", Service: labService})
	var leased string
	until(t, "a lease", func() bool { // a tap that was opened just now passes nothing for up to a second
		leased = h.call(request{Op: "dhcp", Service: labService}).Leased
		return leased != ""
	})
	if leased != labAddress {
		t.Errorf("DHCP gave %q", leased)
	}
	if got := h.must(request{Op: "attachments"}).Attached; len(got) != 1 || got[0].Tap != TapName(labService) || got[0].MTU != DefaultMTU {
		t.Errorf("attachments: %+v", got)
	}
	h.must(request{Op: "detach", Service: labService})
	h.must(request{Op: "detach", Service: labService})
	if now := l.traces("west-host"); now != empty {
		t.Errorf("left behind: was\n%s\nis\n%s", empty, now)
	}
	h.stop()
}
