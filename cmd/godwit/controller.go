package main

import (
	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/controller"
)

func (a *app) controllerCommand() *cobra.Command {
	var (
		options controller.Options
		logs    logFlags
	)
	cmd := &cobra.Command{
		Use:   "controller --data DIR --listen ADDRESS:PORT",
		Short: "Run the controller",
		Long: `Run the controller: it serves the API, drives the agents and runs migrations. It
may be killed and started again at any instant; what was going on goes on.

Agents and remote users come to --listen, with certificates of this cluster. Users
of this machine come to --socket: who may open it may operate.`,
		Example: `  godwit controller --listen 192.0.2.14:7443
  godwit controller --data /var/lib/godwit/controller --listen :7443 --advertise 192.0.2.14:7443`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if options.Listen == "" {
				return usagef("want an address for agents and users: --listen ADDRESS:PORT")
			}
			logger, err := logs.logger(a.err)
			if err != nil {
				return err
			}
			options.Logger = logger
			return ended(cmd.Context(), controller.Run(cmd.Context(), options))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Dir, "data", defaultControllerData, "what 'godwit init' made")
	flags.StringVar(&options.Name, "name", "", "this controller among several (default: the cluster's)")
	flags.StringVar(&options.Listen, "listen", "", "ADDRESS:PORT for agents and remote users")
	flags.StringVar(&options.Advertise, "advertise", "", "the address at which others reach --listen (default: the same)")
	flags.StringVar(&options.Socket, "socket", defaultSocket, "unix socket for users of this machine")
	flags.StringSliceVar(&options.EtcdEndpoints, "etcd", nil, "endpoints of an external etcd (default: one embedded)")
	logs.add(flags)
	return cmd
}
