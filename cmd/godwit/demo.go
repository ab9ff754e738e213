package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/demo"
)

func (a *app) demoCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "demo",
		Short: "Play a scenario on a fresh lab, and report",
	}, a.demoPlannedCommand(), a.demoDVSCommand())
}

func (a *app) demoPlannedCommand() *cobra.Command {
	var (
		links   linkFlags
		options demo.Options
		output  format
	)
	cmd := &cobra.Command{
		Use:   "planned",
		Short: "Move a running service while a client asks every millisecond",
		Long: `Build a lab, start a virtual server there that writes to its memory and its disk,
connect a client that asks every millisecond, and move the server to the other
data center. Then report what the client saw, what it cost, and which way the
packets went; and check that no request, no answer and no acknowledged write was
lost. It needs root and takes a minute; the lab is gone afterwards.

The exit code is 0 when nothing was lost.`,
		Example: `  godwit demo planned
  godwit demo planned --rtt 50ms --bandwidth 1gbit
  godwit demo planned -o json | jq '{blackoutMs, clientLongestGapMs, writesLost}'`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := links.config(&options.Lab); err != nil {
				return err
			}
			if options.GuestDir == "" {
				binary, err := os.Executable()
				if err != nil {
					return fmt.Errorf("find the guest beside the binary: %w", err)
				}
				options.GuestDir = filepath.Join(filepath.Dir(binary), "guest")
			}
			view := a.newLiveView(a.err)
			options.Say = func(sentence string) { view.narrate(sentence) }
			options.Seen = func(m *godwitv1.Migration) { view.show(m) }
			report, err := demo.Planned(cmd.Context(), options)
			view.end()
			if report != nil {
				err = errors.Join(a.printDemo(output, report), err)
			}
			if errors.Is(err, demo.ErrNoGuest) {
				return &hintedError{err, "run 'make build' in the source tree, or name the guest's directory with --guest"}
			}
			return err
		},
	}
	links.add(cmd)
	cmd.Flags().BoolVar(&options.Keep, "keep", false, "leave the lab up at the end")
	cmd.Flags().StringVar(&options.GuestDir, "guest", "", "directory with vmlinuz and initrd.gz (default: guest, beside the binary)")
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (a *app) printDemo(output format, report *demo.Report) error {
	if output != formatText {
		return a.printView(output, report)
	}
	a.printf("%s", a.demoReport(report))
	return nil
}

// demoReport is the report for people.
func (a *app) demoReport(r *demo.Report) string {
	var out strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&out, "  %-16s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&out, "\nmigration %s\n", a.paint(a.out, phaseColour(r.Phase), r.Phase))
	line("client", "longest gap %s (%s of it the probe's own), %d requests, %d answered, %d resets",
		milliseconds(r.ClientLongestGapMs), milliseconds(r.ClientLongestGapLateMs), r.RequestsSent, r.RequestsAnswered, r.TCPResets)
	line("blackout", "%s", milliseconds(r.BlackoutMs))
	line("writes", "%d acknowledged, %d checked, %d lost", r.WritesAcknowledged, r.WritesChecked, r.WritesLost)
	line("sent", "%s over the WAN for %s of memory and %s of disk", api.FormatSize(r.WANBytes), api.FormatSize(r.MemoryBytes), api.FormatSize(r.DiskBytes))
	line("total", "%s, of it %s synchronous", milliseconds(r.TotalMs), milliseconds(r.SyncWindowMs))
	for _, phase := range r.Phases {
		if phase.Phase == r.Phase {
			continue // the end takes no time
		}
		line("  "+phase.Phase, "%s", phaseBar(phase.LengthMs, r.TotalMs))
	}
	for _, way := range []struct {
		name string
		path []string
	}{{"before", r.PathBefore}, {"during", r.PathDuring}, {"after", r.PathAfter}} {
		path := strings.Join(way.path, " → ")
		if path == "" {
			path = "not seen"
		}
		line("path "+way.name, "%s", path)
	}
	for _, fault := range r.Faults {
		line(a.paint(a.out, red, "FAULT"), "%s", fault)
	}
	if len(r.Faults) == 0 && r.Phase == "completed" {
		fmt.Fprintf(&out, "%s\n", a.paint(a.out, green, "nothing was lost"))
	}
	return out.String()
}
