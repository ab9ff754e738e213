package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// volumeNamed reads SERVICE/VOLUME, or one name: of a service, or of a volume that stands alone.
func volumeNamed(text string) (service, volume string, err error) {
	service, volume, both := strings.Cut(text, "/")
	if !both {
		// What 'godwit get volumes' prints is taken as well.
		service, volume, both = strings.Cut(text, ".")
	}
	if !api.IsName(service) || (both && !api.IsName(volume)) {
		return "", "", usagef("%q is no volume: want SERVICE/VOLUME, SERVICE for all of its volumes, or the name of a volume that stands alone", text)
	}
	return service, volume, nil
}

// meant finds out what one name is: a service's, for all of its volumes, or a volume's that stands alone; then service is empty.
func meant(ctx context.Context, client *api.Client, name, volume string) (service, one string, err error) {
	if volume != "" {
		return name, volume, nil
	}
	if _, err = client.Service(ctx, name); api.NotFound(err) {
		if _, err := client.Volume(ctx, name); err == nil {
			return "", name, nil
		}
	}
	return name, "", err
}

// volumeTask dials the controller and runs a task, drawing a bar on a terminal.
func (a *app) volumeTask(ctx context.Context, task *godwitv1.VolumeTask, doing string) (*godwitv1.VolumeResult, error) {
	client, err := a.dial()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if task.Service, task.Volume, err = meant(ctx, client, task.GetService(), task.GetVolume()); err != nil {
		return nil, err
	}
	bar := &taskBar{app: a, doing: doing, started: a.now()}
	result, err := client.RunVolumeTask(ctx, task, bar.show)
	bar.end()
	return result, err
}

func (a *app) volumeVerifyCommand() *cobra.Command {
	var (
		output format
		local  bool
	)
	cmd := &cobra.Command{
		Use:   "verify SERVICE[/VOLUME]|VOLUME",
		Short: "Verify volumes, while in use",
		Long: `Compare the volumes of a service with the replica that its storage field asks for, by
hashes, while they are in use. What is written meanwhile is left out.

Without a replica, or with --local, the disks are read, past the page cache, and
compared with their checksums. Blocks that do not match are named, and nothing is
repaired: a read of them fails, and writing them anew puts them right.

Ranges that differ are named and repaired at once, from the primary. The exit code is
1 when there were any, 0 when both ends are equal: so a second run after a repair
should end with 0. A difference means that a disk, or memory, at one of the sites is
not to be trusted.`,
		Example: `  godwit volume verify shop
  godwit volume verify shop --local
  godwit volume verify shop/data -o json`,
		Args: arguments(1, 1, "SERVICE, SERVICE/VOLUME or VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, volume, err := volumeNamed(args[0])
			if err != nil {
				return err
			}
			task := &godwitv1.VolumeTask{Service: service, Volume: volume, Verb: godwitv1.VolumeVerb_VOLUME_VERB_VERIFY, Local: local}
			result, err := a.volumeTask(cmd.Context(), task, "compare")
			if err != nil {
				return err
			}
			return a.printVerification(output, service, result)
		},
	}
	cmd.Flags().BoolVar(&local, "local", false, "compare the disks with their checksums, not with the replica")
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (a *app) printVerification(output format, service string, r *godwitv1.VolumeResult) error {
	if output != formatText {
		if err := a.printView(output, api.ViewVolumeVerification(service, r)); err != nil {
			return err
		}
	} else {
		what := "differs from its replica at %d, %s; repaired"
		if r.GetLocal() {
			what = "is bad at %d, %s"
		}
		for _, d := range r.GetDifferences() {
			a.printf("%s "+what+"\n", d.GetVolume(), d.GetOffset(), api.FormatSize(d.GetLength()))
		}
		if r.GetUnverified() > 0 {
			a.printf("%s have no checksums yet, and nothing can be said of them\n", api.FormatSize(r.GetUnverified()))
		}
	}
	if n := r.GetDiffering(); n > 0 && r.GetLocal() {
		return &hintedError{
			fmt.Errorf("%d ranges do not match their checksums, of %s that was read", n, api.FormatSize(r.GetCompared())),
			"look after the disk of the host; with a replica, 'godwit failover' or 'godwit volume export --snapshot' gets at its copy",
		}
	}
	if n := r.GetDiffering(); n > 0 {
		return &hintedError{
			fmt.Errorf("%d ranges differed, of %s that was compared", n, api.FormatSize(r.GetCompared())),
			"they are repaired: verify again, and if that finds more, look after the disks and the memory of both hosts",
		}
	}
	if output == formatText && r.GetLocal() {
		a.printf("%s matches its checksums: %s read\n", service, api.FormatSize(r.GetCompared()))
	} else if output == formatText {
		a.printf("%s and its replica are equal: %s compared\n", service, api.FormatSize(r.GetCompared()))
	}
	return nil
}
