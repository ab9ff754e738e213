package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
)

// leaseTime is long because an address belongs to a service and not to a lease.
const leaseTime = 30 * 24 * time.Hour

// dhcpServer answers one guest on its tap.
type dhcpServer struct {
	conn       *net.UDPConn
	log        *slog.Logger
	serving    sync.WaitGroup
	mu         sync.Mutex
	attachment Attachment
}

// serveDHCPLocked starts the attachment's server, or tells a running one what to answer from now on.
func (h *Host) serveDHCPLocked(a Attachment) error {
	if d := h.dhcp[a.Service]; d != nil {
		d.mu.Lock()
		d.attachment = a
		d.mu.Unlock()
		return nil
	}
	conn, err := server4.NewIPv4UDPConn(a.Tap, &net.UDPAddr{Port: dhcpv4.ServerPort})
	if err != nil {
		return fmt.Errorf("network: DHCP on %s: %w", a.Tap, err)
	}
	d := &dhcpServer{conn: conn, log: h.log.With("service", a.Service, "tap", a.Tap), attachment: a}
	d.serving.Go(d.serve)
	h.dhcp[a.Service] = d
	return nil
}

func (d *dhcpServer) serve() {
	buffer := make([]byte, 1500)
	for {
		n, _, err := d.conn.ReadFromUDP(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			d.log.Error("DHCP ends", "error", err)
			return
		}
		request, err := dhcpv4.FromBytes(buffer[:n])
		if err != nil {
			continue // a guest's nonsense is the guest's business
		}
		d.mu.Lock()
		reply, err := answer(d.attachment, request)
		d.mu.Unlock()
		if err == nil && reply != nil {
			_, err = d.conn.WriteToUDP(reply.ToBytes(), answerTo(request))
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			d.log.Warn("DHCP request not answered", "error", err) // the guest asks again
		}
	}
}

func (d *dhcpServer) close() error {
	err := d.conn.Close()
	d.serving.Wait()
	if err != nil {
		return fmt.Errorf("network: close DHCP: %w", err)
	}
	return nil
}

// answerTo is where a reply goes: to the client's address if it has one, else to everybody on the tap, who is one.
func answerTo(request *dhcpv4.DHCPv4) *net.UDPAddr {
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}
	if ip := request.ClientIPAddr.To4(); ip != nil && !ip.IsUnspecified() {
		to.IP = ip
	}
	return to
}

// answer is the reply to a request; nil: none is due.
func answer(a Attachment, request *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	if request.OpCode != dhcpv4.OpcodeBootRequest || len(a.Addresses) == 0 {
		return nil, nil
	}
	if a.MAC != "" && !strings.EqualFold(request.ClientHWAddr.String(), a.MAC) {
		return nil, nil
	}
	if id := request.ServerIdentifier(); id != nil && !id.Equal(Gateway.AsSlice()) {
		return nil, nil // it speaks to another server
	}
	switch request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return lease(a, request, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		if !asksFor(request, a.Addresses[0]) {
			return dhcpv4.NewReplyFromRequest(request,
				dhcpv4.WithMessageType(dhcpv4.MessageTypeNak), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(Gateway.AsSlice())))
		}
		return lease(a, request, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeInform:
		return lease(a, request, dhcpv4.MessageTypeAck)
	default:
		return nil, nil
	}
}

// asksFor says whether a request names the address, in its option or as the client's own, or names none.
func asksFor(request *dhcpv4.DHCPv4, a netip.Addr) bool {
	ip := request.RequestedIPAddress()
	if ip == nil || ip.IsUnspecified() {
		ip = request.ClientIPAddr
	}
	return ip == nil || ip.IsUnspecified() || ip.Equal(a.Unmap().AsSlice())
}

func lease(a Attachment, request *dhcpv4.DHCPv4, kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	gateway := net.IP(Gateway.AsSlice())
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	with := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gateway)),
		dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(32, 32))),
		dhcpv4.WithOption(dhcpv4.OptRouter(gateway)),
		// Two routes, since a /32 does not cover its gateway (RFC 3442; clients that take these ignore the router).
		dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
			&dhcpv4.Route{Dest: hostRoute(Gateway), Router: net.IPv4zero},
			&dhcpv4.Route{Dest: all, Router: gateway},
		)),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(a.MTU)))),
	}
	if request.MessageType() != dhcpv4.MessageTypeInform {
		with = append(with, dhcpv4.WithYourIP(a.Addresses[0].Unmap().AsSlice()),
			dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(leaseTime)))
	}
	if a.Hostname != "" {
		with = append(with, dhcpv4.WithOption(dhcpv4.OptHostName(a.Hostname)))
	}
	var servers []net.IP
	for _, s := range a.DNS {
		if s.Unmap().Is4() {
			servers = append(servers, s.Unmap().AsSlice())
		}
	}
	if len(servers) > 0 {
		with = append(with, dhcpv4.WithOption(dhcpv4.OptDNS(servers...)))
	}
	return dhcpv4.NewReplyFromRequest(request, with...)
}
