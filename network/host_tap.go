package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tapFlags are what QEMU opens a tap with when it uses offloads.
const tapFlags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// tapQueue is how many packets wait in the kernel for a guest that is busy: as many as a hold may let go to it while
// it is starting again.
const tapQueue = 4096

// buildLocked makes the kernel have an attachment, whatever part of it is there. The gate comes before the device is
// up: with it shut, not one packet passes.
func (h *Host) buildLocked(rec hostRecord) error {
	link, err := h.ensureTap(rec.Tap)
	if err != nil {
		return err
	}
	if err := h.gateLocked(link, rec.Gate); err != nil {
		return err
	}
	if err := h.kernel.netlink.LinkSetTxQLen(link, tapQueue); err != nil {
		return fmt.Errorf("network: lengthen the queue of %s: %w", rec.Tap, err)
	}
	if err := h.addressGateway(link); err != nil {
		return err
	}
	if err := h.kernel.raise(link, "host "+rec.Service, rec.MTU); err != nil {
		return err
	}
	for _, a := range rec.Addresses {
		if err := h.leadTo(link, a, rec); err != nil {
			return err
		}
	}
	return h.serveDHCPLocked(rec.Attachment)
}

// ensureTap creates the device if it is missing. One that is there is not opened, as a guest may have it.
func (h *Host) ensureTap(name string) (netlink.Link, error) {
	link, err := h.kernel.link(name)
	if err != nil || link != nil {
		return link, err
	}
	if err := createTun(name, tapFlags); err != nil {
		return nil, err
	}
	if link, err = h.kernel.netlink.LinkByName(name); err != nil {
		return nil, fmt.Errorf("network: look up tap %s: %w", name, err)
	}
	return link, nil
}

// gateLocked sets the gate of a tap, and installs it first where this process has not yet.
func (h *Host) gateLocked(link netlink.Link, to Gate) error {
	tap := link.Attrs().Name
	if g := h.gates[tap]; g != nil && g.device == link.Attrs().Index {
		return g.set(to)
	}
	g, err := installGate(h.kernel.netlink, link, to)
	if err != nil {
		return err
	}
	err = h.forgetGateLocked(tap)
	h.gates[tap] = g
	return err
}

func (h *Host) forgetGateLocked(tap string) error {
	g := h.gates[tap]
	if g == nil {
		return nil
	}
	delete(h.gates, tap)
	return g.close()
}

// addressGateway gives the tap the gateway's address and MAC. The address has link scope, so that it never becomes
// the source of what the host sends elsewhere.
func (h *Host) addressGateway(link netlink.Link) error {
	name := link.Attrs().Name
	if !bytes.Equal(link.Attrs().HardwareAddr, GatewayMAC) {
		if err := h.kernel.netlink.LinkSetHardwareAddr(link, GatewayMAC); err != nil {
			return fmt.Errorf("network: set the gateway's MAC on %s: %w", name, err)
		}
	}
	address := &netlink.Addr{IPNet: hostRoute(Gateway), Scope: int(netlink.SCOPE_LINK)}
	if err := h.kernel.netlink.AddrReplace(link, address); err != nil {
		return fmt.Errorf("network: set the gateway's address on %s: %w", name, err)
	}
	return nil
}

// leadTo routes one of the guest's addresses to the tap unless it is away, with the guest's MAC if it is known.
func (h *Host) leadTo(link netlink.Link, a netip.Addr, rec hostRecord) error {
	var err error
	if rec.Away {
		err = h.kernel.removeRoute(a, 0)
	} else {
		err = h.kernel.ensureRoute(a, via{device: rec.Tap}, 0)
	}
	if err != nil || rec.MAC == "" {
		return err
	}
	mac, err := net.ParseMAC(rec.MAC)
	if err != nil {
		return fmt.Errorf("network: MAC of %s: %w", a, err)
	}
	return h.kernel.permanentNeighbor(link, a, mac)
}

// dismantleLocked removes an attachment from the kernel; routes, neighbours and the gate go with the device.
func (h *Host) dismantleLocked(a Attachment) error {
	var errs []error
	if d := h.dhcp[a.Service]; d != nil {
		errs = append(errs, d.close())
		delete(h.dhcp, a.Service)
	}
	errs = append(errs, h.kernel.removeLink(a.Tap), h.forgetGateLocked(a.Tap))
	return errors.Join(errs...)
}

// sweepLocked removes what an earlier process made and no record wants.
func (h *Host) sweepLocked() error {
	taps := map[string]bool{}
	for _, rec := range h.attached {
		taps[rec.Tap] = true
	}
	links, err := h.kernel.markedLinks("host")
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if !taps[l.Attrs().Name] {
			errs = append(errs, h.kernel.removeLink(l.Attrs().Name))
		}
	}
	return errors.Join(errs...)
}
