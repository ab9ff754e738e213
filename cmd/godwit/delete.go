package main

import (
	"github.com/spf13/cobra"
)

func (a *app) deleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete KIND NAME",
		Short: "Remove a service and all that was made for it",
		Long: `Remove a service with its virtual server, its volumes and its routes, at every
site. The command returns when nothing is left. The data of its volumes is gone
then, too.`,
		Example: `  godwit delete service shop`,
		Args:    arguments(2, 2, "KIND and NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindNamed(args[0])
			if err != nil {
				return err
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if a.width(a.err) > 0 {
				a.sayf("removing %s %s …\r", kind, args[1])
			}
			if err := client.Delete(cmd.Context(), kind, args[1]); err != nil {
				return err
			}
			a.printf("%s %s deleted\n", kind, args[1])
			return nil
		},
	}
}
