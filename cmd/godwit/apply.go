package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// pollEvery is the pause between two looks at something that changes.
const pollEvery = 250 * time.Millisecond

// apply is what the flags of the command say.
type apply struct {
	files   []string
	wait    bool
	timeout time.Duration
	output  format
}

func (a *app) applyCommand() *cobra.Command {
	var flags apply
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Start the services of a manifest",
		Long: `Start the services of a manifest, or find that they are as asked.

The manifest is YAML and may hold several documents. It is checked strictly: an
unknown field is an error, and all errors are told at once, with line and column.
Kernel, initrd and images are files on this machine, relative to the manifest;
they are uploaded once and recognised by their content afterwards.

  kind: Service
  name: shop
  site: west                          where it is started
  network: default                    the address space it lives in
  server:
    cpus: 1
    memory: 256MiB
    kernel: vmlinuz                   for direct boot, else the first volume boots
    initrd: initrd.gz
    commandLine: console=ttyS0
  volumes:
  - {name: root, size: 2GiB, image: debian.qcow2}
  - {name: data, volume: archive}     made by 'godwit volume create', and kept
  - name: db                          on a block device of the host, whose content it has,
    size: 10GiB                       and which keeps that: Godwit never wipes one
    device: /dev/vg0/shop-db          the path at each site, or {west: PATH, east: PATH}
  - {name: log, external: /nfs/log}   a disk that all sites reach: fenced, not copied
  addresses: [203.0.113.10]
  storage:                            a standing replica of all volumes, together
    replicateTo: east                 the site of the replica
    mode: async                       or flush, sync: who waits for the replica
    maxLag: 5s                        slow writers down when it is further behind,
    maxLagBytes: 64MiB                in time or in data

Of a service that runs, storage alone can be changed: apply again, with another mode
or without it. In async mode nobody waits; in flush mode the flushes of the guest do,
so that what it was promised survives the loss of the site; in sync mode all writes.
A planned migration ends the replication and makes it again the other way round.`,
		Example: `  godwit apply -f shop.yaml
  godwit apply -f shop.yaml --wait=false
  godwit get service shop -o yaml | godwit apply -f -`,
		Args: arguments(0, 0, "no arguments: name the manifest with -f"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runApply(cmd.Context(), flags) },
	}
	cmd.Flags().StringArrayVarP(&flags.files, "filename", "f", nil, "the manifest; - reads it from the standard input")
	cmd.Flags().BoolVar(&flags.wait, "wait", true, "return when the services run")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", 5*time.Minute, "how long to wait for each")
	outputFlag(cmd, &flags.output, formatJSON, formatYAML)
	return cmd
}

func (a *app) runApply(ctx context.Context, flags apply) error {
	if len(flags.files) == 0 {
		return usagef("want a manifest: -f FILE")
	}
	specs, err := a.readManifests(flags.files)
	if err != nil {
		return err
	}
	client, err := a.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	done := make([]*godwitv1.Object, 0, len(specs))
	for _, spec := range specs {
		service, err := a.applyOne(ctx, client, spec, flags)
		if err != nil {
			return err
		}
		done = append(done, &godwitv1.Object{Kind: &godwitv1.Object_Service{Service: service}})
	}
	switch {
	case flags.output == formatText:
		return nil
	case len(done) == 1:
		return a.printView(flags.output, api.View(done[0]))
	default:
		return a.printView(flags.output, api.ViewList(done))
	}
}

// readManifests reads all of them, and tells all their errors, before anything is done.
func (a *app) readManifests(files []string) ([]*godwitv1.ServiceSpec, error) {
	var (
		specs []*godwitv1.ServiceSpec
		wrong []error
	)
	for _, file := range files {
		more, err := a.readManifest(file)
		if err != nil {
			wrong = append(wrong, err)
		}
		specs = append(specs, more...)
	}
	return specs, errors.Join(wrong...)
}

func (a *app) readManifest(name string) ([]*godwitv1.ServiceSpec, error) {
	if name == "-" {
		return api.ParseManifest("stdin", a.in)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	specs, err := api.ParseManifest(name, file)
	return specs, errors.Join(err, file.Close())
}

func (a *app) applyOne(ctx context.Context, client *api.Client, spec *godwitv1.ServiceSpec, flags apply) (*godwitv1.Service, error) {
	bar := &uploadBar{app: a, started: a.now()}
	err := client.UploadFiles(ctx, spec, bar.show)
	bar.end()
	if err != nil {
		return nil, err
	}
	answer, err := client.Apply(ctx, spec)
	if err != nil {
		return nil, err
	}
	result := a.resultTo(flags.output)
	fmt.Fprintf(result, "service %s %s\n", spec.GetName(), answer.GetOutcome())
	if !flags.wait {
		return answer.GetService(), nil
	}
	service, err := a.waitRunning(ctx, client, spec.GetName(), flags.timeout)
	if err != nil {
		return nil, err
	}
	status := service.GetStatus()
	fmt.Fprintf(result, "service %s %s at %s on %s\n", spec.GetName(), a.paint(result, phaseColour(status.GetPhase()), status.GetPhase()), status.GetSite(), status.GetHost())
	return service, nil
}

// resultTo is where sentences about the result go: to stderr when stdout is for a machine to read.
func (a *app) resultTo(how format) io.Writer {
	if how == formatText {
		return a.out
	}
	return a.err
}

// waitRunning polls until the service runs. A controller that is being restarted meanwhile is waited for.
func (a *app) waitRunning(ctx context.Context, client *api.Client, name string, timeout time.Duration) (*godwitv1.Service, error) {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	last := "starting"
	for {
		service, err := client.Service(waiting, name)
		switch {
		case err != nil && waiting.Err() == nil && !api.Unreachable(err):
			return nil, err
		case err == nil:
			status := service.GetStatus()
			last = status.GetPhase()
			if message := status.GetMessage(); message != "" {
				last += ": " + message
			}
			switch status.GetPhase() {
			case "running", "migrating":
				return service, nil
			case "failed", "deleting":
				return nil, &hintedError{
					fmt.Errorf("service %s does not run: it is %s", name, last),
					fmt.Sprintf("'godwit get service %s' shows it, 'godwit delete service %s' removes it", name, name),
				}
			}
		}
		select {
		case <-waiting.Done():
		case <-time.After(pollEvery):
			continue
		}
		if ctx.Err() != nil {
			return nil, &exitError{
				exitInterrupted, fmt.Sprintf("no longer waiting; service %s is being started all the same", name),
				fmt.Sprintf("'godwit get service %s --watch' shows how it goes", name),
			}
		}
		return nil, &hintedError{
			fmt.Errorf("service %s does not run after %v: it is %s", name, timeout, last),
			fmt.Sprintf("it is still being started: 'godwit get service %s --watch' shows how it goes", name),
		}
	}
}
