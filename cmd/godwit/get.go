package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

const watchEvery = time.Second

// get is what the flags of the command say.
type get struct {
	kind, name string
	output     format
	watch      bool
}

func (a *app) getCommand() *cobra.Command {
	var flags get
	cmd := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "List sites, hosts, edges, services, volumes or migrations",
		Long: `List the objects of a kind, or show the one that is named.

The kinds are sites, hosts, edges, services, volumes and migrations; the singular
works too. -o json and -o yaml print every field (see docs/cli-json.md), -o wide
adds columns to the table. Below the table of volumes stands what is to be done about
disks that are full, slow or fail. --watch prints again what changes.`,
		Example: `  godwit get services
  godwit get migration shop-1 -o json
  godwit get volumes -o wide --watch`,
		Args: arguments(1, 2, "KIND and perhaps NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindNamed(args[0])
			if err != nil {
				return err
			}
			flags.kind = kind
			if len(args) == 2 {
				flags.name = args[1]
			}
			return a.runGet(cmd.Context(), flags)
		},
		ValidArgs: kinds(),
	}
	cmd.Flags().BoolVarP(&flags.watch, "watch", "w", false, "go on, and print what changes")
	outputFlag(cmd, &flags.output, formatJSON, formatYAML, formatWide)
	return cmd
}

func kinds() []string {
	return []string{"sites", "hosts", "edges", "services", "volumes", "migrations"}
}

// kindNamed returns the API's name of a kind: the singular.
func kindNamed(text string) (string, error) {
	for _, kind := range kinds() {
		singular := strings.TrimSuffix(kind, "s")
		if lower := strings.ToLower(text); lower == kind || lower == singular {
			return singular, nil
		}
	}
	return "", usagef("there is no kind %q: want %s", text, strings.Join(kinds(), ", "))
}

func (a *app) runGet(ctx context.Context, flags get) error {
	client, err := a.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	objects, err := client.Get(ctx, flags.kind, flags.name)
	if err != nil {
		return err
	}
	if flags.watch {
		return a.watch(ctx, client, flags, objects)
	}
	return a.printObjects(flags, objects)
}

func (a *app) printObjects(flags get, objects []*godwitv1.Object) error {
	switch {
	case flags.output == formatJSON || flags.output == formatYAML:
		if flags.name != "" && len(objects) == 1 {
			return a.printView(flags.output, api.View(objects[0]))
		}
		return a.printView(flags.output, api.ViewList(objects))
	case len(objects) == 0:
		a.sayf("there are no %ss\n", flags.kind)
		return nil
	default:
		return a.printWithAlerts(flags, objects)
	}
}

// printWithAlerts prints a table, and below it what is to be done about what is in it.
func (a *app) printWithAlerts(flags get, objects []*godwitv1.Object) error {
	if err := a.printTable(a.out, a.objectTable(flags, objects)); err != nil {
		return err
	}
	for _, object := range objects {
		if v := object.GetVolume(); v.GetAlert() != "" {
			a.printf("alert: %s: %s\n", objectName(object), v.GetAlert())
		}
	}
	return nil
}

// watch prints what is there, and then each object again that has changed, until it is interrupted.
func (a *app) watch(ctx context.Context, client *api.Client, flags get, objects []*godwitv1.Object) error {
	known := map[string]*godwitv1.Object{}
	for {
		var changed []*godwitv1.Object
		present := map[string]bool{}
		for _, object := range objects {
			name := objectName(object)
			present[name] = true
			if !proto.Equal(known[name], object) {
				changed = append(changed, object)
			}
			known[name] = object
		}
		if err := a.printChanges(flags, changed); err != nil {
			return err
		}
		for name := range known {
			if !present[name] {
				a.sayf("%s %s is gone\n", flags.kind, name)
				delete(known, name)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
		var err error
		objects, err = client.Get(ctx, flags.kind, flags.name)
		switch {
		case ctx.Err() != nil:
			return nil
		case api.NotFound(err):
			objects = nil
		case err != nil:
			return err
		}
	}
}

// printChanges prints a table for people, and for machines one JSON object or one YAML document for each change.
func (a *app) printChanges(flags get, changed []*godwitv1.Object) error {
	if len(changed) == 0 {
		return nil
	}
	if flags.output != formatJSON && flags.output != formatYAML {
		return a.printWithAlerts(flags, changed)
	}
	for _, object := range changed {
		if flags.output == formatYAML {
			a.printf("---\n")
			if err := api.WriteYAML(a.out, api.View(object)); err != nil {
				return err
			}
			continue
		}
		if err := json.NewEncoder(a.out).Encode(api.View(object)); err != nil {
			return fmt.Errorf("print %s: %w", objectName(object), err)
		}
	}
	return nil
}
