package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// volumeChange is what the arguments and flags of a command say that changes a volume.
type volumeChange struct {
	name    string
	size    int64
	file    string
	restart bool
	timeout time.Duration
	output  format
}

// restartText is what both commands have in common.
const restartText = `
A volume that stands alone, and that no service uses, is changed at once.

A service is restarted for that, where it is: QEMU cannot be told of it while it
runs. Its server is ended as by pulling the plug, so shut down what runs in it first,
and say --restart. A standing replica is ended before, and made anew afterwards.`

func (c *volumeChange) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.restart, "restart", false, "yes, end the server of the service and start it again")
	cmd.Flags().DurationVar(&c.timeout, "timeout", 10*time.Minute, "how long to wait until it runs again")
	outputFlag(cmd, &c.output, formatJSON, formatYAML)
}

func (a *app) volumeResizeCommand() *cobra.Command {
	var c volumeChange
	cmd := &cobra.Command{
		Use:   "resize SERVICE/VOLUME|VOLUME SIZE [--restart]",
		Short: "Make a volume larger",
		Long: `Make a volume larger; smaller it cannot become. What is added reads as
zeroes: partitions and file systems in it are for the guest to grow.
` + restartText,
		Example: `  godwit volume resize shop/data 20GiB --restart
  godwit volume resize archive 20GiB`,
		Args: arguments(2, 2, "SERVICE/VOLUME, or VOLUME, and SIZE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := api.ParseSize(args[1])
			if err != nil || size <= 0 {
				return usagef("size %q: want a number with KiB, MiB, GiB or TiB, as 20GiB", args[1])
			}
			c.name, c.size = args[0], size
			return a.changeVolume(cmd.Context(), c)
		},
	}
	c.add(cmd)
	return cmd
}

func (a *app) volumeImportCommand() *cobra.Command {
	var c volumeChange
	cmd := &cobra.Command{
		Use:   "import FILE SERVICE/VOLUME|VOLUME [--restart]",
		Short: "Replace what a volume holds with an image",
		Long: `Replace what a volume holds with an image, raw or qcow2, a file on this
machine. WHAT IT HELD IS GONE: 'godwit volume export' keeps a copy, if there is to be one.
A volume that is larger than the image reads as zeroes beyond it.

A new service gets its content by 'image:' in its manifest, a new volume that stands
alone by 'godwit volume create --image'.
` + restartText,
		Example: `  godwit volume export shop/data --to before.qcow2
  godwit volume import data.qcow2 shop/data --restart
  godwit volume import old.raw archive`,
		Args: arguments(2, 2, "FILE and SERVICE/VOLUME, or VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.file, c.name = args[0], args[1]
			if _, err := os.Stat(c.file); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no file %s", c.file)
			}
			return a.changeVolume(cmd.Context(), c)
		},
	}
	c.add(cmd)
	return cmd
}

func mustRestart(service string) error {
	return usagef("service %s has to be restarted for that: shut down what runs in it, and say --restart", service)
}

// user finds the service that uses a volume that stands alone, and what it calls it; no service if none does.
func user(ctx context.Context, client *api.Client, name string) (service, volume string, err error) {
	found, err := client.Volume(ctx, name)
	switch {
	case api.NotFound(err):
		return "", "", usagef("there is no volume %s that stands alone; of a service, want one volume: %s/VOLUME", name, name)
	case err != nil || found.GetService() == "":
		return "", name, err
	}
	using, err := client.Service(ctx, found.GetService())
	if err != nil {
		return "", "", err
	}
	for _, v := range using.GetSpec().GetVolumes() {
		if v.GetVolume() == name {
			return found.GetService(), v.GetName(), nil
		}
	}
	return found.GetService(), name, nil
}

// changedAlone waits until a volume that stands alone is changed, and says so.
func (a *app) changedAlone(ctx context.Context, client *api.Client, c volumeChange, unchanged bool) error {
	volume, err := a.waitVolume(ctx, client, c.name, c.timeout)
	if err != nil {
		return err
	}
	if c.output != formatText {
		return a.printView(c.output, api.View(&godwitv1.Object{Kind: &godwitv1.Object_Volume{Volume: volume}}))
	}
	what := "is changed"
	if unchanged {
		what = "has that size already"
	}
	a.printf("volume %s %s: %s on host %s of site %s\n", c.name, what, api.FormatSize(volume.GetSize()), volume.GetHost(), volume.GetSite())
	return nil
}

func (a *app) changeVolume(ctx context.Context, c volumeChange) error {
	service, volume, err := volumeNamed(c.name)
	switch {
	case err != nil:
		return err
	case volume != "" && !c.restart:
		return mustRestart(service)
	}
	client, err := a.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	if volume == "" {
		if service, volume, err = user(ctx, client, service); err != nil {
			return err
		}
	}
	if service != "" && !c.restart {
		return mustRestart(service)
	}
	request := &godwitv1.ChangeVolumeRequest{Service: service, Volume: volume, Size: c.size}
	if c.file != "" {
		if request.Image, err = a.uploadImage(ctx, client, c.file); err != nil {
			return err
		}
	}
	unchanged, err := client.ChangeVolume(ctx, request)
	if err != nil {
		return err
	}
	if service == "" {
		return a.changedAlone(ctx, client, c, unchanged)
	}
	result := a.resultTo(c.output)
	if unchanged {
		fmt.Fprintf(result, "volume %s/%s has that size already\n", service, volume)
	}
	object, err := a.waitRunning(ctx, client, service, c.timeout)
	if err != nil {
		return err
	}
	if !unchanged {
		status := object.GetStatus()
		fmt.Fprintf(result, "volume %s/%s is changed, service %s at %s on %s\n", service, volume, status.GetPhase(), status.GetSite(), status.GetHost())
	}
	if c.output == formatText {
		return nil
	}
	return a.printView(c.output, api.View(&godwitv1.Object{Kind: &godwitv1.Object_Service{Service: object}}))
}
