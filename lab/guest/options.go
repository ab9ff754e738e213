//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// options are what the kernel command line may set, each as godwit.NAME=VALUE.
type options struct {
	// dirty is how many bytes of memory are rewritten a second; dirtySpace is the region that they are spread over.
	dirty, dirtySpace int64
	// writes is how many blocks are written to the disk a second; zero switches the writer off.
	writes int
	// fsync makes every so many-th write count as acknowledged only after fdatasync; zero means never.
	fsync int
	// address and gateway, where given, stand in for DHCP.
	address netip.Prefix
	gateway netip.Addr
	// run, where given, is the program of the disk's file system that this one ends in, once the network is there.
	run string
}

func defaultOptions() options {
	return options{dirty: 2 << 20, dirtySpace: 64 << 20, writes: 50, fsync: 5}
}

// parseOptions reads the words of a kernel command line; words without our prefix belong to somebody else.
func parseOptions(commandLine string) (options, error) {
	o := defaultOptions()
	for word := range strings.FieldsSeq(commandLine) {
		word, ours := strings.CutPrefix(word, "godwit.")
		if !ours {
			continue
		}
		name, value, _ := strings.Cut(word, "=")
		if err := o.set(name, value); err != nil {
			return o, fmt.Errorf("kernel command line: godwit.%s=%s: %w", name, value, err)
		}
	}
	if o.gateway.IsValid() && !o.address.IsValid() {
		return o, fmt.Errorf("kernel command line: godwit.gateway needs godwit.address")
	}
	return o, nil
}

func (o *options) set(name, value string) (err error) {
	switch name {
	case "dirty":
		o.dirty, err = parseSize(value)
	case "dirtyspace":
		o.dirtySpace, err = parseSize(value)
	case "writes":
		o.writes, err = parseCount(value)
	case "fsync":
		o.fsync, err = parseCount(value)
	case "address":
		o.address, err = parseAddress(value)
	case "gateway":
		o.gateway, err = netip.ParseAddr(value)
	case "run":
		if o.run = value; !strings.HasPrefix(value, "/") {
			err = fmt.Errorf("want the path of a program on the disk")
		}
	default:
		err = fmt.Errorf("unknown option; there are dirty, dirtyspace, writes, fsync, address, gateway, run")
	}
	return err
}

// parseAddress takes 203.0.113.10 (alone on its link, /32) or 203.0.113.10/24.
func parseAddress(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func parseCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("want a number, zero or more")
	}
	return n, nil
}

// parseSize takes bytes, or a whole number of KiB, MiB or GiB.
func parseSize(s string) (int64, error) {
	number, shift := s, 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if cut, ok := strings.CutSuffix(s, unit); ok {
			number, shift = cut, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("want a size such as 512KiB, 2MiB or 0")
	}
	return n << shift, nil
}
