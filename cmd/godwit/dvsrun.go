package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/api"
	"github.com/godwit-project/godwit/server/native"
)

func (a *app) dvsRunCommand() *cobra.Command {
	var (
		container, name, memory string
		mode                    string
		nodes                   []string
		replicas                int
		length                  time.Duration
		isNative, whole         bool
	)
	cmd := &cobra.Command{
		Use:   "run MODULE.wasm|PROGRAM --container CONTAINER --name NAME [-- ARGUMENT…]",
		Short: "Start a WebAssembly process, or any program, on the node",
		Long: `Start a WebAssembly process on the node at --socket, and bind it to a name of the
container. It is a WASI reactor that exports godwit_alloc and godwit_handle; it
is called once for each message, and between two messages all its state is memory
and globals: so it can be moved to any machine at any time.

In Go:  GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o kv.wasm ./examples/kv
In C:   clang --target=wasm32-wasi -mexec-model=reactor -O2 -o counter.wasm examples/counter-c/counter.c

With --replicas it runs on several nodes at once, which keep one state: when one of
them dies, its callers wait for a moment and go on. Passive: one works, and what
changes in its memory reaches the others before its reply leaves. Active: all
work, in the same order; a majority has to be there. The nodes themselves agree on
who answers, so most of them have to be there for a change of that too. What a
replicated process sends on its own, besides replies, is left out.

A call that fails or takes longer than --time is undone, and its caller is told.

With --native it is any program that uses the library dvs. It is started with the
ARGUMENTs and finds in its environment where its node is ($GODWIT_DVS), the
container ($GODWIT_CONTAINER) and the name that it is to bind ($GODWIT_NAME), which
it does by dvs.Connect(ctx, "", …) and Bind(ctx, "", …). What it prints is in the
node's log; it ends with the node. It moves to nodes that run with --native: its
executable is sent along and started there, and its state goes from one to the other
by its own Snapshot and Restore, or Pieces.

With --criu too it moves as it is, without a line of code for that: memory,
threads, timers. It binds one name. Other connections than those to the node are
broken by a move; other files that it has open have to be there under the same
names. This takes root and a criu that passes 'criu check', on the path or at
$GODWIT_CRIU, at every node; its processors have to be alike.`,
		Example: `  godwit dvs run kv.wasm --container shop --name kv
  godwit dvs run kv.wasm --container shop --name kv --memory 64MiB --time 100ms
  godwit dvs run kv.wasm --container shop --name kv --replicas 3 --nodes a,b,c
  godwit dvs run --native --criu ./tally --container shop --name tally`,
		Args: func(cmd *cobra.Command, args []string) error {
			if isNative {
				return arguments(1, math.MaxInt, "the PROGRAM, a file, and its arguments")(cmd, args)
			}
			return arguments(1, 1, "the MODULE, a file")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if container == "" || name == "" {
				return usagef("want the container and the name to bind: --container CONTAINER --name NAME")
			}
			if isNative {
				return a.runNative(cmd, args, dvshost.NativeSpec{Container: container, Name: name, Whole: whole})
			}
			if whole {
				return usagef("--criu moves a program of its own: want --native too")
			}
			limit := ""
			if memory != "" {
				size, err := api.ParseSize(memory)
				if err != nil {
					return usagef("bad --memory %q: want 64MiB or bytes", memory)
				}
				limit = strconv.FormatInt(size, 10)
			}
			module, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			if replicas > 1 || len(nodes) > 0 {
				if len(nodes) == 0 || replicas != 0 && replicas != len(nodes) {
					return usagef("want the names of all the nodes, the one at --socket among them: --replicas 3 --nodes a,b,c")
				}
				if err := a.dvsClient().RunReplicated(cmd.Context(), container, name, module, limit, length.String(), mode, nodes); err != nil {
					return err
				}
				a.sayf("%s/%s is running on %s\n", container, name, strings.Join(nodes, ", "))
				return nil
			}
			if err := a.dvsClient().Run(cmd.Context(), container, name, module, limit, length.String()); err != nil {
				return err
			}
			a.sayf("%s/%s is running\n", container, name)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&container, "container", "", "the container: who may talk to whom")
	flags.StringVar(&name, "name", "", "the name of the endpoint")
	flags.StringVar(&memory, "memory", "", "what it may have of memory at most (default 256MiB)")
	flags.DurationVar(&length, "time", time.Second, "how long one message may take at most")
	flags.IntVar(&replicas, "replicas", 0, "on how many nodes it runs at once: 3 or more")
	flags.StringVar(&mode, "mode", "passive", "how they keep one state: passive or active")
	flags.BoolVar(&isNative, "native", false, "it is a program that uses the library dvs, no module")
	flags.BoolVar(&whole, "criu", false, "with --native: move the whole process, by CRIU")
	flags.StringSliceVar(&nodes, "nodes", nil, "the names of those nodes, the one at --socket among them")
	return cmd
}

// runNative has the node start a program.
func (a *app) runNative(cmd *cobra.Command, args []string, spec dvshost.NativeSpec) error {
	for _, other := range []string{"memory", "time", "replicas", "mode", "nodes"} {
		if cmd.Flags().Changed(other) {
			return usagef("--%s is for WebAssembly processes, not for --native", other)
		}
	}
	var err error
	if spec.Path, err = filepath.Abs(args[0]); err != nil {
		return err
	}
	if _, err := os.Stat(spec.Path); err != nil {
		return err
	}
	spec.Arguments = args[1:]
	if err := a.dvsClient().RunNative(cmd.Context(), spec); err != nil {
		return err
	}
	a.sayf("%s/%s is running\n", spec.Container, spec.Name)
	return nil
}

// dvsShepherdCommand is how a node runs this program as process 1 of a native program's namespace.
func (a *app) dvsShepherdCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "shepherd",
		Short:  "Look after a native program; a node starts it",
		Hidden: true,
		Args:   arguments(0, 0, "no arguments"),
		RunE:   func(*cobra.Command, []string) error { return native.Shepherd() },
	}
}

