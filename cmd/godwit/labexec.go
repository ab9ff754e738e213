package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/lab"
)

func (a *app) labExecCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec NODE -- COMMAND...",
		Short: "Run a command in a node",
		Long: `Run a command in a node of the lab, with this terminal. The exit code is the
command's. The nodes are ` + strings.Join(lab.Nodes(), ", ") + `.`,
		Example: `  godwit lab exec client -- ping -c 3 203.0.113.10
  godwit lab exec core -- ip route
  godwit lab exec west-edge -- tcpdump -ni uplink`,
		Args: arguments(2, 1<<16, "the NODE, -- and a COMMAND"),
		RunE: func(cmd *cobra.Command, args []string) error {
			up, err := lab.Open(*name)
			if err != nil {
				return err
			}
			command := args[1:]
			if command[0] == "--" && len(command) > 1 {
				command = command[1:] // it came after a word that is no flag, so it was left for us
			}
			code, err := up.Exec(cmd.Context(), args[0], command, lab.Stdio{In: a.in, Out: a.out, Err: a.err})
			switch {
			case err != nil:
				return err
			case code != 0:
				return &exitError{code: code}
			default:
				return nil
			}
		},
	}
	// What follows the node is the command's, flags too, with or without --.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (a *app) labLinkCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "link",
		Short: "Cut or restore a site's uplink",
	}
	var verbs []*cobra.Command
	for verb, cut := range map[string]bool{"cut": true, "restore": false} {
		verbs = append(verbs, &cobra.Command{
			Use:     verb + " SITE",
			Short:   map[bool]string{true: "Drop everything between a site and the provider", false: "Let packets through again"}[cut],
			Example: "  godwit lab link " + verb + " west",
			Args:    arguments(1, 1, "the SITE"),
			RunE: func(cmd *cobra.Command, args []string) error {
				up, err := lab.Open(*name)
				if err != nil {
					return err
				}
				return up.SetLink(cmd.Context(), args[0], lab.LinkChange{Cut: &cut})
			},
		})
	}
	return group(cmd, verbs...)
}
