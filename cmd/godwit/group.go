package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// group makes a command that does nothing itself of one that has others below it.
func group(cmd *cobra.Command, below ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(below...)
	var names []string
	for _, one := range below {
		if !one.Hidden {
			names = append(names, one.Name())
		}
	}
	slices.Sort(names)
	want := "want " + strings.Join(names, ", ")
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("there is no command %q: %s", args[0], want)
		}
		return usagef("%s", want)
	}
	return cmd
}
