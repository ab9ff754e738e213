package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/api"
	"github.com/godwit-project/godwit/lab"
)

func (a *app) labStatusCommand(name *string) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, processes, links and BGP sessions",
		Args:  arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			up, err := lab.Open(*name)
			if err != nil {
				return err
			}
			status, err := up.Status(cmd.Context())
			if err != nil {
				return err
			}
			if output != formatText {
				return a.printView(output, status)
			}
			return a.printLabStatus(status)
		},
	}
	outputFlag(cmd, &output, formatJSON, formatYAML)
	return cmd
}

func (a *app) printLabStatus(status lab.Status) error {
	a.printf("lab %s: %s, controller at %s, logs in %s\n", status.Name, readiness(status.Ready), status.Server, status.Dir)
	nodes := &table{coloured: -1}
	nodes.add("NODE", "ROLE", "SITE", "ADDRESSES", "POWER")
	for _, node := range status.Nodes {
		nodes.add(node.Name, node.Role, dash(node.Site), strings.Join(node.Addresses, ","), power(node.Powered))
	}
	processes := &table{coloured: -1}
	processes.add("PROCESS", "NODE", "PID", "RESTARTS", "AGE", "LAST EXIT")
	for _, process := range status.Processes {
		processes.add(process.Name, process.Node, strconv.Itoa(process.Pid), strconv.Itoa(process.Restarts),
			a.now().Sub(process.Since).Truncate(1e9).String(), process.LastExit)
	}
	links := &table{coloured: -1}
	links.add("UPLINK", "STATE", "BANDWIDTH", "DELAY", "LOSS", "IN", "OUT", "DROPPED")
	for _, link := range status.Links {
		state := "up"
		if link.Cut {
			state = "cut"
		}
		links.add(link.Site, state, bandwidthText(link.Rate), link.Delay.String(), strconv.FormatFloat(link.Loss*100, 'g', 3, 64)+"%",
			api.FormatSize(int64(link.In.Bytes)), api.FormatSize(int64(link.Out.Bytes)), number(link.In.Dropped+link.Out.Dropped))
	}
	sessions := &table{coloured: -1}
	sessions.add("BGP SESSION", "STATE")
	for _, session := range status.BGP {
		sessions.add(session.Name, session.State)
	}
	for _, one := range []*table{nodes, processes, links, sessions} {
		if len(one.rows) < 2 {
			continue
		}
		a.printf("\n")
		if err := a.printTable(a.out, one); err != nil {
			return err
		}
	}
	return nil
}

func power(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
