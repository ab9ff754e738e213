package network

import (
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var guestMAC = net.HardwareAddr{2, 0, 0, 0, 0, 10}

func dhcpAttachment() Attachment {
	return Attachment{
		Service: "shop", MAC: guestMAC.String(), Hostname: "shop", MTU: 1450,
		Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("203.0.113.11")},
		DNS:       []netip.Addr{netip.MustParseAddr("192.0.2.53")},
	}
}

func TestAGuestIsOfferedItsAddressGatewayAndMTU(t *testing.T) {
	discover, err := dhcpv4.NewDiscovery(guestMAC)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := answer(dhcpAttachment(), discover)
	if err != nil || offer == nil {
		t.Fatalf("no offer: %v", err)
	}
	if offer, err = dhcpv4.FromBytes(offer.ToBytes()); err != nil {
		t.Fatal(err)
	}
	want := map[dhcpv4.OptionCode][]byte{
		dhcpv4.OptionDHCPMessageType:           {2},
		dhcpv4.OptionServerIdentifier:          {169, 254, 1, 1},
		dhcpv4.OptionSubnetMask:                {255, 255, 255, 255},
		dhcpv4.OptionRouter:                    {169, 254, 1, 1},
		dhcpv4.OptionClasslessStaticRoute:      {32, 169, 254, 1, 1, 0, 0, 0, 0, 0, 169, 254, 1, 1},
		dhcpv4.OptionInterfaceMTU:              {5, 170},
		dhcpv4.OptionHostName:                  []byte("shop"),
		dhcpv4.OptionDomainNameServer:          {192, 0, 2, 53},
		dhcpv4.OptionIPAddressLeaseTime:        {0, 39, 141, 0},
		dhcpv4.OptionClientIdentifier:          nil,
		dhcpv4.OptionVendorSpecificInformation: nil,
	}
	for code, value := range want {
		if got := offer.Options.Get(code); string(got) != string(value) {
			t.Errorf("%s: %v, want %v", code, got, value)
		}
	}
	if !offer.YourIPAddr.Equal(net.IPv4(203, 0, 113, 10)) {
		t.Errorf("offered %s", offer.YourIPAddr)
	}
	if to := answerTo(discover); !to.IP.Equal(net.IPv4bcast) || to.Port != 68 {
		t.Errorf("goes to %s", to)
	}
}

func TestRequestsAreAcknowledgedRefusedOrIgnored(t *testing.T) {
	stranger := net.HardwareAddr{2, 0, 0, 0, 0, 11}
	tests := []struct {
		name string
		mac  net.HardwareAddr
		with []dhcpv4.Modifier
		want dhcpv4.MessageType
	}{
		{"for the own address", guestMAC, []dhcpv4.Modifier{
			dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(203, 0, 113, 10))),
		}, dhcpv4.MessageTypeAck},
		{"to renew", guestMAC, []dhcpv4.Modifier{
			dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
			dhcpv4.WithClientIP(net.IPv4(203, 0, 113, 10)),
		}, dhcpv4.MessageTypeAck},
		{"for another address", guestMAC, []dhcpv4.Modifier{
			dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 0, 0, 1))),
		}, dhcpv4.MessageTypeNak},
		{"of another server", guestMAC, []dhcpv4.Modifier{
			dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 1))),
		}, dhcpv4.MessageTypeNone},
		{"by a stranger", stranger, []dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover)}, dhcpv4.MessageTypeNone},
		{"to know more", guestMAC, []dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeInform)}, dhcpv4.MessageTypeAck},
		{"to give back", guestMAC, []dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeRelease)}, dhcpv4.MessageTypeNone},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			request, err := dhcpv4.New(append(test.with, dhcpv4.WithHwAddr(test.mac))...)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := answer(dhcpAttachment(), request)
			if err != nil {
				t.Fatal(err)
			}
			got := dhcpv4.MessageTypeNone
			if reply != nil {
				got = reply.MessageType()
			}
			if got != test.want {
				t.Errorf("answered %s, want %s", got, test.want)
			}
		})
	}
}

func FuzzAnswer(f *testing.F) {
	discover, err := dhcpv4.NewDiscovery(guestMAC)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(discover.ToBytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		request, err := dhcpv4.FromBytes(data)
		if err != nil {
			return
		}
		for _, a := range []Attachment{dhcpAttachment(), {Addresses: dhcpAttachment().Addresses}, {}} {
			if reply, err := answer(a, request); err == nil && reply != nil {
				reply.ToBytes()
			}
			answerTo(request)
		}
	})
}
