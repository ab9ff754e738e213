package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/lab"
	"github.com/godwit-project/godwit/lab/probe"
)

func (a *app) labProbeCommand(name *string) *cobra.Command {
	var (
		options probe.Options
		from    string
		output  format
	)
	cmd := &cobra.Command{
		Use:   "probe ADDRESS:PORT",
		Short: "Hold a connection, ask every millisecond, report the gaps",
		Long: `Hold one TCP connection to a service from a node of the lab, ask every millisecond
and report how long the answers stayed away. Interrupting it ends it in good order.
The exit code is 0 when every request was answered, once and in order.`,
		Example: `  godwit lab probe 203.0.113.10:7000 --duration 30s
  godwit lab probe 203.0.113.10:7000 --duration 30s -o json | jq .longestGapMs`,
		Args: arguments(1, 1, "ADDRESS:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			up, err := lab.Open(*name)
			if err != nil {
				return err
			}
			conn, err := up.Dial(cmd.Context(), from, "tcp", args[0])
			if err != nil {
				return err
			}
			if output == formatText {
				options.Progress = func(so probe.Report) {
					a.sayf("  %6.0f s   %d asked, %d answered, longest gap %s\n", so.Duration/1000, so.Sent, so.Answered, milliseconds(so.LongestGapMs))
				}
			}
			report := probe.Run(cmd.Context(), conn, options)
			if output != formatText {
				err = a.printView(output, report)
			} else {
				a.printProbe(report)
			}
			if err == nil && !report.Clean() {
				err = errors.New("the probe saw losses: " + probeLosses(report))
			}
			return err
		},
	}
	cmd.Flags().DurationVar(&options.Duration, "duration", 0, "how long to ask (default: until interrupted)")
	cmd.Flags().DurationVar(&options.Interval, "interval", time.Millisecond, "between two requests")
	cmd.Flags().StringVar(&from, "from", "client", "the node to ask from")
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (a *app) printProbe(report probe.Report) {
	a.printf("%d requests, %d answered in %s\n", report.Sent, report.Answered, milliseconds(report.Duration))
	a.printf("  longest gap  %s (the probe itself was late by %s)\n", milliseconds(report.LongestGapMs), milliseconds(report.LongestGapLateMs))
	a.printf("  round trip   median %s, 99%% within %s, slowest %s\n", milliseconds(report.RTTMedianMs), milliseconds(report.RTT99Ms), milliseconds(report.RTTMaxMs))
	for _, gap := range report.Gaps {
		a.printf("  gap          %s at %s\n", milliseconds(gap.Ms), gap.At.Local().Format("15:04:05.000"))
	}
}

func probeLosses(report probe.Report) string {
	return fmt.Sprintf("%d of %d requests unanswered, %d out of order, %d miscounted, %d malformed, %d writes forgotten, %d resets %s",
		report.Sent-report.Answered, report.Sent, report.OutOfOrder, report.Miscounted, report.Malformed, report.AckedWentBack, report.Resets, report.Error)
}
