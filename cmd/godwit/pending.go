//go:build !integration_pending

package main

import "github.com/spf13/cobra"

func (a *app) demoCommand() *cobra.Command           { return notYet("demo") }
func (a *app) labPathCommand(*string) *cobra.Command { return notYet("path") }
func (a *app) agentCommand() *cobra.Command          { return notYet("agent") }
func (a *app) joinCommand() *cobra.Command           { return notYet("join") }

func notYet(name string) *cobra.Command {
	return &cobra.Command{Use: name, Hidden: true, RunE: func(*cobra.Command, []string) error {
		return usagef("%s is not in this build", name)
	}}
}
