package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionView is what version -o json prints.
type versionView struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Time     string `json:"time"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which Godwit this is",
		Args:  arguments(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			view := version()
			if output != formatText {
				return a.printView(output, view)
			}
			a.printf("godwit %s", view.Version)
			if view.Revision != "" {
				a.printf(", revision %.12s of %s", view.Revision, view.Time)
			}
			if view.Modified {
				a.printf(", changed since")
			}
			a.printf(", %s, %s\n", view.Go, view.Platform)
			return nil
		},
	}
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

// version reads what the Go tool wrote into the binary.
func version() versionView {
	view := versionView{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return view
	}
	view.Version = info.Main.Version
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			view.Revision = setting.Value
		case "vcs.time":
			view.Time = setting.Value
		case "vcs.modified":
			view.Modified = setting.Value == "true"
		}
	}
	return view
}
