package network

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
)

// gatePrefix and the tap's name make the name of the nftables table that shuts its gate.
const gatePrefix = "godwit-gate-"

// setGate opens or shuts a tap's gate. A shut gate is a table of the netdev family with one chain at the device's
// ingress and one at its egress, both without rules and with the policy to drop: before any routing, ARP or DHCP. An
// open gate is no table. The kernel takes each change as a whole, and keeps it when this process dies.
func setGate(tap string, open bool) error {
	if open {
		return removeGate(tap)
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("network: open nftables: %w", err)
	}
	table := conn.AddTable(gateTable(tap))
	conn.DelTable(table) // with the line before and after, in one batch: whatever there was, now there is this
	table = conn.AddTable(gateTable(tap))
	drop := nftables.ChainPolicyDrop
	for name, hook := range map[string]*nftables.ChainHook{
		"fromguest": nftables.ChainHookIngress, "toguest": nftables.ChainHookEgress,
	} {
		conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook,
			Priority: nftables.ChainPriorityRaw, Policy: &drop, Device: tap,
		})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("network: shut the gate of %s (nftables needs the netdev family with egress, Linux 5.16): %w", tap, err)
	}
	return nil
}

func gateTable(tap string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: gatePrefix + tap}
}

// removeGate opens a gate. In one batch with an addition, so that there being none is no error.
func removeGate(tap string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("network: open nftables: %w", err)
	}
	conn.DelTable(conn.AddTable(gateTable(tap)))
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("network: open the gate of %s: %w", tap, err)
	}
	return nil
}

// listGates returns the taps whose gates are shut.
func listGates() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("network: open nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return nil, fmt.Errorf("network: list gates: %w", err)
	}
	var taps []string
	for _, t := range tables {
		if tap, ok := strings.CutPrefix(t.Name, gatePrefix); ok {
			taps = append(taps, tap)
		}
	}
	return taps, nil
}
