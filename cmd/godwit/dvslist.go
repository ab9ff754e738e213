package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/api"
)

// dvsListCommands are those that show what a node knows.
func (a *app) dvsListCommands() []*cobra.Command {
	return []*cobra.Command{
		dvsList(a, "ps", "List the processes that the node has started", "Standbys are processes that wait to take over one that moves here. MODULE is the beginning of a\nWebAssembly module's SHA-256, or says how a native program moves.",
			(*dvshost.Client).List, []string{"CONTAINER", "NAME", "STATE", "MEMORY", "CALLS", "FAILURES", "MODULE"},
			func(p dvshost.ProcessInfo) []string {
				return []string{p.Container, p.Name, p.State, api.FormatSize(p.Memory), fmt.Sprint(p.Calls), fmt.Sprint(p.Failures), shortModule(p.Module)}
			}),
		dvsList(a, "moves", "List the moves from the node that are not over", "One that does not end is ended by godwit dvs abort.",
			(*dvshost.Client).Moves, []string{"CONTAINER", "NAME", "TO", "EPOCH", "PHASE", "SINCE", "TROUBLE"},
			func(m dvshost.MovingInfo) []string {
				return []string{m.Container, m.Name, m.To, fmt.Sprint(m.Epoch), m.Phase, m.Since.Format(time.TimeOnly), strings.Join(m.Trouble, "; ")}
			}),
		dvsList(a, "endpoints", "List the endpoints that the node knows, and where they are", "The version counts the owners (epoch) and what each changed (serial).",
			(*dvshost.Client).Endpoints, []string{"CONTAINER", "NAME", "STATE", "NODE", "VERSION", "PROGRAM", "PID"},
			func(e dvshost.EndpointInfo) []string {
				program, pid := e.Program, fmt.Sprint(e.PID)
				if e.PID == 0 {
					program, pid = "-", "-"
				}
				return []string{e.Container, e.Name, e.State, e.Node, fmt.Sprintf("%d.%d", e.Epoch, e.Serial), program, pid}
			}),
		dvsList(a, "links", "List the other nodes, and how they answer", "Each is asked now; the round trip is that of one question.",
			(*dvshost.Client).Links, []string{"NODE", "ADDRESS", "STATE", "ROUND TRIP", "ERROR"},
			func(l dvshost.LinkInfo) []string {
				return []string{l.Node, l.Address, l.State, milliseconds(l.RoundTripMs), l.Err}
			}),
		a.dvsStatsCommand(),
	}
}

// shortModule is a module's sum as far as people need it, or what a process is that has none.
func shortModule(module string) string {
	if len(module) == 2*sha256.Size {
		return module[:12]
	}
	return module
}

// items is a list as JSON has it.
type items[T any] struct {
	Kind  string `json:"kind"`
	Items []T    `json:"items"`
}

func dvsList[T any](a *app, name, short, more string, ask dvsEntries[T], header []string, row func(T) []string) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     name,
		Short:   short,
		Long:    short + ". " + more,
		Example: "  godwit dvs " + name + "\n  godwit dvs " + name + " -o json | jq .items",
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := ask(a.dvsClient(), cmd.Context())
			if err != nil {
				return err
			}
			if output == formatJSON || output == formatYAML {
				return a.printView(output, items[T]{Kind: "List", Items: all})
			}
			t := &table{coloured: 2}
			t.add(header...)
			for _, one := range all {
				t.add(row(one)...)
			}
			return a.printTable(a.out, t)
		},
	}
	outputFlag(cmd, &output, formatTable, formatJSON, formatYAML)
	return cmd
}

func (a *app) dvsStatsCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show what passed through the node itself",
		Long: `Show what passed through the node itself. Programs on one machine are introduced to
each other and talk without it, so most messages are not among these.`,
		Example: `  godwit dvs stats
  godwit dvs stats -o json | jq .packetsOut`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.dvsClient().Stats(cmd.Context())
			if err != nil {
				return err
			}
			if output == formatJSON || output == formatYAML {
				return a.printView(output, s)
			}
			return a.printTable(a.out, statsTable(s))
		},
	}
	outputFlag(cmd, &output, formatTable, formatJSON, formatYAML)
	return cmd
}

func statsTable(s dvshost.StatsInfo) *table {
	t := &table{coloured: -1}
	t.add("NODE", s.Node)
	for _, one := range []struct {
		name string
		n    uint64
	}{
		{"processes", uint64(s.Processes)},
		{"endpoints", uint64(s.Endpoints)},
		{"introductions", s.Introductions},
		{"messages relayed", s.Relayed},
		{"packets to nodes", s.PacketsOut},
		{"packets from nodes", s.PacketsIn},
		{"writes to links", s.Writes},
		{"reconnects", s.Reconnects},
		{"streams", s.Streams},
	} {
		t.add(one.name, fmt.Sprint(one.n))
	}
	t.add("load", fmt.Sprintf("%.0f %%", 100*s.Load))
	if b := s.Balance; b != nil {
		t.add("gives up processes", fmt.Sprintf("above %.0f %%, until %.0f %%: now %v", 100*b.High, 100*b.Low, b.Giving))
		t.add("moves by load", fmt.Sprintf("%d, %d failed", b.Moves, b.Failed))
		t.add("the last one", cmp.Or(b.Last, "-"))
	}
	return t
}

// dvsEntries asks a node for a list.
type dvsEntries[T any] func(c *dvshost.Client, ctx context.Context) ([]T, error)
