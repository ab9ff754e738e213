package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// volumeCreate is what the arguments and flags of the command say.
type volumeCreate struct {
	name, size, site, host, image string
	devices                       []string
	timeout                       time.Duration
	output                        format
}

func (a *app) volumeCreateCommand() *cobra.Command {
	var flags volumeCreate
	cmd := &cobra.Command{
		Use:   "create NAME --size SIZE --site SITE",
		Short: "Make a volume that stands alone",
		Long: `Make a volume by itself, on a host of a site. A service takes it by its name, instead of
a size and an image, when it is started at that site:

  volumes:
  - {name: data, volume: NAME}

Then it goes where the service goes, replicated as the service's 'storage' says. When
the service is deleted it stays, where the service was, for another one; 'godwit
delete volume NAME' removes it. One service uses it at a time.

It reads as zeroes, or as the --image, a raw or qcow2 file on this machine.

With --device it lies on a block device of the host (a partition, a logical volume)
instead of in a file; SITE=PATH, which may be there for each site, says where that is
so. The device is there before, free, and at least as large. The volume is what the
device holds, unless there is an --image: then the device has to be empty. Godwit never
wipes one: when the volume is deleted, or has moved away, the device is let go and its
content stays.`,
		Example: `  godwit volume create archive --size 10GiB --site west
  godwit volume create archive --size 10GiB --host west-host --device /dev/vg0/archive
  godwit volume create archive --size 10GiB --site west --device west=/dev/sdb1 --device east=/dev/sdc
  godwit volume create archive --size 10GiB --host west-host --image old.qcow2
  godwit get volume archive
  godwit delete volume archive`,
		Args: arguments(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags.name = args[0]
			return a.createVolume(cmd.Context(), flags)
		},
	}
	cmd.Flags().StringVar(&flags.size, "size", "", "how large it is, as 10GiB")
	cmd.Flags().StringVar(&flags.site, "site", "", "the site; its first host with room is taken")
	cmd.Flags().StringVar(&flags.host, "host", "", "the host")
	cmd.Flags().StringVar(&flags.image, "image", "", "an image, raw or qcow2, that it starts with")
	cmd.Flags().StringArrayVar(&flags.devices, "device", nil, "the block device that it lies on, as PATH or SITE=PATH")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", 10*time.Minute, "how long to wait until it is ready")
	outputFlag(cmd, &flags.output, formatJSON, formatYAML)
	return cmd
}

func (a *app) createVolume(ctx context.Context, flags volumeCreate) error {
	size, err := api.ParseSize(flags.size)
	switch {
	case !api.IsName(flags.name):
		return usagef("%q is no name of a volume: want up to 40 of a-z, 0-9 and - with a letter or a digit at both ends", flags.name)
	case flags.size == "":
		return usagef("want the size of the volume: --size 10GiB")
	case err != nil || size <= 0:
		return usagef("--size %q: want a number with KiB, MiB, GiB or TiB, as 10GiB", flags.size)
	case flags.site == "" && flags.host == "":
		return usagef("want the site, or the host, where the volume is to be: --site SITE")
	}
	devices, err := devicesOf(flags.devices)
	if err != nil {
		return err
	}
	if _, err := os.Stat(flags.image); flags.image != "" && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no file %s", flags.image)
	}
	client, err := a.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	request := &godwitv1.CreateVolumeRequest{Name: flags.name, Size: size, Site: flags.site, Host: flags.host, Devices: devices}
	if flags.image != "" {
		if request.Image, err = a.uploadImage(ctx, client, flags.image); err != nil {
			return err
		}
	}
	outcome, err := client.CreateVolume(ctx, request)
	if err != nil {
		return err
	}
	volume, err := a.waitVolume(ctx, client, flags.name, flags.timeout)
	if err != nil {
		return err
	}
	if flags.output != formatText {
		return a.printView(flags.output, api.View(&godwitv1.Object{Kind: &godwitv1.Object_Volume{Volume: volume}}))
	}
	a.printf("volume %s %s: %s on host %s of site %s\n", flags.name, outcome, api.FormatSize(volume.GetSize()), volume.GetHost(), volume.GetSite())
	return nil
}

// uploadImage shows how far the file is, and returns the name that the controller has for it.
func (a *app) uploadImage(ctx context.Context, client *api.Client, file string) (blob string, err error) {
	bar := &taskBar{app: a, doing: "upload", started: a.now()}
	defer bar.end()
	return client.Upload(ctx, file, bar.show)
}

// devicesOf reads what --device says: a path for all sites that are not named, and for each of those one.
func devicesOf(flags []string) (map[string]string, error) {
	var all map[string]string
	for _, flag := range flags {
		site, path, named := strings.Cut(flag, "=")
		if !named || strings.HasPrefix(flag, "/") { // a path may have the sign, too
			site, path = "", flag
		}
		switch {
		case path != flag && !api.IsName(site):
			return nil, usagef("--device %q: want PATH or SITE=PATH", flag)
		case !api.IsDevicePath(path):
			return nil, usagef("--device %q: want the absolute path of a block device, without dots", flag)
		case all[site] != "":
			return nil, usagef("--device %q: there is another one for the same site", flag)
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[site] = path
	}
	return all, nil
}

// waitVolume polls until a volume that stands alone is as it is to be.
func (a *app) waitVolume(ctx context.Context, client *api.Client, name string, timeout time.Duration) (*godwitv1.Volume, error) {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	last := "not there"
	for {
		volume, err := client.Volume(waiting, name)
		switch {
		case err != nil && waiting.Err() == nil && !api.Unreachable(err):
			return nil, err
		case err == nil && volume.GetPhase() == "ready":
			return volume, nil
		case err == nil && volume.GetPhase() == "failed":
			return nil, &hintedError{
				fmt.Errorf("volume %s: %s", name, volume.GetError()),
				fmt.Sprintf("try again, or 'godwit delete volume %s' removes it", name),
			}
		case err == nil:
			last = volume.GetPhase()
		}
		select {
		case <-waiting.Done():
		case <-time.After(pollEvery):
			continue
		}
		if ctx.Err() != nil {
			return nil, &exitError{exitInterrupted, fmt.Sprintf("no longer waiting; volume %s is being made all the same", name), "'godwit get volume " + name + "' shows how it goes"}
		}
		return nil, &hintedError{fmt.Errorf("volume %s is not ready after %v: it is %s", name, timeout, last), "'godwit get volume " + name + "' shows how it goes"}
	}
}
