package main

import (
	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
)

func (a *app) migrationCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "migration",
		Short: "Continue, abort or watch a migration",
		Long: `Continue, abort or watch a migration that is under way.

'godwit get migrations' lists them.`,
	}, a.migrationContinueCommand(), a.migrationAbortCommand(), a.migrationWatchCommand())
}

func (a *app) migrationContinueCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "continue NAME",
		Short:   "Let a prepared migration go on, and watch it",
		Example: `  godwit migration continue shop-1`,
		Args:    arguments(1, 1, "the NAME of the migration"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			m, err := client.ContinueMigration(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.follow(cmd.Context(), client, m, false, output)
		},
	}
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (a *app) migrationAbortCommand() *cobra.Command {
	var (
		output format
		reason string
	)
	cmd := &cobra.Command{
		Use:   "abort NAME",
		Short: "Put everything back, as long as the migration is not committed",
		Long: `Put everything back, as long as the migration is not committed. The service runs
on where it was. The command returns when nothing of the migration is left.`,
		Example: `  godwit migration abort shop-1 --reason "maintenance was put off"`,
		Args:    arguments(1, 1, "the NAME of the migration"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if _, err := client.AbortMigration(cmd.Context(), args[0], reason); err != nil {
				return err
			}
			last, err := client.FollowMigration(cmd.Context(), args[0], api.Follow{Patience: controllerPatience})
			if err != nil {
				return detached(cmd.Context(), args[0], err)
			}
			if _, completed := api.Finished(last); completed {
				return &exitError{code: exitFailure, message: "migration " + args[0] + " had completed before it could be aborted"}
			}
			if output != formatText {
				return a.printView(output, api.ViewMigration(last))
			}
			a.printf("migration %s aborted: service %s runs on at %s\n", args[0], last.GetService(), last.GetSource())
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who look at it later")
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (a *app) migrationWatchCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "watch NAME",
		Short:   "Watch a migration to its end",
		Example: `  godwit migration watch shop-1`,
		Args:    arguments(1, 1, "the NAME of the migration"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			objects, err := client.Get(cmd.Context(), "migration", args[0])
			if err != nil {
				return err
			}
			for _, object := range objects {
				return a.follow(cmd.Context(), client, object.GetMigration(), false, output)
			}
			return usagef("there is no migration %q", args[0])
		},
	}
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}
