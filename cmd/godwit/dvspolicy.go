package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/agent/dvshost/policy"
)

// loadDVSPolicy returns nil without a file: then everything is allowed.
func loadDVSPolicy(file string) (*policy.Policy, error) {
	if file == "" {
		return nil, nil
	}
	return policy.Load(file)
}

func (a *app) dvsPolicyCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "policy",
		Short: "Say who may enter which container, and do what there",
		Long: `A policy is a file that a node reads when it starts (godwit dvs node --policy FILE,
godwit agent --dvs-policy FILE):

  containers:
    - name: shop               # "*" stands for all that have no entry
      nodes: [b, c]            # other nodes that may know of it; left out: all; []: none
      allow:
        - programs: [user:alice, group:shop]
        - programs: [any]
          endpoints: [kv, cart-*]   # left out: all
          may: [sendrec, notify]    # left out: all

A container without an entry is closed. Who is named in none of its rules may not
enter; others may do what the rules that name them allow together:

  send, sendrec, notify, copy-read, copy-write   with an endpoint, wherever it is
  call                                           all of these
  bind                                           own the name, or be its standby
  all                                            everything

Programs are known by the user and the groups that the kernel says they have
(user:NAME or user:NUMBER; any is whoever can connect: see --group), nodes by the name
in their certificates. Each node decides about its own programs, and believes the
nodes with which it shares a container: give all of them the same file. Modules, and
who may use the .admin socket, are the node's own and may do everything, but move
only to nodes that may know of their container. Native programs that a node starts
run as its user: name that.

Programs that may call everything share memory and have connections of their own as
without a policy; what others ask passes through the nodes, which costs time.`,
	}, a.dvsPolicyCheckCommand())
}

func (a *app) dvsPolicyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "check FILE",
		Short:   "Read a policy as a node would, and say what is wrong with it",
		Example: `  godwit dvs policy check /etc/godwit/dvs.yaml`,
		Args:    arguments(1, 1, "the file of a policy"),
		RunE: func(_ *cobra.Command, words []string) error {
			if _, err := policy.Load(words[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(a.out, "%s is a policy; a node takes it when it starts\n", words[0])
			return err
		},
	}
}
