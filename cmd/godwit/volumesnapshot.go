package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

func (a *app) volumeSnapshotCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "snapshot",
		Short: "Named consistent points of all volumes of a service",
		Long: `A snapshot is one instant of all volumes of a service together, as a power failure would
have left them. It is kept at their replica, so the service needs one: put
'storage: {replicateTo: SITE}' into its manifest and apply that. It costs what is
overwritten from then on, and goes with the replica: when the service is migrated, or
its replication ends.`,
	}, a.snapshotCreateCommand(), a.snapshotListCommand(), a.snapshotServeCommand(), a.snapshotRestoreCommand(), a.snapshotDeleteCommand())
}

func (a *app) snapshotCreateCommand() *cobra.Command {
	keep := 24 * time.Hour
	cmd := &cobra.Command{
		Use:     "create SERVICE NAME",
		Short:   "Name this moment and keep it",
		Long:    `Name this moment of all volumes of a service, and keep it at their replica for a while.`,
		Example: `  godwit volume snapshot create shop before-upgrade --keep 48h`,
		Args:    arguments(2, 2, "SERVICE and NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keep < time.Second {
				return usagef("--keep %v: want at least 1s", keep)
			}
			task := &godwitv1.VolumeTask{
				Service: args[0], Verb: godwitv1.VolumeVerb_VOLUME_VERB_SNAPSHOT, Snapshot: args[1], KeepSeconds: int64(keep / time.Second),
			}
			if _, err := a.volumeTask(cmd.Context(), task, ""); err != nil {
				return err
			}
			a.printf("snapshot %s of %s is kept for %v\n", args[1], args[0], keep)
			return nil
		},
	}
	cmd.Flags().DurationVar(&keep, "keep", keep, "how long it is kept")
	return cmd
}

func (a *app) snapshotListCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "list SERVICE",
		Short:   "List the snapshots of a service, oldest first",
		Example: `  godwit volume snapshot list shop -o json`,
		Args:    arguments(1, 1, "SERVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			task := &godwitv1.VolumeTask{Service: args[0], Verb: godwitv1.VolumeVerb_VOLUME_VERB_LIST_SNAPSHOTS}
			result, err := a.volumeTask(cmd.Context(), task, "")
			if err != nil {
				return err
			}
			if output != formatText {
				return a.printView(output, api.ViewVolumeSnapshots(args[0], result))
			}
			if len(result.GetSnapshots()) == 0 {
				a.sayf("there are no snapshots of %s\n", args[0])
				return nil
			}
			rows := &table{coloured: -1}
			rows.add("NAME", "POINT", "AGE", "UNTIL", "SITE", "HOST")
			for _, s := range result.GetSnapshots() {
				until := "for ever"
				if s.GetUntil() != nil {
					until = s.GetUntil().AsTime().Format(time.RFC3339)
				}
				rows.add(s.GetName(), number(s.GetPoint()), a.age(s.GetTime()), until, result.GetSite(), result.GetHost())
			}
			return a.printTable(a.out, rows)
		},
	}
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (a *app) snapshotRestoreCommand() *cobra.Command {
	flags := failover{wait: true, timeout: 5 * time.Minute}
	cmd := &cobra.Command{
		Use:   "restore SERVICE NAME",
		Short: "Go back to a snapshot, and run from it",
		Long: `Take all volumes of a service back to a snapshot, and run the service from them. The
snapshot is at the replica, so that is where the service boots: it is a failover to an
older point. The server that runs is ended first, without being asked to shut down.

Nothing is deleted: what the volumes held is kept where the service ran until now, for
a week, as the snapshot before-failover-EPOCH, and restoring that one undoes this. The
other snapshots are given up. 'godwit migrate' takes the service home again; it ends
the replication, and with it that snapshot too.`,
		Example: `  godwit volume snapshot list shop
  godwit volume snapshot restore shop before-upgrade
  godwit volume snapshot restore shop before-failover-12     undo it`,
		Args: arguments(2, 2, "SERVICE and NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags.service, flags.snapshot = args[0], args[1]
			return a.runFailover(cmd.Context(), flags)
		},
	}
	cmd.Flags().BoolVar(&flags.wait, "wait", flags.wait, "return when the service runs")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", flags.timeout, "how long to wait")
	outputFlag(cmd, &flags.output, formatJSON, formatYAML)
	return cmd
}

func (a *app) snapshotDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete SERVICE NAME",
		Short:   "Give a snapshot up before its time",
		Example: `  godwit volume snapshot delete shop before-upgrade`,
		Args:    arguments(2, 2, "SERVICE and NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			task := &godwitv1.VolumeTask{Service: args[0], Verb: godwitv1.VolumeVerb_VOLUME_VERB_DELETE_SNAPSHOT, Snapshot: args[1]}
			if _, err := a.volumeTask(cmd.Context(), task, ""); err != nil {
				return err
			}
			a.printf("snapshot %s of %s deleted\n", args[1], args[0])
			return nil
		},
	}
}

// taskBar draws how far a task is, on terminals only.
type taskBar struct {
	app     *app
	doing   string
	started time.Time
	drawn   time.Time
	open    bool
}

func (b *taskBar) show(done, total int64) {
	width, now := b.app.width(b.app.err), b.app.now()
	if width == 0 || done < total && now.Sub(b.drawn) < redrawEvery {
		return
	}
	b.drawn, b.open = now, true
	rate := float64(done) / max(now.Sub(b.started).Seconds(), 0.001)
	b.app.sayf("\r\x1b[K%s", cut(b.doing+" "+bar(done, total, 24)+" "+api.FormatSize(done)+" of "+api.FormatSize(total)+
		"   "+api.FormatSize(int64(rate))+"/s   "+remaining(float64(total-done), rate), width))
}

// end leaves the bar as it is and goes to the next line.
func (b *taskBar) end() {
	if b.open {
		b.app.sayf("\n")
	}
}
