package main

import (
	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/agent"
)

// defaultAgentData is where an agent keeps its identity and its services.
const defaultAgentData = "/var/lib/godwit/agent"

func (a *app) agentCommand() *cobra.Command {
	var (
		options agent.Options
		logs    logFlags
		limit   string
		dvs     agentDVSFlags
	)
	cmd := &cobra.Command{
		Use:   "agent --data DIR --address ADDRESS:PORT",
		Short: "Run the agent of a host or an edge",
		Long: `Run the agent of a machine that has joined: on a host it runs virtual servers and
volumes, on an edge tunnels, switches and routes. What it is was settled when it
joined. It may be killed and started again; virtual servers run on meanwhile.

An edge speaks BGP with the routers of its provider: --bgp-neighbor and --asn.

On a host --wan-limit bounds what it sends to other sites, all together. Set it
somewhat below what the line gives you: then the memory of a server that moves
goes before synchronous writes, these before asynchronous replication, and that
before first copies. Without it the lines' own queues decide.

On a host --dvs runs a node of the DVS in the agent, with the host's name and
certificate; nobody names its peers, for the controller tells all hosts that run one
of each other. Programs and modules in it end with the agent: drain it (godwit dvs
drain) before you restart that. Its socket is root's alone; --dvs-group lets the
members of a group connect programs too, and --dvs-policy says which programs and
which hosts may do what in which container. See godwit dvs --help, godwit dvs policy
--help and docs/dvs.md.`,
		Example: `  godwit agent --address 198.51.100.2:7444
  godwit agent --address 198.51.100.2:7444 --wan-limit 900mbit
  godwit agent --address 198.51.100.2:7444 --dvs
  godwit agent --address 198.51.100.2:7444 --dvs --dvs-group dvs --dvs-policy /etc/godwit/dvs.yaml
  godwit agent --address 198.51.100.1:7444 --uplink-address 192.0.2.2 --bgp-neighbor 192.0.2.1 --asn 64500`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if options.Address == "" {
				return usagef("want the address at which other agents reach this one: --address ADDRESS:PORT")
			}
			logger, err := logs.logger(a.err)
			if err != nil {
				return err
			}
			options.Logger = logger
			if options.WANLimit, err = parseBandwidth(limit); err != nil {
				return err
			}
			if options.DVS, err = dvs.options(cmd.Flags()); err != nil {
				return err
			}
			return ended(cmd.Context(), agent.Run(cmd.Context(), options))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Dir, "data", defaultAgentData, "what 'godwit join' made")
	flags.StringVar(&options.Address, "address", "", "ADDRESS:PORT at which other agents reach this one")
	flags.StringVar(&options.Metrics, "metrics", "", "hosts: ADDRESS:PORT for Prometheus, with the certificate of an operator or viewer")
	flags.StringVar(&options.UplinkAddress, "uplink-address", "", "edges: the address towards the provider")
	flags.StringSliceVar(&options.BGPNeighbors, "bgp-neighbor", nil, "edges: a router to announce routes to; may be repeated")
	flags.Uint32Var(&options.ASN, "asn", 0, "edges: the autonomous system")
	flags.StringVar(&limit, "wan-limit", "0", "hosts: what may be sent to other sites, as 80mbit; 0 for no limit")
	dvs.add(flags)
	logs.add(flags)
	return cmd
}
