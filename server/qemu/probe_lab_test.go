//go:build lab

package qemu

import (
	"strings"
	"testing"
	"time"
)

func TestProbeFindsAnAcceleratorThatRunsAndRemembersIt(t *testing.T) {
	p, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	begun := time.Now()
	first, err := p.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v: %+v", time.Since(begun), first)
	if !strings.HasPrefix(first.MachineTypes[0], "pc-q35-") || first.Accelerator == "" {
		t.Errorf("found %+v", first)
	}
	begun = time.Now()
	if _, err := p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("again: %v", time.Since(begun))
}
