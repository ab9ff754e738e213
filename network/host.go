package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Every guest on every host has the same gateway, so that nothing in a guest changes when it moves; also its
// neighbour entry for the gateway stays right.
var (
	Gateway    = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	GatewayMAC = net.HardwareAddr{0x02, 0x67, 0x77, 0x00, 0x00, 0x01}
)

// DefaultMTU is a guest's MTU where none is given: what fits the tunnel between two edges 1500 bytes apart.
const DefaultMTU = 1450

// Attachment is a virtual server's connection to its host.
type Attachment struct {
	Service   string
	Tap       string       // device name, at most 15 characters; empty: TapName(Service)
	MAC       string       // the guest's; empty: the guest is asked for it by ARP
	Addresses []netip.Addr // the guest's; DHCP gives it the first
	Hostname  string
	MTU       int // 0: DefaultMTU
	DNS       []netip.Addr
}

// HostOptions configure a host.
type HostOptions struct {
	Logger *slog.Logger
	Dir    string // journal
}

// hostRecord is an attachment as the journal has it.
type hostRecord struct {
	Attachment
	Gate Gate
	Away bool `json:",omitempty"` // the addresses are not routed to the tap; see Divert
}

// Host is the host half. Its methods may be called at the same time from several goroutines.
type Host struct {
	log     *slog.Logger
	kernel  *kernel
	journal *journal[hostRecord]

	mu       sync.Mutex // held over journal and kernel changes
	attached map[string]hostRecord
	gates    map[string]*gate       // by tap
	dhcp     map[string]*dhcpServer // by service
	closed   bool
}

// NewHost takes up what the journal says: taps are made sure of and answered DHCP again, leftovers are removed.
func NewHost(opts HostOptions) (*Host, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	k, err := openKernel(hostProtocol)
	if err != nil {
		return nil, err
	}
	j, err := openJournal[hostRecord](opts.Dir, "host.journal")
	if err != nil {
		k.close()
		return nil, err
	}
	h := &Host{
		log: opts.Logger.With("part", "network"), kernel: k, journal: j,
		attached: j.all(), gates: map[string]*gate{}, dhcp: map[string]*dhcpServer{},
	}
	if err := h.restore(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Host) restore() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := enableForwarding(); err != nil {
		return err
	}
	for name, rec := range h.attached {
		if err := h.buildLocked(rec); err != nil { // fails alone: the others' guests need their network all the same
			h.log.Error("the network of a service is not as it should be", "service", name, "error", err)
		}
	}
	return h.sweepLocked()
}

// Attach gives a service its tap, with the gate as asked from the first moment, and everything that leads there.
// The tap outlives this process and has no reader until somebody opens it.
func (h *Host) Attach(ctx context.Context, a Attachment, gate Gate) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a, err := complete(a)
	if err != nil {
		return fmt.Errorf("attach service %q: %w", a.Service, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errors.New("network: host is closed")
	}
	old, had := h.attached[a.Service]
	rec := hostRecord{Attachment: a, Gate: gate, Away: old.Away}
	if err := h.saveLocked(rec); err != nil {
		return fmt.Errorf("attach service %s: %w", a.Service, err)
	}
	if had && old.Tap != a.Tap {
		if err := h.dismantleLocked(old.Attachment); err != nil {
			return fmt.Errorf("attach service %s: %w", a.Service, err)
		}
	}
	if had {
		for _, gone := range missing(old.Addresses, a.Addresses) {
			if err := h.kernel.removeRoute(gone, 0); err != nil {
				return fmt.Errorf("attach service %s: %w", a.Service, err)
			}
		}
	}
	if err := h.buildLocked(rec); err != nil {
		return fmt.Errorf("attach service %s: %w", a.Service, err)
	}
	return nil
}

