package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// volumeNamed reads SERVICE/VOLUME, or SERVICE for all of its volumes.
func volumeNamed(text string) (service, volume string, err error) {
	service, volume, both := strings.Cut(text, "/")
	if !both {
		// What 'godwit get volumes' prints is taken as well.
		service, volume, both = strings.Cut(text, ".")
	}
	if !api.IsName(service) || (both && !api.IsName(volume)) {
		return "", "", usagef("%q is no volume: want SERVICE/VOLUME, or SERVICE for all of its volumes", text)
	}
	return service, volume, nil
}

// volumeTask dials the controller and runs a task, drawing a bar on a terminal.
func (a *app) volumeTask(ctx context.Context, task *godwitv1.VolumeTask, doing string) (*godwitv1.VolumeResult, error) {
	client, err := a.dial()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	bar := &taskBar{app: a, doing: doing, started: a.now()}
	result, err := client.RunVolumeTask(ctx, task, bar.show)
	bar.end()
	return result, err
}

func (a *app) volumeVerifyCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "verify SERVICE[/VOLUME]",
		Short: "Compare the volumes of a service with their replica, while in use",
		Long: `Compare the volumes of a service with the replica that its storage field asks for, by
hashes, while they are in use. What is written meanwhile is left out.

Ranges that differ are named and repaired at once, from the primary. The exit code is
1 when there were any, 0 when both ends are equal: so a second run after a repair
should end with 0. A difference means that a disk, or memory, at one of the sites is
not to be trusted.`,
		Example: `  godwit volume verify shop
  godwit volume verify shop/data -o json`,
		Args: arguments(1, 1, "SERVICE or SERVICE/VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, volume, err := volumeNamed(args[0])
			if err != nil {
				return err
			}
			task := &godwitv1.VolumeTask{Service: service, Volume: volume, Verb: godwitv1.VolumeVerb_VOLUME_VERB_VERIFY}
			result, err := a.volumeTask(cmd.Context(), task, "compare")
			if err != nil {
				return err
			}
			return a.printVerification(output, service, result)
		},
	}
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (a *app) printVerification(output format, service string, r *godwitv1.VolumeResult) error {
	if output != formatText {
		if err := a.printView(output, api.ViewVolumeVerification(service, r)); err != nil {
			return err
		}
	} else {
		for _, d := range r.GetDifferences() {
			a.printf("%s differs from its replica at %d, %s; repaired\n", d.GetVolume(), d.GetOffset(), api.FormatSize(d.GetLength()))
		}
	}
	if n := r.GetDiffering(); n > 0 {
		return &hintedError{
			fmt.Errorf("%d ranges differed, of %s that was compared", n, api.FormatSize(r.GetCompared())),
			"they are repaired: verify again, and if that finds more, look after the disks and the memory of both hosts",
		}
	}
	if output == formatText {
		a.printf("%s and its replica are equal: %s compared\n", service, api.FormatSize(r.GetCompared()))
	}
	return nil
}

func (a *app) volumeExportCommand() *cobra.Command {
	var (
		output  format
		inPlace bool
	)
	cmd := &cobra.Command{
		Use:   "export SERVICE[/VOLUME] --in-place",
		Short: "Say where the raw disks of a service lie",
		Long: `Say where the raw disks of a service lie: site, host and path. They are plain raw images
that QEMU, qemu-img and losetup read without Godwit, also when Godwit is gone.

While the service runs its disk changes under whoever reads it: copy it when the
service has been moved or shut down, or take what its replica has.`,
		Example: `  godwit volume export shop/data --in-place
  godwit volume export shop --in-place -o json`,
		Args: arguments(1, 1, "SERVICE or SERVICE/VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, volume, err := volumeNamed(args[0])
			if err != nil {
				return err
			}
			if !inPlace {
				return usagef("want --in-place: the raw disk is read where it lies")
			}
			task := &godwitv1.VolumeTask{Service: service, Volume: volume, Verb: godwitv1.VolumeVerb_VOLUME_VERB_LOCATE}
			result, err := a.volumeTask(cmd.Context(), task, "")
			if err != nil {
				return err
			}
			if output != formatText {
				return a.printView(output, api.ViewVolumeFiles(service, result))
			}
			for _, f := range result.GetFiles() {
				a.printf("%s: raw, %s, on host %s of site %s: %s\n", f.GetVolume(), api.FormatSize(f.GetSize()), result.GetHost(), result.GetSite(), f.GetPath())
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&inPlace, "in-place", false, "say where the disks lie, and copy nothing")
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}
