//go:build linux

package main

import (
	"net/netip"
	"testing"
)

func TestKernelCommandLineSetsTheLoad(t *testing.T) {
	defaults := defaultOptions()
	with := func(change func(*options)) options {
		o := defaults
		change(&o)
		return o
	}
	for name, c := range map[string]struct {
		line string
		want options
	}{
		"OK nothing of ours":         {"console=ttyS0 quiet\n", defaults},
		"OK sizes with units":        {"godwit.dirty=8MiB godwit.dirtyspace=1GiB", with(func(o *options) { o.dirty, o.dirtySpace = 8<<20, 1<<30 })},
		"OK load off":                {"godwit.dirty=0 godwit.writes=0", with(func(o *options) { o.dirty, o.writes = 0, 0 })},
		"OK no fsync":                {"godwit.fsync=0", with(func(o *options) { o.fsync = 0 })},
		"OK address of a host":       {"godwit.address=203.0.113.10", with(func(o *options) { o.address = netip.MustParsePrefix("203.0.113.10/32") })},
		"OK a program of the disk's": {"godwit.run=/sbin/init", with(func(o *options) { o.run = "/sbin/init" })},
		"OK address in a subnet with a gateway": {"godwit.address=192.0.2.5/24 godwit.gateway=192.0.2.1", with(func(o *options) {
			o.address, o.gateway = netip.MustParsePrefix("192.0.2.5/24"), netip.MustParseAddr("192.0.2.1")
		})},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseOptions(c.line)
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestKernelCommandLineRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for _, line := range []string{
		"godwit.dirty=fast", "godwit.dirty=-1", "godwit.dirty=9223372036854775807GiB", "godwit.writes=-1", "godwit.writes=1.5",
		"godwit.address=shop", "godwit.gateway=169.254.1.1", "godwit.colour=red", "godwit.run=init", "godwit.run", "godwit.dirty",
	} {
		if o, err := parseOptions(line); err == nil {
			t.Errorf("%s was taken for %+v", line, o)
		}
	}
}
