package main

import (
	"cmp"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/agent/dvshost/balance"
)

// defaultDVSSocket is where programs reach the DVS node of this machine.
const defaultDVSSocket = "/run/godwit/dvs.sock"

func (a *app) dvsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dvs",
		Short: "Run processes that move between machines while their clients go on talking",
		Long: `The DVS: a program binds a name in a container, and every other program of that
container talks to it by that name, wherever both are, before, during and after
either of them moves.

A node runs on each machine: by itself, without root and without a controller
(godwit dvs node), or in the agent of a host (godwit agent --dvs). WebAssembly
processes run inside of it and move without a line of code of their own; any
other program reaches it at its socket, with the library dvs or in the frames
that package dvs/wire documents.

All commands talk to the node at --socket, else $GODWIT_DVS, else
` + defaultDVSSocket + `.`,
		Example: `  godwit dvs node --name a --listen 127.0.0.1:7701 --peer b=127.0.0.1:7702 --socket /tmp/a.sock
  godwit dvs node --name b --listen 127.0.0.1:7702 --peer a=127.0.0.1:7701 --socket /tmp/b.sock
  export GODWIT_DVS=/tmp/a.sock
  godwit dvs run kv.wasm --container shop --name kv
  godwit dvs call shop kv 'set colour blue'
  godwit dvs migrate shop kv --to b
  godwit dvs call shop kv 'get colour'`,
	}
	cmd.PersistentFlags().StringVar(&a.dvsSocket, "socket", "", "the node's socket (default $GODWIT_DVS, else "+defaultDVSSocket+")")
	return group(cmd, append([]*cobra.Command{
		a.dvsNodeCommand(), a.dvsRunCommand(), a.dvsCallCommand(), a.dvsStopCommand(), a.dvsMigrateCommand(), a.dvsDrainCommand(), a.dvsAbortCommand(), a.dvsHTTPCommand(), a.dvsPolicyCommand(), a.dvsShepherdCommand(),
	}, a.dvsListCommands()...)...)
}

// dvsSocketPath is --socket, $GODWIT_DVS, or the node of this machine.
func (a *app) dvsSocketPath() string {
	return cmp.Or(a.dvsSocket, a.env("GODWIT_DVS"), defaultDVSSocket)
}

func (a *app) dvsClient() *dvshost.Client { return dvshost.NewClient(a.dvsSocketPath()) }

