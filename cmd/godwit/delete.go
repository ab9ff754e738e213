package main

import (
	"github.com/spf13/cobra"
)

func (a *app) deleteCommand() *cobra.Command {
	var volumes bool
	cmd := &cobra.Command{
		Use:   "delete KIND NAME",
		Short: "Remove a service and all that was made for it, or a volume",
		Long: `Remove a service with its virtual server, its volumes and its routes, at every
site. The command returns when nothing is left. The data of its volumes is gone
then, too; but a volume that stands alone ('godwit volume create') stays for
another service, unless --volumes says otherwise, and what is on an external
disk, or on a block device of a host, is not touched.

Remove a volume that stands alone, and that no service uses, with what it holds.`,
		Example: `  godwit delete service shop
  godwit delete volume archive`,
		Args: arguments(2, 2, "KIND and NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindNamed(args[0])
			switch {
			case err != nil:
				return err
			case volumes && kind != "service":
				return usagef("--volumes is for services")
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if a.width(a.err) > 0 {
				a.sayf("removing %s %s …\r", kind, args[1])
			}
			if volumes && kind == "service" {
				err = client.DeleteWithVolumes(cmd.Context(), args[1])
			} else {
				err = client.Delete(cmd.Context(), kind, args[1])
			}
			if err != nil {
				return err
			}
			a.printf("%s %s deleted\n", kind, args[1])
			return nil
		},
	}
	cmd.Flags().BoolVar(&volumes, "volumes", false, "of a service: also the volumes that stand alone, which it uses")
	return cmd
}
