package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/godwit-project/godwit/api"
)

// format is the value of -o.
type format string

// The formats; text is what a command prints when it is not asked for another.
const (
	formatText format = ""
	formatJSON format = "json"
	formatYAML format = "yaml"
	formatWide format = "wide"
	// formatTable names what commands that list things print anyway.
	formatTable format = "table"
)

// outputFlag adds -o with the formats that the command has besides text.
func outputFlag(cmd *cobra.Command, into *format, allowed ...format) {
	names := make([]string, 0, len(allowed))
	for _, one := range allowed {
		names = append(names, string(one))
	}
	cmd.Flags().VarP(&formatValue{into: into, allowed: names}, "output", "o", "print "+strings.Join(names, " or ")+" instead of text")
}

// formatValue is a flag that takes only what it knows.
type formatValue struct {
	into    *format
	allowed []string
}

func (v *formatValue) String() string {
	if v.into == nil {
		return ""
	}
	return string(*v.into)
}

func (v *formatValue) Type() string { return "FORMAT" }

func (v *formatValue) Set(text string) error {
	if !slices.Contains(v.allowed, text) {
		return fmt.Errorf("want %s", strings.Join(v.allowed, ", "))
	}
	*v.into = format(text)
	return nil
}

// printView prints a view as JSON or YAML.
func (a *app) printView(how format, view any) error {
	if how == formatYAML {
		return api.WriteYAML(a.out, view)
	}
	return api.WriteJSON(a.out, view)
}

// width is the number of columns of the terminal that w is, or 0 when it is none.
func (a *app) width(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) || a.env("TERM") == "dumb" {
		return 0
	}
	columns, _, err := term.GetSize(int(file.Fd()))
	if err != nil || columns < 40 {
		return 80
	}
	return columns
}

// paint wraps text in a colour when it goes to a terminal.
func (a *app) paint(w io.Writer, colour, text string) string {
	if text == "" || a.env("NO_COLOR") != "" || a.width(w) == 0 {
		return text
	}
	return colour + text + "\x1b[0m"
}

// Colours, as terminals take them.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
)

// phaseColour is that of a phase or a state.
func phaseColour(phase string) string {
	switch phase {
	case "completed", "running", "ready", "done", "primary":
		return green
	case "failed", "aborted", "not ready", "fenced":
		return red
	default:
		return yellow
	}
}

// milliseconds writes a length for people: "23.4 ms", "8.21 s", "3m12s".
func milliseconds(ms float64) string {
	switch {
	case ms <= 0:
		return "0 ms"
	case ms < 1000:
		return fmt.Sprintf("%.3g ms", ms)
	case ms < 100_000:
		return fmt.Sprintf("%.3g s", ms/1000)
	default:
		return (time.Duration(ms) * time.Millisecond).Round(time.Second).String()
	}
}
