package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// volumeExport is what the flags of the command say.
type volumeExport struct {
	name            string // as it was given
	service, volume string
	inPlace         bool
	to, snapshot    string
	running         bool
	output          format
}

func (a *app) volumeExportCommand() *cobra.Command {
	var flags volumeExport
	cmd := &cobra.Command{
		Use:   "export SERVICE[/VOLUME]|VOLUME --to FILE",
		Short: "Copy a disk into a file here, or say where it lies",
		Long: `Copy a disk of a service into a file on this machine: raw, or qcow2 if the name of FILE
ends so (that takes qemu-img, and room for the raw disk besides). Holes stay holes.

The service may run: the copy is one moment of all of its volumes, as a power failure
would have left it, or what they were at a --snapshot. For that it needs a replica
('storage' in its manifest), which is where the copy is read. Without a replica,
--running copies the disk block by block while it changes: such a copy is no moment of
the disk, and a file system on it has to be repaired, if that is possible at all.

A volume that stands alone, and that no service uses, is copied as it is.

With --in-place nothing is copied: site, host and path are told. The disks are plain raw
images that QEMU, qemu-img and losetup read without Godwit, also when Godwit is gone.`,
		Example: `  godwit volume export shop/data --to data.qcow2
  godwit volume export shop/data --to before.raw --snapshot before-upgrade
  godwit volume export shop --in-place -o json`,
		Args: arguments(1, 1, "SERVICE, SERVICE/VOLUME or VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			flags.name = args[0]
			if flags.service, flags.volume, err = volumeNamed(args[0]); err != nil {
				return err
			}
			switch {
			case flags.inPlace == (flags.to != ""):
				return usagef("want either --to FILE, to copy the disk, or --in-place, to be told where it lies")
			case flags.inPlace:
				return a.locateVolumes(cmd.Context(), flags)
			case flags.running && flags.snapshot != "":
				return usagef("want --running or --snapshot, not both")
			}
			return a.exportVolume(cmd.Context(), flags)
		},
	}
	cmd.Flags().BoolVar(&flags.inPlace, "in-place", false, "say where the disks lie, and copy nothing")
	cmd.Flags().StringVar(&flags.to, "to", "", "the file to make: raw, or qcow2 by its suffix")
	cmd.Flags().StringVar(&flags.snapshot, "snapshot", "", "copy what the disk was at this snapshot")
	cmd.Flags().BoolVar(&flags.running, "running", false, "copy a disk without a replica while it changes")
	outputFlag(cmd, &flags.output, formatJSON, formatYAML)
	return cmd
}

func (a *app) locateVolumes(ctx context.Context, flags volumeExport) error {
	task := &godwitv1.VolumeTask{Service: flags.service, Volume: flags.volume, Verb: godwitv1.VolumeVerb_VOLUME_VERB_LOCATE}
	result, err := a.volumeTask(ctx, task, "")
	if err != nil {
		return err
	}
	if flags.output != formatText {
		return a.printView(flags.output, api.ViewVolumeFiles(flags.service, result))
	}
	for _, f := range result.GetFiles() {
		a.printf("%s: raw, %s, on host %s of site %s: %s\n", f.GetVolume(), api.FormatSize(f.GetSize()), result.GetHost(), result.GetSite(), f.GetPath())
	}
	return nil
}

func (a *app) exportVolume(ctx context.Context, flags volumeExport) (err error) {
	if _, err := os.Lstat(flags.to); !errors.Is(err, fs.ErrNotExist) {
		return &hintedError{fmt.Errorf("%s is there already", flags.to), "remove it, or take another name"}
	}
	qcow2 := strings.HasSuffix(flags.to, ".qcow2")
	if _, err := exec.LookPath("qemu-img"); qcow2 && err != nil {
		return &hintedError{errors.New("qcow2 takes qemu-img, which is not installed here"), "apt-get install qemu-utils, or export to a name that ends in .raw"}
	}
	part := flags.to + ".part"
	file, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &hintedError{fmt.Errorf("%s is there: another export is under way, or was killed", part), "remove it"}
	}
	if err != nil {
		return err
	}
	defer func() {
		if gone := os.Remove(part); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	result, err := a.receiveVolume(ctx, flags, file)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	kind := "raw"
	if qcow2 {
		kind = "qcow2"
		if out, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", part, flags.to).CombinedOutput(); err != nil {
			return errors.Join(fmt.Errorf("make %s: %w: %s", flags.to, err, out), os.RemoveAll(flags.to))
		}
	} else if err := os.Rename(part, flags.to); err != nil {
		return err
	}
	if flags.output != formatText {
		return a.printView(flags.output, api.ViewVolumeExport(flags.service, flags.volume, flags.to, kind, flags.snapshot, result))
	}
	a.printf("%s is in %s: %s, %s, from host %s of site %s\n", flags.name, flags.to, kind, api.FormatSize(result.GetSize()), result.GetHost(), result.GetSite())
	if !result.GetConsistent() {
		a.sayf("it was copied while it changed, and is no moment of the disk: repair its file system before it is used\n")
	}
	return nil
}

// receiveVolume fills the file, and makes it durable.
func (a *app) receiveVolume(ctx context.Context, flags volumeExport, file *os.File) (*godwitv1.VolumeResult, error) {
	client, err := a.dial()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if flags.volume == "" {
		if flags.service, flags.volume, err = user(ctx, client, flags.service); err != nil {
			return nil, err
		}
	}
	bar := &taskBar{app: a, doing: "export", started: a.now()}
	defer bar.end()
	sparse := &sparseFile{file: file}
	task := &godwitv1.VolumeTask{Service: flags.service, Volume: flags.volume, Snapshot: flags.snapshot, Running: flags.running}
	result, err := client.ExportVolume(ctx, task, sparse, bar.show)
	if err != nil {
		return nil, err
	}
	return result, errors.Join(file.Truncate(sparse.at), file.Sync())
}

// sparseFile is written from its beginning to its end, and leaves out blocks of zeroes.
type sparseFile struct {
	file io.WriterAt
	at   int64
}

func (f *sparseFile) Write(p []byte) (int, error) {
	const block = 4096
	for done := 0; done < len(p); {
		n := min(len(p)-done, block-int(f.at%block))
		if b := p[done : done+n]; !zeroes(b) {
			if _, err := f.file.WriteAt(b, f.at); err != nil {
				return done, err
			}
		}
		done += n
		f.at += int64(n)
	}
	return len(p), nil
}

func zeroes(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
