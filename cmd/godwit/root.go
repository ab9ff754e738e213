package main

import (
	"github.com/spf13/cobra"
)

// root builds the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "godwit",
		Short: "Move running services between data centers",
		Long: `Godwit moves running services between data centers without stopping them.

A service is a virtual server, its volumes and its addresses. A migration copies
memory and disk to the other site while the service runs on, stops it for some
milliseconds, and lets it go on there; clients keep their connections, because
the edge of the old site sends their traffic through a tunnel until the routes
have changed.`,
		Example: `  godwit demo planned                  watch a migration in a lab on this machine
  godwit lab up                        two data centers in network namespaces
  godwit apply -f shop.yaml            start a service
  godwit migrate shop --to east        move it
  godwit get migrations                what was moved, and what it cost`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no command %q", args[0])
			}
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.PersistentFlags().StringVar(&a.server, "server", "",
		"the controller: unix:///PATH or https://HOST:PORT (default $GODWIT_SERVER, else the\ncontroller of this machine, else that of the lab)")
	root.PersistentFlags().StringVar(&a.identity, "identity", "",
		"directory of the operator's certificate, for https (default $GODWIT_IDENTITY)")
	root.AddGroup(
		&cobra.Group{ID: "use", Title: "Services:"},
		&cobra.Group{ID: "try", Title: "Trying it out:"},
		&cobra.Group{ID: "run", Title: "Running Godwit:"},
	)
	for _, command := range []*cobra.Command{a.applyCommand(), a.getCommand(), a.deleteCommand(), a.migrateCommand(), a.migrationCommand(), a.failoverCommand(), a.dvsCommand()} {
		command.GroupID = "use"
		root.AddCommand(command)
	}
	for _, command := range []*cobra.Command{a.labCommand(), a.demoCommand()} {
		command.GroupID = "try"
		root.AddCommand(command)
	}
	for _, command := range append([]*cobra.Command{a.tokenCommand(), a.volumeCommand(), a.versionCommand()}, a.daemonCommands()...) {
		command.GroupID = "run"
		root.AddCommand(command)
	}
	return root
}
