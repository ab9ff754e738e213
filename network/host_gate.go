package network

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	gateName     = "godwit_gate"
	gatePriority = 1
)

// Gate says what passes between a guest and the world.
type Gate uint32

const (
	// GateShut lets nothing pass. It is what a new gate is.
	GateShut Gate = 0
	// GateInward lets packets to the guest pass, none from it: they wait in the tap's queue for a guest that has
	// been loaded and is about to run.
	GateInward Gate = 1
	// GateOpen lets everything pass.
	GateOpen Gate = 2
)

// gate lets through a device, both ways, one way, or not at all: before ARP, DHCP and routing. It is a BPF program at the
// device's ingress and another at its egress, which read one number. The kernel keeps both for as long as there is the device, so a
// gate stays as it was set when this process dies; to open or shut it is one system call of some microseconds, which
// is why it is not a rule of nftables: those wait for an RCU grace period, 8 to 18 ms on each side of a blackout.
type gate struct {
	device int // its index: a device of the same name may be another one
	state  *ebpf.Map
}

// installGate puts a gate at a device, in the place of one that an earlier process left.
func installGate(nl *netlink.Handle, link netlink.Link, to Gate) (*gate, error) {
	name := link.Attrs().Name
	state, err := ebpf.NewMap(&ebpf.MapSpec{Name: gateName, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("network: gate of %s (it needs the bpf system call, as root): %w", name, err)
	}
	g := &gate{device: link.Attrs().Index, state: state}
	if err := errors.Join(g.set(to), g.attach(nl, name)); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

// attach makes the device pass everything by the programs. What the device receives comes from the guest.
func (g *gate) attach(nl *netlink.Handle, name string) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: g.device, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := nl.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("network: gate of %s (it needs the kernel's clsact, sch_ingress): %w", name, err)
	}
	return errors.Join(
		g.attachAt(nl, name, netlink.HANDLE_MIN_INGRESS, GateOpen),
		g.attachAt(nl, name, netlink.HANDLE_MIN_EGRESS, GateInward),
	)
}

// attachAt loads the program for one direction, which passes from the state least on.
func (g *gate) attachAt(nl *netlink.Handle, name string, hook uint32, least Gate) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: gateName, Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: gateInstructions(g.state.FD(), least),
	})
	if err != nil {
		return fmt.Errorf("network: load the gate of %s: %w", name, err)
	}
	defer program.Close() //nolint:errcheck // a descriptor of ours; the device's filter holds the program
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: g.device, Parent: hook, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: gatePriority,
		},
		Fd: program.FD(), Name: gateName, DirectAction: true,
	}
	if err := nl.FilterReplace(filter); err != nil {
		return fmt.Errorf("network: gate of %s (it needs the kernel's cls_bpf): %w", name, err)
	}
	return nil
}

// gateInstructions drop a packet unless the map's only number is least or more.
func gateInstructions(state int, least Gate) asm.Instructions {
	const tcOK, tcShot = 0, 2 // linux/pkt_cls.h
	return asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, state),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "shut"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.JLT.Imm(asm.R1, int32(least), "shut"),
		asm.Mov.Imm(asm.R0, tcOK),
		asm.Return(),
		asm.Mov.Imm(asm.R0, tcShot).WithSymbol("shut"),
		asm.Return(),
	}
}

// set decides what comes after it; a packet that was on its way through is not called back.
func (g *gate) set(to Gate) error {
	if err := g.state.Put(uint32(0), uint32(to)); err != nil {
		return fmt.Errorf("network: set a gate: %w", err)
	}
	return nil
}

// close gives up this process's hold on the gate; the gate stays as long as its device.
func (g *gate) close() error { return g.state.Close() }
