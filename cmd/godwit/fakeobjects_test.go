package main

import (
	"strings"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

func begun(name string) *godwitv1.Migration {
	return &godwitv1.Migration{
		Name: name, Service: strings.TrimSuffix(name, "-1"), Source: "west", Destination: "east",
		SourceHost: "west-host", DestinationHost: "east-host", Epoch: 2, Phase: "preparing", Started: after(0),
		Phases: []*godwitv1.PhaseTime{{Phase: "preparing", Entered: after(0)}},
	}
}

func converging(name string) *godwitv1.Migration {
	m := begun(name)
	m.Phase = "converging"
	m.Phases = []*godwitv1.PhaseTime{
		{Phase: "preparing", Entered: after(0), LengthMs: 412.5},
		{Phase: "converging", Entered: after(412)},
	}
	m.Lanes = []*godwitv1.Lane{
		{Participant: "server", Role: "source", Verb: "converge", State: "running", Done: 64 << 20, Total: 256 << 20, Rate: 11 << 20, EtaMs: 17454},
		{Participant: "network", Role: "source", Verb: "prepare", State: "done"},
		{Participant: "storage", Role: "destination", Verb: "prepare", State: "done"},
		{Participant: "storage", Role: "source", Verb: "converge", State: "running", Message: "1.2 MiB behind"},
	}
	return m
}

func ready(name string) *godwitv1.Migration {
	m := converging(name)
	m.Ready, m.Hold = true, true
	return m
}

func abortedFor(name, reason string) *godwitv1.Migration {
	m := converging(name)
	m.Phase, m.Reason, m.Ended = "aborted", reason, after(9000)
	m.Phases[1].LengthMs = 8000
	m.Phases = append(m.Phases,
		&godwitv1.PhaseTime{Phase: "aborting", Entered: after(8412), LengthMs: 588},
		&godwitv1.PhaseTime{Phase: "aborted", Entered: after(9000)})
	m.Notes = []string{"the destination's QEMU was ended"}
	m.Lanes = nil
	m.Figures = &godwitv1.Figures{TotalMs: 9000, WanBytes: 90 << 20}
	return m
}

func completed(name string) *godwitv1.Migration {
	m := converging(name)
	m.Phase, m.Ended, m.Lanes = "completed", after(9300), nil
	m.Phases = []*godwitv1.PhaseTime{
		{Phase: "preparing", Entered: after(0), LengthMs: 412.5},
		{Phase: "converging", Entered: after(412), LengthMs: 7000},
		{Phase: "synchronizing", Entered: after(7412), LengthMs: 310},
		{Phase: "quiesced", Entered: after(7722), LengthMs: 21.75},
		{Phase: "committed", Entered: after(7744), LengthMs: 56},
		{Phase: "optimizing", Entered: after(7800), LengthMs: 1500},
		{Phase: "completed", Entered: after(9300)},
	}
	m.Figures = &godwitv1.Figures{
		BlackoutMs: 23.4375, BlackoutUncertaintyMs: 0.5, TotalMs: 9300, SyncWindowMs: 330,
		WanBytes: 64487424, MemoryBytes: 106 << 20, DiskBytes: 64 << 20, HeldPackets: 12, TunnelPackets: 340,
	}
	return m
}

func inventory(kind string) []*godwitv1.Object {
	switch kind {
	case "site":
		return []*godwitv1.Object{
			{Kind: &godwitv1.Object_Site{Site: &godwitv1.Site{Name: "east", Hosts: 1, Edges: 1}}},
			{Kind: &godwitv1.Object_Site{Site: &godwitv1.Site{Name: "west", Hosts: 1, Edges: 1, Services: 2}}},
		}
	case "host":
		return []*godwitv1.Object{
			{Kind: &godwitv1.Object_Host{Host: &godwitv1.Host{
				Name: "east-host", Site: "east", Address: "198.51.100.18:7444", Ready: true, LastSeen: after(-500),
				Facts: &godwitv1.HostFacts{
					Platform: "qemu", Version: "7.2.22", Accelerator: "tcg", MachineTypes: []string{"q35"}, CpuModels: []string{"qemu64"},
					MemoryTotal: 24 << 30, MemoryFree: 20 << 30, DiskFree: 100 << 30,
				},
			}}},
			{Kind: &godwitv1.Object_Host{Host: &godwitv1.Host{
				Name: "west-host", Site: "west", Address: "198.51.100.2:7444", LastSeen: after(-90_000),
				Facts: &godwitv1.HostFacts{Problem: "qemu-system-x86_64 is not installed"},
			}}},
		}
	case "edge":
		return []*godwitv1.Object{
			{Kind: &godwitv1.Object_Edge{Edge: &godwitv1.Edge{Name: "west-edge", Site: "west", Address: "198.51.100.1:7444", Underlay: "192.0.2.2", Ready: true, LastSeen: after(0)}}},
		}
	case "volume":
		return []*godwitv1.Object{
			{Kind: &godwitv1.Object_Volume{Volume: &godwitv1.Volume{
				Name: "shop.root", Service: "shop", Site: "west", Host: "west-host", Size: 2 << 30, Allocated: 300 << 20, Role: "primary", Mode: "async", Epoch: 1, Lag: 1258291,
			}}},
			{Kind: &godwitv1.Object_Volume{Volume: &godwitv1.Volume{
				Name: "shop.root", Service: "shop", Site: "east", Host: "east-host", Size: 2 << 30, Allocated: 299 << 20, Role: "replica", Mode: "async", Epoch: 1,
				Alert: "only 100 MiB are left on the disk of this host: make room before guests have to be stopped",
			}}},
		}
	default:
		return nil
	}
}
