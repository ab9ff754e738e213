package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/agent/dvshost"
)

func (a *app) dvsMigrateCommand() *cobra.Command {
	var (
		request dvshost.MoveRequest
		output  format
	)
	cmd := &cobra.Command{
		Use:   "migrate CONTAINER NAME --to NODE",
		Short: "Move a process to another node",
		Long: `Move a process of the node at --socket to another node. The memory of a WebAssembly
process is sent while it runs; then its callers wait for some milliseconds while the
rest follows. A native program is started at the other node and given the state, or,
if it was run with --criu, is stopped for some tenths of a second and goes on there.
No request is lost or done twice. When something goes wrong before the other node has
it, it goes on where it is.

The endpoint of a program of its own moves too, to one that waits for it there: see
godwit dvs http serve --standby.`,
		Example: `  godwit dvs migrate shop kv --to b
  godwit dvs migrate shop kv --to b --frozen -o json | jq .heldMs`,
		Args: arguments(2, 2, "CONTAINER and NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if request.To == "" {
				return usagef("want the node to move it to: --to NODE")
			}
			request.Container, request.Name = args[0], args[1]
			done, err := a.dvsClient().Move(cmd.Context(), request)
			if err != nil {
				return err
			}
			return a.printMoves(output, done, []dvshost.MoveInfo{done})
		},
	}
	cmd.Flags().StringVar(&request.To, "to", "", "the node")
	cmd.Flags().BoolVar(&request.Frozen, "frozen", false, "send the whole state while callers wait, not before")
	outputFlag(cmd, &output, formatTable, formatJSON, formatYAML)
	return cmd
}

func (a *app) dvsDrainCommand() *cobra.Command {
	var (
		request dvshost.DrainRequest
		output  format
	)
	cmd := &cobra.Command{
		Use:   "drain [--to NODE…]",
		Short: "Move everything on the node to others, before it is stopped",
		Long: `Move everything that has an endpoint at the node at --socket to the other nodes, one
after the other, in turn: WebAssembly processes, native programs that the node has
started, and programs of others for which one waits there as a standby. What cannot
move stays and is named, with the reason, and the exit code is 1. Replicated
processes stay where they are: they are on other nodes as well.`,
		Example: `  godwit dvs drain
  godwit dvs drain --to b --to c`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := a.dvsClient().Drain(cmd.Context(), request)
			if err != nil {
				return err
			}
			var failed error
			if done.Err != "" {
				failed = errors.New(done.Err)
			}
			if failed != nil && len(done.Moved) == 0 && output != formatJSON && output != formatYAML {
				return failed
			}
			return errors.Join(a.printMoves(output, done, done.Moved), failed)
		},
	}
	cmd.Flags().StringArrayVar(&request.To, "to", nil, "only to this node; may be repeated")
	outputFlag(cmd, &output, formatTable, formatJSON, formatYAML)
	return cmd
}

func (a *app) printMoves(output format, view any, moves []dvshost.MoveInfo) error {
	if output == formatJSON || output == formatYAML {
		return a.printView(output, view)
	}
	t := &table{coloured: -1}
	t.add("CONTAINER", "NAME", "FROM", "TO", "HELD", "TOTAL", "PAGES BEFORE")
	for _, m := range moves {
		t.add(m.Container, m.Name, m.From, m.To, milliseconds(m.HeldMs), milliseconds(m.TotalMs), fmt.Sprint(m.PagesSent))
	}
	return a.printTable(a.out, t)
}
