package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/lab"
)

func (a *app) labPathCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:     "path NODE ADDRESS",
		Short:   "Show which nodes a packet goes through",
		Example: `  godwit lab path client 203.0.113.10`,
		Args:    arguments(2, 2, "NODE and ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			up, err := lab.Open(*name)
			if err != nil {
				return err
			}
			path, err := up.Path(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			a.printf("%s\n", strings.Join(path, " → "))
			return nil
		},
	}
}
