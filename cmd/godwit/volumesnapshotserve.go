package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

func (a *app) snapshotServeCommand() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "serve SERVICE/VOLUME NAME --socket PATH",
		Short: "Serve a volume as it was at a snapshot, to be read or mounted here",
		Long: `Serve one volume as it was at a snapshot over NBD on a unix socket of this machine: to
mount it, to take a file out of it, to compare. Nothing is copied beforehand: what is read
comes from the replica's host, by way of the controller, and the service does not notice.
It serves until it is interrupted, to any number of clients, and removes the socket then.

It cannot be written to. A file system that was in use needs its journal to be clean, so
mount it without: 'ro,noload' for ext4, 'ro,norecovery' for xfs. Or export the snapshot,
and repair the copy. While somebody has it open, a snapshot does not expire.`,
		Example: `  godwit volume snapshot serve shop/data before-upgrade --socket /tmp/then.sock &
  nbdfuse --readonly /mnt/disk nbd+unix:///?socket=/tmp/then.sock &     a file: /mnt/disk/nbd
  mount -o loop,ro,noload /mnt/disk/nbd /mnt/then

  nbd-client -unix /tmp/then.sock /dev/nbd0 -readonly                   or a block device
  guestfish --ro -a 'nbd://?socket=/tmp/then.sock'                      or without being root`,
		Args: arguments(2, 2, "SERVICE/VOLUME and NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if socket == "" {
				return usagef("want the socket to serve on: --socket PATH")
			}
			service, volume, err := volumeNamed(args[0])
			if err != nil {
				return err
			}
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if volume == "" {
				if service, volume, err = user(cmd.Context(), client, service); err != nil {
					return err
				}
			}
			task := &godwitv1.VolumeTask{Service: service, Volume: volume, Snapshot: args[1]}
			if err := haveSnapshot(cmd.Context(), client, task); err != nil {
				return err
			}
			return a.serveSnapshot(cmd.Context(), client, task, socket)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "", "path of the unix socket to make")
	return cmd
}

// haveSnapshot says at once what each client of the socket would learn too late.
func haveSnapshot(ctx context.Context, client *api.Client, t *godwitv1.VolumeTask) error {
	ask := &godwitv1.VolumeTask{Service: t.GetService(), Volume: t.GetVolume(), Verb: godwitv1.VolumeVerb_VOLUME_VERB_LIST_SNAPSHOTS}
	found, err := client.RunVolumeTask(ctx, ask, nil)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(found.GetSnapshots(), func(s *godwitv1.VolumeSnapshot) bool { return s.GetName() == t.GetSnapshot() }) {
		return &hintedError{
			fmt.Errorf("service %s has no snapshot %s", t.GetService(), t.GetSnapshot()),
			"godwit volume snapshot list " + t.GetService() + " shows those that there are",
		}
	}
	return nil
}

// serveSnapshot passes each client of the socket on to the replica's host, until ctx ends.
func (a *app) serveSnapshot(ctx context.Context, client *api.Client, t *godwitv1.VolumeTask, socket string) error {
	ln, err := listenUnix(socket)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })() // which removes the socket
	a.printf("serving %s/%s as it was at %s (read only) on %s\n", t.GetService(), t.GetVolume(), t.GetSnapshot(), socket)
	a.printf("connect with nbd+unix:///?socket=%s\n", socket)
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		c, err := ln.Accept()
		switch {
		case ctx.Err() != nil && err != nil:
			return nil
		case err != nil:
			return errors.Join(fmt.Errorf("listen on %s: %w", socket, err), ln.Close())
		}
		clients.Go(func() {
			one := &godwitv1.VolumeTask{Service: t.GetService(), Volume: t.GetVolume(), Snapshot: t.GetSnapshot()}
			if err := client.OpenSnapshot(ctx, one, c); err != nil && ctx.Err() == nil {
				a.sayf("a client was cut off: %v\n", err)
			}
		})
	}
}
