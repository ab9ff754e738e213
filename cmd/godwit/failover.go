package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// failover is what the flags of the command say.
type failover struct {
	service, to string
	snapshot    string
	force, wait bool
	timeout     time.Duration
	output      format
}

func (a *app) failoverCommand() *cobra.Command {
	var flags failover
	cmd := &cobra.Command{
		Use:   "failover SERVICE [--to SITE]",
		Short: "Run a service from its replica, because its site is lost",
		Long: `Run a service from the standing replica of its volumes ('storage' in its manifest),
because the site where it ran is lost. It boots there from the last consistent point
of all of its volumes together, and its addresses lead there.

That the old site is dead is your word: Godwit cannot tell a dead site from one that
is only cut off, and clients inside that may still be served. So it is refused while
the host there answers: 'godwit migrate' then moves the service without any loss.
--force does it all the same; the old one is stopped first then, if it lets itself.

What is lost is what the mode did not promise: in sync mode no acknowledged write, in
flush mode none that was flushed, in async mode what was not shipped yet; and in any
mode what was acknowledged after the link had broken. The command says how old the
point is. Nothing of that is deleted: when the old host is back, what runs there is
ended, its volumes become the replica of the new ones, and what they held is kept
there for a week, as the snapshot before-failover-EPOCH. 'godwit get volumes' shows
how much of it was never replicated.

A service that has external disks only needs no replica: say where it is to run. Two
hosts that write to one disk ruin it, and a host that is out of reach may still do so:
take its power, or its way to the disks, before you say --force.

When the controller goes away meanwhile, it is asked again until it is back: a failover
that it had decided is not decided twice, and is the answer. It decides nothing in the
first seconds of its life, when it does not know yet who is there.`,
		Example: `  godwit failover shop
  godwit failover shop --to east -o json
  godwit get volumes                   what the old site has still to do
  godwit migrate shop --to west        and home again, when it is back`,
		Args: arguments(1, 1, "the SERVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags.service = args[0]
			return a.runFailover(cmd.Context(), flags)
		},
	}
	cmd.Flags().StringVar(&flags.to, "to", "", "the site (default: where the replica is)")
	cmd.Flags().BoolVar(&flags.force, "force", false, "also when the host where the service runs answers")
	cmd.Flags().BoolVar(&flags.wait, "wait", true, "return when the service runs")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", 5*time.Minute, "how long to wait")
	outputFlag(cmd, &flags.output, formatJSON, formatYAML)
	return cmd
}

func (a *app) runFailover(ctx context.Context, flags failover) error {
	client, err := a.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	request := &godwitv1.FailoverRequest{Service: flags.service, ToSite: flags.to, Force: flags.force, Snapshot: flags.snapshot, Request: rand.Text()}
	f, err := client.FailoverThrough(ctx, request, api.Follow{
		Patience: controllerPatience,
		Lost:     func(err error) { a.sayf("%v; asking again for %v\n", err, controllerPatience) },
		Back:     func() { a.sayf("the controller answers again\n") },
	})
	if err != nil {
		return undecided(ctx, flags.service, err)
	}
	text := flags.output == formatText
	if text {
		if f.GetSnapshot() != "" {
			a.printf("service %s goes back to snapshot %s\n", flags.service, f.GetSnapshot())
		}
		a.printf("service %s is failed over from %s to %s, epoch %d\n", flags.service, f.GetFromSite(), f.GetToSite(), f.GetEpoch())
		if f.GetMode() == "" {
			a.printf("its external disks are as its host left them\n")
		} else {
			a.printf("its volumes are as they were at %s (point %d, mode %s)\n", pointText(f), f.GetPoint(), f.GetMode())
		}
	}
	if flags.wait {
		service, err := a.waitRunning(ctx, client, flags.service, flags.timeout)
		if err != nil {
			return err
		}
		if text {
			status := service.GetStatus()
			a.printf("service %s %s at %s on %s\n", flags.service, a.paint(a.out, phaseColour(status.GetPhase()), status.GetPhase()), status.GetSite(), status.GetHost())
		}
	}
	if text {
		return nil
	}
	return a.printView(flags.output, api.ViewFailover(flags.service, f))
}

// undecided is the error of a failover of which it is not known whether it was decided; any other stays as it is.
func undecided(ctx context.Context, service string, err error) error {
	const look = "'godwit get service %s -o yaml' shows under failover whether it was decided; if so, it is carried out without anybody's help, and if not, nothing has changed"
	switch {
	case ctx.Err() != nil:
		return &exitError{exitInterrupted, "no longer asking for the failover of service " + service, fmt.Sprintf(look, service)}
	case api.Unreachable(err):
		return &hintedError{fmt.Errorf("lost sight of the failover of service %s: %w", service, err), fmt.Sprintf(look, service)}
	}
	return err
}

// pointText is when the primary was where its replica is, and how long before the failover that was.
func pointText(f *godwitv1.Failover) string {
	if f.GetPointTime() == nil {
		return "a point of unknown time"
	}
	at := f.GetPointTime().AsTime()
	before := f.GetAt().AsTime().Sub(at).Round(time.Millisecond)
	return at.UTC().Format(time.RFC3339Nano) + ", " + before.String() + " before"
}
