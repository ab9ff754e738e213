package main

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/godwit-project/godwit/agent"
	"github.com/godwit-project/godwit/agent/dvshost/balance"
)

// agentDVSFlags are those of an agent's node of the DVS.
type agentDVSFlags struct {
	run, balance bool
	policy       string
	node         agent.DVSOptions
}

func (f *agentDVSFlags) add(flags *pflag.FlagSet) {
	flags.BoolVar(&f.run, "dvs", false, "hosts: run a node of the DVS")
	flags.StringVar(&f.node.Listen, "dvs-listen", "", "hosts: HOST:PORT for the nodes of other hosts (default port 7445 of --address)")
	flags.StringVar(&f.node.Streams, "dvs-streams", "", "hosts: HOST:PORT for connections between programs here and at other hosts, or off\n(default a free port, at the host of --dvs-listen)")
	flags.StringVar(&f.node.Socket, "dvs-socket", defaultDVSSocket, "hosts: where programs and godwit dvs reach the node")
	flags.StringVar(&f.node.Group, "dvs-group", "", "hosts: a group whose members may connect programs too (default: root alone)")
	flags.StringVar(&f.policy, "dvs-policy", "", "hosts: a file that says which programs and which hosts may do what in which container\n(see godwit dvs policy --help)")
	flags.BoolVar(&f.node.Native.Accept, "dvs-native", false, "hosts: take in native programs that move here: every host that runs a node can run anything on this one then")
	flags.BoolVar(&f.balance, "dvs-balance", false, "hosts: move processes to other hosts when this one has too much to do")
}

// options are nil when no node is to run.
func (f *agentDVSFlags) options(flags *pflag.FlagSet) (*agent.DVSOptions, error) {
	if !f.run {
		var alone error
		flags.Visit(func(one *pflag.Flag) {
			if strings.HasPrefix(one.Name, "dvs-") {
				alone = usagef("--%s is for the node of the DVS: want --dvs too", one.Name)
			}
		})
		return nil, alone
	}
	var err error
	if f.node.Policy, err = loadDVSPolicy(f.policy); err != nil {
		return nil, err
	}
	f.node.Native.Shepherd = dvsShepherd()
	if f.balance {
		limits := balance.Default()
		f.node.Balance = &limits
	}
	return &f.node, nil
}

// dvsShepherd is how a node runs this program as process 1 of a native program's namespace.
func dvsShepherd() []string { return []string{"/proc/self/exe", "dvs", "shepherd"} }
