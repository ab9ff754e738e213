package network

import (
	"errors"
	"fmt"
	"net/netip"
)

// Refusals of a call: the caller's view is out of date or wrong, and sending it again does not help.
var (
	// ErrStaleEpoch: an epoch older than one seen for the service. Whoever sent it was superseded.
	ErrStaleEpoch = errors.New("network: stale epoch")
	// ErrNotPrepared: the call needs a tunnel of this service, epoch and role, and there is none.
	ErrNotPrepared = errors.New("network: no such tunnel prepared")
	// ErrCommitted: the traffic already goes to the other site; there is no way back in this epoch.
	ErrCommitted = errors.New("network: already let go into the tunnel")
	// ErrNotAttached: the service is not known here.
	ErrNotAttached = errors.New("network: service not attached")
	// ErrIPv6: IPv6 service addresses are not carried yet.
	ErrIPv6 = errors.New("network: IPv6 service addresses are not supported yet, give an IPv4 address")
)

func stale(service string, epoch, seen uint64) error {
	return fmt.Errorf("service %s: epoch %d is older than %d: %w", service, epoch, seen, ErrStaleEpoch)
}

// checkAddresses returns nil if every address can be routed as a /32.
func checkAddresses(addresses []netip.Addr) error {
	for _, a := range addresses {
		if !a.IsValid() {
			return errors.New("network: an address is empty")
		}
		if !a.Unmap().Is4() {
			return fmt.Errorf("address %s: %w", a, ErrIPv6)
		}
	}
	return nil
}
