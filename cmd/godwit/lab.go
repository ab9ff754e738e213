package main

import (
	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/lab"
)

func (a *app) labCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Two data centers and a provider on this machine",
		Long: `Two data centers, a provider network and a client on this machine, in network
namespaces, with delay and bandwidth as on a wide-area network. It needs root, and
touches nothing outside its own namespaces and /run/godwit.

  client ── core ─┬─ west-edge ── west-host
     witness ─────┴─ east-edge ── east-host

While the lab is up, the other commands find its controller by themselves.`,
		Example: `  godwit lab up --rtt 20ms --bandwidth 100mbit
  godwit apply -f shop.yaml
  godwit lab probe 203.0.113.10:7000 --duration 30s &
  godwit migrate shop --to east
  godwit lab down`,
	}
	cmd.PersistentFlags().StringVar(&name, "name", lab.DefaultName, "the lab, among several on one machine")
	return group(
		cmd, a.labUpCommand(&name), a.labStatusCommand(&name), a.labDownCommand(&name), a.labExecCommand(&name),
		a.labProbeCommand(&name), a.labPathCommand(&name), a.labLinkCommand(&name), a.labSuperviseCommand(),
	)
}

// labSuperviseCommand is what lab up starts in the background.
func (a *app) labSuperviseCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:    "supervise --config FILE",
		Hidden: true,
		Args:   arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := lab.LoadConfig(config)
			if err != nil {
				return err
			}
			return lab.Supervise(cmd.Context(), loaded)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "what lab up wrote")
	return cmd
}
