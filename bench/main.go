// Command bench measures Godwit from outside, beside its nearest peer, in one run on one machine: what the lab's emulated
// lines deliver, a planned migration, and the same migration done with QEMU alone over the same line. It prints tables,
// and puts them into docs/benchmarks.md. Slow figures are figures: it fails only when something could not be measured,
// or when a measured system lost something.
//
// It uses the API, the lab and the probe. Nothing of the inside of Godwit may be imported for these measurements: what
// drives the bare QEMU is the bench's own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/godwit-project/godwit/bench/document"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == farEndCommand {
		if err := serveFarEnd(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 2 && os.Args[1] == farShellCommand {
		if err := serveFarShell(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == groupEndCommand {
		if err := serveGroupEnd(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	// The second interrupt ends the program at once; the lab is then left for: godwit lab down --name bench.
	ctx, unhook := signal.NotifyContext(context.Background(), endings()...)
	context.AfterFunc(ctx, unhook)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // what is said while all is taken down kills nobody either
	err := start(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted:", err)
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// endings are the signals after which the run takes down what it has built. Nobody reading what it says any more is one of them: by
// default that kills a program on the spot.
func endings() []os.Signal {
	all := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		all = append(all, syscall.SIGHUP)
	}
	return all
}

// options are what the command line says.
type options struct {
	rounds int
	binary string
	doc    string
	// lineOnly leaves the migrations out, and the document alone.
	lineOnly bool
	// disksOnly leaves everything but the disks out, and the document alone.
	disksOnly bool
	// rows are those of the disks that are measured.
	rows rowChoice
}

func parse(args []string, complaints io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.IntVar(&o.rounds, "n", 3, "how often everything is measured; the tables hold medians")
	flags.StringVar(&o.binary, "godwit", "bin/godwit", "the program to measure, with its guest in the folder guest beside it")
	flags.StringVar(&o.doc, "doc", "docs/benchmarks.md", "the document whose tables are replaced; empty for none")
	flags.BoolVar(&o.lineOnly, "line", false, "measure the lab's line only, and leave the document alone")
	flags.BoolVar(&o.disksOnly, "disks", false, "measure one volume beside its peers only (needs no root), and leave the document alone")
	rows := flags.String("rows", "", "with -disks: measure only what this regular expression matches, as the program names it while it runs")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.lineOnly || o.disksOnly {
		o.doc = ""
	}
	if *rows != "" && !o.disksOnly {
		return o, errors.New("read the command line: -rows is of use with -disks only")
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("read the command line: %q is no flag; there are -n, -line, -disks, -rows, -godwit, -doc", flags.Arg(0))
	}
	if o.rounds < 1 {
		return o, fmt.Errorf("read the command line: -n %d: at least one round is needed", o.rounds)
	}
	var err error
	if o.rows.match, err = regexp.Compile(*rows); err != nil {
		return o, fmt.Errorf("read the command line: -rows: %w", err)
	}
	o.binary, err = filepath.Abs(o.binary)
	return o, err
}

func start(ctx context.Context, args []string, out, progress io.Writer) error {
	o, err := parse(args, progress)
	if err != nil {
		return err
	}
	if o.doc != "" { // better now than after ten minutes
		if err := tablesAt().Check(o.doc); err != nil {
			return err
		}
	}
	began := time.Now()
	say := func(format string, a ...any) {
		fmt.Fprintf(progress, "%6s  %s\n", time.Since(began).Round(time.Second), fmt.Sprintf(format, a...))
	}
	if o.disksOnly {
		disks, err := measureDisks(ctx, o, say)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, disks.markdown())
		return err
	}
	results, err := measure(ctx, o, say)
	if err != nil {
		return err
	}
	text := results.markdown()
	if _, err := fmt.Fprintln(out, text); err != nil {
		return fmt.Errorf("print the tables: %w", err)
	}
	if o.doc == "" {
		return nil
	}
	return tablesAt().Replace(o.doc, text)
}

// tablesAt is where the tables stand in the document.
func tablesAt() document.Place {
	return document.Place{Begin: "<!-- written by make bench: begin -->", End: "<!-- written by make bench: end -->"}
}