// complete fills in what may be left out and refuses what cannot be.
func complete(a Attachment) (Attachment, error) {
	if a.Service == "" {
		return a, errors.New("no name")
	}
	if a.Tap == "" {
		a.Tap = TapName(a.Service)
	}
	if len(a.Tap) > 15 || strings.ContainsAny(a.Tap, "/ ") {
		return a, fmt.Errorf("tap %q: a device name has at most 15 characters, no space and no slash", a.Tap)
	}
	if a.MAC != "" {
		if mac, err := net.ParseMAC(a.MAC); err != nil || len(mac) != 6 {
			return a, fmt.Errorf("MAC %q is none, want six bytes like 02:00:00:00:00:01", a.MAC)
		}
	}
	if a.MTU == 0 {
		a.MTU = DefaultMTU
	}
	if a.MTU < 576 || a.MTU > 65535 {
		return a, fmt.Errorf("MTU %d: want 576 to 65535", a.MTU)
	}
	a.Addresses = slices.Clone(a.Addresses)
	return a, checkAddresses(a.Addresses)
}

func (h *Host) saveLocked(rec hostRecord) error {
	if err := h.journal.put(rec.Service, rec); err != nil {
		return err
	}
	h.attached[rec.Service] = rec
	return nil
}

// SetGate opens or shuts a service's gate. It stays so when this process dies; routes stay.
func (h *Host) SetGate(ctx context.Context, name string, to Gate) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	rec, ok := h.attached[name]
	if !ok {
		return fmt.Errorf("gate of service %s: %w", name, ErrNotAttached)
	}
	rec.Gate = to
	if err := h.saveLocked(rec); err != nil {
		return fmt.Errorf("gate of service %s: %w", name, err)
	}
	link, err := h.ensureTap(rec.Tap)
	if err != nil {
		return fmt.Errorf("gate of service %s: %w", name, err)
	}
	if err := h.gateLocked(link, to); err != nil {
		return fmt.Errorf("gate of service %s: %w", name, err)
	}
	return nil
}

// Divert takes the routes to a service's tap away, or puts them back. Away, what this host's other guests send to the
// service goes to the edge like everybody's, and so to wherever it runs: at the destination until Commit, at the source
// from Quiesce on. Without it they would speak to a tap where nobody runs.
func (h *Host) Divert(ctx context.Context, name string, away bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	rec, ok := h.attached[name]
	if !ok {
		return fmt.Errorf("divert service %s: %w", name, ErrNotAttached)
	}
	rec.Away = away
	if err := h.saveLocked(rec); err != nil {
		return fmt.Errorf("divert service %s: %w", name, err)
	}
	link, err := h.ensureTap(rec.Tap)
	if err != nil {
		return fmt.Errorf("divert service %s: %w", name, err)
	}
	// The routes alone: nothing else of the attachment changes.
	for _, a := range rec.Addresses {
		if err := h.leadTo(link, a, rec); err != nil {
			return fmt.Errorf("divert service %s: %w", name, err)
		}
	}
	return nil
}

// Detach removes a service's tap and all that led there, also while somebody has the tap open.
func (h *Host) Detach(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	rec, ok := h.attached[name]
	if !ok {
		return nil
	}
	if err := h.dismantleLocked(rec.Attachment); err != nil {
		return fmt.Errorf("detach service %s: %w", name, err)
	}
	if err := h.journal.remove(name); err != nil {
		return fmt.Errorf("detach service %s: %w", name, err)
	}
	delete(h.attached, name)
	return nil
}

// Attachments lists what is attached, in the order of the services' names.
func (h *Host) Attachments() []Attachment {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]Attachment, 0, len(h.attached))
	for _, rec := range h.attached {
		out = append(out, rec.Attachment)
	}
	slices.SortFunc(out, func(a, b Attachment) int { return strings.Compare(a.Service, b.Service) })
	return out
}

// Close ends the DHCP servers. Taps, routes and gates stay as they are.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	var errs []error
	for name, d := range h.dhcp {
		errs = append(errs, d.close())
		delete(h.dhcp, name)
	}
	for tap := range h.gates {
		errs = append(errs, h.forgetGateLocked(tap))
	}
	errs = append(errs, h.journal.close())
	h.kernel.close()
	return errors.Join(errs...)
}
