package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// controllerPatience is how long a controller may stay away while a migration is watched.
const controllerPatience = 60 * time.Second

// migrate is what the flags of the command say.
type migrate struct {
	service, to string
	prepare     bool
	at          string
	dryRun      bool
	output      format
}

func (a *app) migrateCommand() *cobra.Command {
	var flags migrate
	cmd := &cobra.Command{
		Use:   "migrate SERVICE --to SITE",
		Short: "Move a running service to another site",
		Long: `Move a running service to another site, and watch it go.

Memory and disk are copied while the service runs (converging), every write is
mirrored (synchronizing), the service stops for some milliseconds (quiesced) and
goes on at the other site (committed); then the routes follow (optimizing). Until
it is committed, a migration that fails or is aborted leaves the service where it
was, running.

With --prepare the migration goes as far as it can without stopping the service,
and holds there until 'godwit migration continue'; with --at, until that time.

Interrupting this command does not interrupt the migration. The exit code is 0
when the migration has completed (or is ready, with --prepare).`,
		Example: `  godwit migrate shop --to east
  godwit migrate shop --to east --prepare && godwit migration continue shop-1
  godwit migrate shop --to east --at 2026-03-01T02:00:00Z
  godwit migrate shop --to east --at +10s
  godwit migrate shop --to east --dry-run
  godwit migrate shop --to east -o json | jq .blackoutMs`,
		Args: arguments(1, 1, "the SERVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags.service = args[0]
			return a.runMigrate(cmd.Context(), flags)
		},
	}
	cmd.Flags().StringVar(&flags.to, "to", "", "the site to move to")
	cmd.Flags().BoolVar(&flags.prepare, "prepare", false, "stop before the move, ready, and return")
	cmd.Flags().StringVar(&flags.at, "at", "", "be ready, and move at this time: RFC 3339, or +10s from now")
	cmd.Flags().BoolVar(&flags.dryRun, "dry-run", false, "only check, and say what would be done")
	outputFlag(cmd, &flags.output, formatJSON, formatYAML)
	return cmd
}

func (a *app) runMigrate(ctx context.Context, flags migrate) error {
	if flags.to == "" {
		return usagef("want the site to move to: --to SITE")
	}
	request := &godwitv1.MigrateRequest{Service: flags.service, ToSite: flags.to, Prepare: flags.prepare, DryRun: flags.dryRun}
	if flags.at != "" {
		at, err := parseAt(flags.at, a.now())
		if err != nil {
			return err
		}
		request.At = timestamppb.New(at)
	}
	client, err := a.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	m, err := client.Migrate(ctx, request)
	if err != nil {
		return err
	}
	if flags.dryRun {
		return a.printPlan(flags, m)
	}
	return a.follow(ctx, client, m, flags.prepare, flags.output)
}

// printPlan says what a dry run found.
func (a *app) printPlan(flags migrate, m *godwitv1.Migration) error {
	if flags.output != formatText {
		return a.printView(flags.output, api.ViewMigration(m))
	}
	a.printf("service %s can move from %s to %s\n", m.GetService(), place(m.GetSource(), m.GetSourceHost()), place(m.GetDestination(), m.GetDestinationHost()))
	for _, note := range m.GetNotes() {
		a.printf("  %s\n", note)
	}
	a.printf("nothing was done: this was a dry run\n")
	return nil
}

// follow shows a migration until it ends (or is ready, when that is enough) and turns its end into a result.
func (a *app) follow(ctx context.Context, client *api.Client, m *godwitv1.Migration, untilReady bool, output format) error {
	view := a.newLiveView(a.resultTo(output))
	view.show(m)
	last, err := client.FollowMigration(ctx, m.GetName(), api.Follow{
		Patience: controllerPatience,
		Seen: func(m *godwitv1.Migration) error {
			view.show(m)
			if ended, _ := api.Finished(m); untilReady && m.GetReady() && !ended {
				return api.ErrStop
			}
			return nil
		},
		Lost: func(err error) { view.sayf("%v; trying again for %v", err, controllerPatience) },
		Back: func() { view.sayf("the controller answers again") },
	})
	view.end()
	if err != nil {
		return detached(ctx, m.GetName(), err)
	}
	if output != formatText {
		if err := a.printView(output, api.ViewMigration(last)); err != nil {
			return err
		}
	}
	return a.conclude(last, output)
}

// conclude prints how a migration ended, and returns an error unless it went well.
func (a *app) conclude(m *godwitv1.Migration, output format) error {
	ended, completed := api.Finished(m)
	switch {
	case completed:
		if output == formatText {
			a.printf("%s", a.migrationReport(m))
		}
		return nil
	case !ended:
		a.sayf("migration %s is ready, and holds while the service runs on; 'godwit migration continue %s' moves it, 'godwit migration abort %s' gives up\n",
			m.GetName(), m.GetName(), m.GetName())
		return nil
	default:
		reason := m.GetReason()
		if reason == "" {
			reason = "no reason is on record"
		}
		return &hintedError{
			fmt.Errorf("migration %s was aborted: %s", m.GetName(), reason),
			fmt.Sprintf("the service is where it was, at %s; 'godwit get migration %s -o yaml' has the notes", m.GetSource(), m.GetName()),
		}
	}
}

// detached is the error of a migration that is no longer watched.
func detached(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return &exitError{
			exitInterrupted, fmt.Sprintf("no longer watching: the migration %s goes on", name),
			fmt.Sprintf("'godwit migration abort %s' gives it up, 'godwit get migration %s' shows it", name, name),
		}
	}
	if api.Unreachable(err) {
		return &hintedError{
			fmt.Errorf("lost sight of migration %s: %w", name, err),
			fmt.Sprintf("it goes on, or is put back, when the controller is there again; then 'godwit get migration %s' shows it", name),
		}
	}
	return err
}

// parseAt reads a time: RFC 3339, or +DURATION from now. It must not be past.
func parseAt(text string, now time.Time) (time.Time, error) {
	if after, ok := strings.CutPrefix(text, "+"); ok {
		length, err := time.ParseDuration(after)
		if err != nil || length < 0 {
			return time.Time{}, usagef("--at %q is no time: want RFC 3339 such as %s, or +10s", text, now.UTC().Truncate(time.Second).Format(time.RFC3339))
		}
		return now.Add(length), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usagef("--at %q is no time: want RFC 3339 such as %s, or +10s", text, now.UTC().Truncate(time.Second).Format(time.RFC3339))
	}
	if at.Before(now) {
		return time.Time{}, usagef("--at %s is past", text)
	}
	return at, nil
}

func place(site, host string) string {
	if host == "" {
		return site
	}
	return site + " (" + host + ")"
}
