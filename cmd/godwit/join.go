package main

import (
	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/agent"
)

func (a *app) joinCommand() *cobra.Command {
	var options agent.JoinOptions
	cmd := &cobra.Command{
		Use:   "join --token TOKEN --controller ADDRESS:PORT",
		Short: "Join a cluster with a one-time token",
		Long: `Join a cluster with a one-time token: get a certificate for this machine, or for an
operator. The token says which controller to trust, so nobody in between can play
its part. What this becomes (host, edge, operator, viewer) is in the token.`,
		Example: `  godwit join --token TOKEN --controller 192.0.2.14:7443
  godwit join --token TOKEN --controller 192.0.2.14:7443 --data ~/.godwit      an operator`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case options.Token == "":
				return usagef("want the token that 'godwit token create' printed: --token TOKEN")
			case options.Controller == "":
				return usagef("want the controller's address: --controller ADDRESS:PORT")
			}
			if err := agent.Join(cmd.Context(), options); err != nil {
				return err
			}
			a.printf("joined: the identity is in %s\n", options.Dir)
			return nil
		},
	}
	cmd.Flags().StringVar(&options.Token, "token", "", "what 'godwit token create' printed")
	cmd.Flags().StringVar(&options.Controller, "controller", "", "the controller's ADDRESS:PORT")
	cmd.Flags().StringVar(&options.Dir, "data", defaultAgentData, "where to keep the identity")
	return cmd
}