func (a *app) dvsNodeCommand() *cobra.Command {
	var (
		options  dvshost.NodeOptions
		even     bool
		limits   = balance.Default()
		peers    []string
		streams  string
		compress string
		file     string
		logs     logFlags
	)
	cmd := &cobra.Command{
		Use:   "node --name NAME [--listen HOST:PORT --peer NAME=HOST:PORT…]",
		Short: "Run a node of the DVS, alone: without root and without a controller",
		Long: `Run a node of the DVS until it is interrupted. Its processes end with it: drain it
before.

Programs connect at the socket, which is for this user only; with --group also for
the members of that group. The one beside it for these commands (.admin) is for this
user in any case. Who can connect may enter every container and do everything there;
with --policy only what a file allows: see godwit dvs policy --help. Other nodes connect at --listen, and every node
has to be told of every other with --peer. Without certificates they talk over
loopback addresses only. Programs of two nodes that talk much are given a TCP
connection of their own, at --streams: by default the host of --listen and a free
port, which the nodes tell each other; behind a firewall name one and let it pass,
or say off, and all goes by --listen. It is as secret as what passes between the
nodes: with certificates its frames are sealed.

What a node has decided about a move it keeps in --state, and carries it out when it
begins again; without --state a node that is killed in the middle of a move forgets
it, and the process that was moving may be lost.

With --balance it gives up processes when they take more of its processors' time than
--high-water, until they take --low-water: see godwit dvs stats.

With --native it takes in native programs that move here (see godwit dvs run --native)
and runs them as its own user, whatever they are: so it has to trust all other nodes,
and without certificates all users of this machine.

With --cert, --key and --ca each node proves its name: it has to be among the
certificate's DNS names, or its common name; the certificate has to be good for
servers and for clients.

The agent of a host runs the same node, and finds the others by itself: see
godwit agent --dvs.`,
		Example: `  godwit dvs node --name alone --socket /tmp/dvs.sock
  godwit dvs node --name a --listen 192.0.2.1:7701 --peer b=192.0.2.2:7701 --cert a.pem --key a.key --ca nodes.pem`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if options.Name == "" {
				return usagef("want a name that no other node has: --name NAME")
			}
			var err error
			if options.Peers, err = parsePeers(peers); err != nil {
				return err
			}
			if len(peers) > 0 && options.Listen == "" {
				return usagef("want the address at which other nodes reach this one: --listen HOST:PORT")
			}
			if options.Streams, err = streamsAddress(streams, options.Listen); err != nil {
				return err
			}
			if err = options.Links.Compress.Set(compress); err != nil {
				return usagef("bad --compress: %w", err)
			}
			if options.Log, err = logs.logger(a.err); err != nil {
				return err
			}
			if even {
				if err := limits.Validate(); err != nil {
					return usagef("%w", err)
				}
				options.Balance = &limits
			}
			if options.Policy, err = loadDVSPolicy(file); err != nil {
				return err
			}
			options.Socket = a.dvsSocketPath()
			options.Native.Shepherd = dvsShepherd()
			options.Ready = func(address string) {
				options.Log.Info("DVS node ready", "name", options.Name, "socket", options.Socket, "listen", address)
			}
			return ended(cmd.Context(), dvshost.Serve(cmd.Context(), options))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Name, "name", "", "the node's name, unique among the nodes")
	flags.StringVar(&options.Listen, "listen", "", "HOST:PORT at which other nodes reach this one")
	flags.StringArrayVar(&peers, "peer", nil, "NAME=HOST:PORT of another node; may be repeated")
	flags.StringVar(&options.Group, "group", "", "a group whose members may connect programs too")
	flags.StringVar(&file, "policy", "", "a file that says which programs and which nodes may do what in which container\n(see godwit dvs policy --help)")
	flags.StringVar(&options.TLS.Certificate, "cert", "", "the node's certificate, a PEM file")
	flags.StringVar(&options.TLS.Key, "key", "", "its key")
	flags.StringVar(&options.TLS.Authority, "ca", "", "the certificate of the authority that all nodes' certificates come from")
	flags.StringVar(&options.Cache, "cache", "", "directory that keeps compiled modules, so that they start at once the next time")
	flags.BoolVar(&even, "balance", false, "move processes to other nodes when this one has too much to do")
	flags.Float64Var(&limits.High, "high-water", limits.High, "with --balance: above this share of its processors' time it gives up processes")
	flags.Float64Var(&limits.Low, "low-water", limits.Low, "with --balance: until it is at this share")
	flags.Float64Var(&limits.Gain, "least-gain", limits.Gain, "with --balance: by how much a move has to better the fuller of the two nodes")
	flags.DurationVar(&limits.CoolDown, "cool-down", limits.CoolDown, "with --balance: how long a process that has come stays")
	flags.StringVar(&options.State, "state", "", "directory, of this node alone, that keeps what it has decided about moves")
	flags.BoolVar(&options.Native.Accept, "native", false, "take in native programs that move here: whoever can speak as a node can run anything on this machine")
	flags.StringVar(&streams, "streams", "", "HOST:PORT for connections between programs here and at other nodes, or off\n(default a free port, at the host of --listen)")
	flags.StringVar(&compress, "compress", "auto", "what is sent to other nodes: auto (where it pays), always or never")
	flags.BoolVar(&options.Links.Single, "no-batches", false, "send each message to other nodes by itself")
	logs.add(flags)
	return cmd
}

// streamsAddress is where a node that listens for others takes in streams, unless they are off.
func streamsAddress(flag, listen string) (string, error) {
	switch {
	case flag == "off" || flag == "" && listen == "":
		return "", nil
	case listen == "":
		return "", usagef("--streams are between programs of two nodes: want --listen HOST:PORT too")
	case flag != "":
		return flag, nil
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return "", usagef("bad --listen %q: want HOST:PORT", listen)
	}
	return net.JoinHostPort(host, "0"), nil
}

func parsePeers(all []string) (map[string]string, error) {
	peers := map[string]string{}
	for _, one := range all {
		name, address, ok := strings.Cut(one, "=")
		if !ok || name == "" || address == "" || peers[name] != "" {
			return nil, usagef("bad --peer %q: want NAME=HOST:PORT, each name once", one)
		}
		peers[name] = address
	}
	return peers, nil
}
