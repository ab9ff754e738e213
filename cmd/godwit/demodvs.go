package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/demo"
)

func (a *app) demoDVSCommand() *cobra.Command {
	var (
		options demo.DVSOptions
		output  format
	)
	cmd := &cobra.Command{
		Use:   "dvs",
		Short: "Move a process between three nodes while a hundred clients talk to it",
		Long: `Start three DVS nodes on this machine, a key-value service as a WebAssembly process
and a hundred clients; move the service from node to node, drain a node and kill
it. Then report what the clients saw, and check that no request was lost or done
twice. It needs neither root nor anything installed, and takes some seconds.

The exit code is 0 when nothing was lost.`,
		Example: `  godwit demo dvs
  godwit demo dvs -o json | jq '{requests, lost, duplicates, longestWaitMs}'`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if options.Binary, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			if options.Module == "" {
				options.Module = demo.DVSModule(options.Binary)
			}
			options.Say = func(sentence string) { a.sayf("%s\n", sentence) }
			report, err := demo.DVS(cmd.Context(), options)
			if report != nil {
				err = errors.Join(a.printDVSDemo(output, report), err)
			}
			if errors.Is(err, demo.ErrNoModule) {
				return &hintedError{err, "run 'make build' in the source tree, or name the module with --module"}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&options.Module, "module", "", "the key-value service (default: kv.wasm, beside the binary)")
	cmd.Flags().IntVar(&options.Clients, "clients", 100, "how many clients ask")
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (a *app) printDVSDemo(output format, r *demo.DVSReport) error {
	if output != formatText {
		return a.printView(output, r)
	}
	t := &table{coloured: -1}
	t.add("REQUESTS", "ERRORS", "LOST", "DUPLICATES", "MOVES", "LONGEST WAIT")
	t.add(fmt.Sprint(r.Requests), fmt.Sprint(r.Errors), fmt.Sprint(r.Lost), fmt.Sprint(r.Duplicates), fmt.Sprint(r.Moves), milliseconds(r.LongestWaitMs))
	return a.printTable(a.out, t)
}