func (a *app) dvsStopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop CONTAINER NAME",
		Short: "End a process of the node; its state is lost",
		Long: `End a process that the node at --socket has started. Its state is lost, and the
callers that wait for it are told so. To keep it, migrate it.`,
		Example: `  godwit dvs stop shop kv`,
		Args:    arguments(2, 2, "CONTAINER and NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.dvsClient().Stop(cmd.Context(), args[0], args[1])
		},
	}
}

func (a *app) dvsCallCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "call CONTAINER NAME [DATA]",
		Short: "Send a request to an endpoint, and print its reply",
		Long: `Send a request to an endpoint of the container, wherever it is, wait for the reply
and print it. It waits while the endpoint is moving or not bound yet, up to
--timeout; with --timeout 0 it fails at once if nobody takes it now. DATA that is - is read from standard input.`,
		Example: `  godwit dvs call shop kv 'get colour'
  godwit dvs call shop thumbnail - < picture.png > small.png`,
		Args: arguments(2, 3, "CONTAINER, NAME and perhaps DATA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout < 0 {
				return usagef("bad --timeout %v: want a length like 10s, or 0 not to wait", timeout)
			}
			data, err := a.dataOf(args[2:])
			if err != nil {
				return err
			}
			reply, err := a.dvsClient().Call(cmd.Context(), args[0], args[1], data, timeout.String())
			if err != nil {
				return err
			}
			a.printf("%s", reply)
			if a.width(a.out) > 0 {
				a.printf("\n")
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait for the reply; 0 not at all")
	return cmd
}

// dataOf is a request's data: an argument, or standard input for -.
func (a *app) dataOf(args []string) ([]byte, error) {
	switch {
	case len(args) == 0:
		return nil, nil
	case args[0] != "-":
		return []byte(args[0]), nil
	default:
		data, err := io.ReadAll(a.in)
		if err != nil {
			return nil, fmt.Errorf("read the data: %w", err)
		}
		return data, nil
	}
}
