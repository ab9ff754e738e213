package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/lab"
)

// linkFlags describe the network between the sites, as users write it.
type linkFlags struct {
	rtt       time.Duration
	bandwidth string
	loss      string
}

func (l *linkFlags) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&l.rtt, "rtt", lab.DefaultRTT, "round trip between the sites")
	cmd.Flags().StringVar(&l.bandwidth, "bandwidth", "100mbit", "of each site's uplink, in either direction; 0 for no limit")
	cmd.Flags().StringVar(&l.loss, "loss", "0", "share of packets lost on each uplink: 0.01 or 1%")
}

// config writes them into a lab's configuration, where a negative number says none.
func (l *linkFlags) config(into *lab.Config) error {
	bandwidth, err := parseBandwidth(l.bandwidth)
	if err != nil {
		return err
	}
	loss, err := parseShare(l.loss)
	if err != nil {
		return err
	}
	if l.rtt < 0 {
		return usagef("bad --rtt %v: it cannot be negative", l.rtt)
	}
	into.RTT, into.Bandwidth, into.Loss = l.rtt, bandwidth, loss
	if l.rtt == 0 {
		into.RTT = -1
	}
	if bandwidth == 0 {
		into.Bandwidth = -1
	}
	return nil
}

func (a *app) labUpCommand(name *string) *cobra.Command {
	var (
		links  linkFlags
		config lab.Config
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the lab",
		Example: `  godwit lab up
  godwit lab up --rtt 50ms --bandwidth 1gbit --loss 0.1%`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config.Name = *name
			if err := links.config(&config); err != nil {
				return err
			}
			up, err := lab.Up(cmd.Context(), config, func(step string) { a.sayf("  %s\n", step) })
			if err != nil {
				return err
			}
			a.printf("the lab is up; its controller is %s\n", up.Server())
			return nil
		},
	}
	links.add(cmd)
	cmd.Flags().IntVar(&config.Controllers, "controllers", 1, "number of controllers")
	cmd.Flags().IntVar(&config.MTU, "mtu", lab.DefaultMTU, "of the provider's and the sites' links, in bytes")
	return cmd
}

func (a *app) labDownCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take the lab down and leave nothing behind",
		Args:  arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			removed, err := lab.Down(cmd.Context(), *name)
			for _, one := range removed {
				a.sayf("  removed %s\n", one)
			}
			if err != nil {
				return err
			}
			a.printf("the lab is down\n")
			return nil
		},
	}
}

// parseBandwidth reads bits per second as tc writes them: 100mbit, 1gbit, 500kbit.
func parseBandwidth(text string) (int64, error) {
	lower := strings.ToLower(strings.TrimSpace(text))
	factor := 1.0
	for _, unit := range []struct {
		name   string
		factor float64
	}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"bit", 1}} {
		if number, ok := strings.CutSuffix(lower, unit.name); ok {
			lower, factor = number, unit.factor
			break
		}
	}
	value, err := strconv.ParseFloat(lower, 64)
	if err != nil || !(value >= 0 && value*factor < 1e15) {
		return 0, usagef("bad bandwidth %q: want 100mbit, 1gbit or 500kbit", text)
	}
	return int64(value * factor), nil
}

// parseShare reads a probability: 0.01 or 1%.
func parseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	value, err := strconv.ParseFloat(number, 64)
	if percent {
		value /= 100
	}
	if err != nil || !(value >= 0 && value < 1) {
		return 0, usagef("bad share %q: want 0.01 or 1%%", text)
	}
	return value, nil
}

func bandwidthText(bits int64) string {
	switch {
	case bits <= 0:
		return "no limit"
	case bits%1e9 == 0:
		return fmt.Sprintf("%dgbit", bits/1e9)
	case bits%1e6 == 0:
		return fmt.Sprintf("%dmbit", bits/1e6)
	default:
		return fmt.Sprintf("%.3gmbit", float64(bits)/1e6)
	}
}
