package main

import "github.com/spf13/cobra"

// daemonCommands are those that make and run Godwit's own parts.
func (a *app) daemonCommands() []*cobra.Command {
	return []*cobra.Command{a.initCommand(), a.controllerCommand(), a.agentCommand(), a.joinCommand()}
}
