package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
)

// Exit codes. Anything but success is a failure of what was asked; usage tells a mistyped command apart.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// app is what all commands share: the streams, the environment, the clock, and the flags that name the controller.
type app struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	now      func() time.Time

	server    string
	identity  string
	dvsSocket string
}

// usageError is a mistake in the command line.
type usageError struct{ cause error }

func (e *usageError) Error() string { return e.cause.Error() }
func (e *usageError) Unwrap() error { return e.cause }

// hintedError is an error of the command line's own with something to do about it.
type hintedError struct {
	cause error
	hint  string
}

func (e *hintedError) Error() string { return e.cause.Error() }
func (e *hintedError) Unwrap() error { return e.cause }

// exitError ends the program with a code of its own, with nothing more to say when it has no message.
type exitError struct {
	code    int
	message string
	hint    string
}

func (e *exitError) Error() string { return e.message }

// run carries out one command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	return a.fail(command, err)
}

// fail prints an error, its hint apart, and returns the exit code.
func (a *app) fail(command *cobra.Command, err error) int {
	var (
		exit  *exitError
		usage *usageError
		own   *hintedError
	)
	code, hint := exitFailure, api.Hint(err)
	switch {
	case errors.As(err, &exit):
		code, hint = exit.code, exit.hint
	case errors.As(err, &usage) || isCobraUsage(err):
		code, hint = exitUsage, fmt.Sprintf("'%s --help' shows how to use it", command.CommandPath())
	case errors.Is(err, context.Canceled):
		code = exitInterrupted
		err = errors.New("interrupted")
	}
	if errors.As(err, &own) {
		hint = own.hint
	}
	if text := err.Error(); text != "" {
		a.sayf("godwit: %s\n", strings.ReplaceAll(text, "\n", "\n        "))
	}
	if hint != "" {
		a.sayf("  hint: %s\n", hint)
	}
	return code
}

// sayf writes to people, not to scripts: to stderr.
func (a *app) sayf(format string, args ...any) { fmt.Fprintf(a.err, format, args...) }

// printf writes a command's result.
func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

// usagef makes a usageError.
func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// isCobraUsage recognises cobra's own errors about commands; those about flags and arguments are wrapped where they arise.
func isCobraUsage(err error) bool {
	return strings.HasPrefix(err.Error(), "unknown command ") || strings.HasPrefix(err.Error(), "required flag(s) ")
}

// arguments wraps cobra's check of the number of arguments with the command's own words.
func arguments(low, high int, want string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < low:
			return usagef("want %s", want)
		case len(args) > high:
			return usagef("want %s, got %q too", want, args[high])
		default:
			return nil
		}
	}
}
