package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/agent/dvshost"
)

func (a *app) dvsAbortCommand() *cobra.Command {
	var (
		request dvshost.AbortRequest
		output  format
	)
	cmd := &cobra.Command{
		Use:   "abort CONTAINER NAME",
		Short: "End a move that does not come to its end",
		Long: `End the move of a process from the node at --socket (godwit dvs moves lists them).

Until its commit that needs nobody else: the process goes on here at once, and the
destination is told when it can be reached.

After its commit the destination owns the process, and the move ends by itself when
it answers. If it never will, --give-up ends the move: the copy that is held here goes
on, and a destination that does come back is refused. What it has answered meanwhile,
if it did, is lost; the answer says so.`,
		Example: `  godwit dvs moves
  godwit dvs abort shop kv
  godwit dvs abort shop kv --give-up   # node b burned down`,
		Args: arguments(2, 2, "CONTAINER and NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Container, request.Name = args[0], args[1]
			done, err := a.dvsClient().Abort(cmd.Context(), request)
			if err != nil {
				return err
			}
			if output == formatJSON || output == formatYAML {
				return a.printView(output, done)
			}
			where := "is at " + done.To
			if done.Here {
				where = "goes on here"
			}
			fmt.Fprintf(a.out, "%s/%s %s\n", done.Container, done.Name, where)
			if done.Lost != "" {
				fmt.Fprintf(a.out, "may be lost: %s\n", done.Lost)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&request.GiveUp, "give-up", false, "after the commit too, if the destination does not answer: you know that it never will")
	outputFlag(cmd, &output, formatTable, formatJSON, formatYAML)
	return cmd
}
