package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/disk/vfs"
	"github.com/godwit-project/godwit/storage/nbd"
	"github.com/godwit-project/godwit/unixsocket"
)

func (a *app) volumeCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "volume",
		Short: "Disks, of services or by themselves, and single files as disks",
	}, a.volumeServeCommand(), a.volumeCreateCommand(), a.volumeVerifyCommand(), a.volumeExportCommand(), a.volumeImportCommand(), a.volumeResizeCommand(), a.volumeSnapshotCommand())
}

// volumeServe is what the flags of volume serve say.
type volumeServe struct {
	socket   string
	readOnly bool
	sums     bool
	logs     logFlags
}

func (a *app) volumeServeCommand() *cobra.Command {
	var o volumeServe
	cmd := &cobra.Command{
		Use:   "serve FILE --socket PATH",
		Short: "Serve one file over NBD, without a controller",
		Long: `Serve one raw file, or block device, over NBD on a unix socket: to QEMU, to the tools
of libnbd, or to measure. It needs no controller and no agent. It serves until it
is interrupted, to any number of clients, and removes the socket then.

What was answered is in the host's page cache, so that it survives when this program
is killed; what was flushed is on stable storage. With --checksums, FILE.sums
holds a checksum for each 4 KiB, and a read that does not match fails.

A full disk or a bad sector fails the request that met it. When the disk cannot be
flushed any more, it takes no writes until FILE.failed is removed.`,
		Example: `  truncate -s 10G disk.raw
  godwit volume serve disk.raw --socket /tmp/disk.sock &
  nbdinfo 'nbd+unix:///?socket=/tmp/disk.sock'
  qemu-system-x86_64 -drive 'file=nbd+unix:///?socket=/tmp/disk.sock,format=raw' …
  godwit volume serve image.raw --socket /tmp/image.sock --read-only`,
		Args: arguments(1, 1, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.socket == "" {
				return usagef("want the socket to serve on: --socket PATH")
			}
			logger, err := o.logs.logger(a.err)
			if err != nil {
				return err
			}
			return a.serveVolume(cmd.Context(), args[0], &o, logger)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.socket, "socket", "", "path of the unix socket to make")
	flags.BoolVar(&o.readOnly, "read-only", false, "refuse writes; others may read FILE meanwhile")
	flags.BoolVar(&o.sums, "checksums", false, "keep and verify checksums, in FILE.sums")
	o.logs.add(flags)
	return cmd
}

func (a *app) serveVolume(ctx context.Context, path string, o *volumeServe, logger *slog.Logger) (err error) {
	notify := func(e disk.Event) { logger.Warn(e.String()) }
	d, err := disk.Open(path, disk.Options{ReadOnly: o.readOnly, Checksums: o.sums, Notify: notify})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &hintedError{err, "make an empty one: truncate -s 10G " + path}
	case errors.Is(err, vfs.ErrLocked):
		return &hintedError{err, "another program serves it; with --read-only, several may"}
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := servable(d); err != nil {
		return err
	}
	if err := d.Failed(); err != nil {
		a.sayf("%s can only be read: %v\n", path, err)
	}
	ln, err := listenUnix(o.socket)
	if err != nil {
		return err
	}
	name := filepath.Base(path)
	server := nbd.Start(ln, d.Backend(), nbd.Options{Name: name, Description: path, ReadOnly: o.readOnly, Logger: logger})
	mode := "read and write"
	if o.readOnly {
		mode = "read only"
	}
	a.printf("serving %s (%s, %s) on %s\n", path, sizeText(d.Size()), mode, o.socket)
	a.printf("connect with nbd+unix:///?socket=%s\n", o.socket)
	<-ctx.Done()
	return server.Close() // which removes the socket
}

// servable refuses what is no raw disk.
func servable(d *disk.Disk) error {
	if d.Size() == 0 {
		return &hintedError{fmt.Errorf("%s is empty", d.Path()), "give it a size: truncate -s 10G " + d.Path()}
	}
	magic := make([]byte, min(4, d.Size()))
	if _, err := d.ReadAt(magic, 0); err == nil && string(magic) == "QFI\xfb" {
		return &hintedError{
			fmt.Errorf("%s is a qcow2 image, and what is served is raw", d.Path()),
			"convert it: qemu-img convert -O raw " + d.Path() + " disk.raw",
		}
	}
	return nil
}

// listenUnix makes the socket, in place of one that nobody listens on any more.
func listenUnix(path string) (*net.UnixListener, error) {
	l, err := unixsocket.Listen(path)
	if errors.Is(err, unixsocket.ErrTooLong) {
		err = &hintedError{err, "take a shorter one, in /tmp or /run"}
	}
	return l, err
}

// sizeText is a size as people write it.
func sizeText(bytes int64) string {
	for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if size := int64(1) << (40 - 10*i); bytes >= size && bytes%size == 0 {
			return fmt.Sprintf("%d %s", bytes/size, unit)
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}
