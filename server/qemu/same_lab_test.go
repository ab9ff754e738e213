//go:build lab

package qemu

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-project/godwit/server"
	"github.com/godwit-project/godwit/server/memcheck"
)

func TestTheDestinationsMemoryIsTheSources(t *testing.T) {
	kernel, err := filepath.Abs("../../bin/guest/vmlinuz")
	check(t, err)
	if _, err := os.Stat(kernel); err != nil {
		t.Skip("needs bin/guest: make build")
	}
	p := newPlace(t, idle)
	newTap(t, "gwsametest")
	p.spec.Kernel, p.spec.Initrd = kernel, filepath.Join(filepath.Dir(kernel), "initrd.gz")
	p.spec.CommandLine = "console=ttyS0 quiet godwit.dirty=2MiB godwit.dirtyspace=64MiB godwit.writes=50 godwit.fsync=5 godwit.address=203.0.113.10 godwit.gateway=169.254.1.1"
	p.spec.NICs = []server.NIC{{MAC: "52:54:00:00:00:01", Tap: "gwsametest"}}
	check(t, p.from.Start(t.Context(), p.spec))
	until(t, func() bool { return bytes.Contains([]byte(p.console(0)), []byte("godwit-guest ready")) })
	for _, args := range [][]string{{"link", "set", "gwsametest", "up"}, {"addr", "add", "169.254.1.1/32", "dev", "gwsametest"}, {"route", "add", "203.0.113.10/32", "dev", "gwsametest"}} {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", args, out)
		}
	}
	for range 3 {
		ping := exec.Command("ping", "-q", "-i", "0.002", "-s", "200", "203.0.113.10")
		check(t, ping.Start())
		t.Cleanup(func() { ping.Process.Signal(os.Interrupt); ping.Wait() })
	}
	dest := p.spec
	dest.NICs = []server.NIC{{MAC: "52:54:00:00:00:01", Tap: "gwsametest2"}}
	newTap(t, "gwsametest2")
	p.spec = dest
	for epoch := uint64(1); epoch <= 3; epoch++ {
		dial, _ := p.prepared(epoch, wan(t))
		check(t, p.from.Converge(t.Context(), "shop", epoch, dial, nil))
		check(t, p.from.Converge(t.Context(), "shop", epoch, dial, nil))
		check(t, p.from.Quiesce(t.Context(), "shop", epoch, nil))
		check(t, p.to.Loaded(t.Context(), "shop", epoch))
		from, err := p.from.Memory("shop")
		check(t, err)
		to, err := p.to.Memory("shop")
		check(t, err)
		if from == nil || to == nil {
			t.Skip("this accelerator's account of changed memory is trusted")
		}
		a, b := net.Pipe()
		offered := make(chan error, 1)
		go func() { offered <- memcheck.Offer(t.Context(), a, from) }()
		begun := time.Now()
		pages, err := memcheck.Repair(t.Context(), b, to)
		check(t, errors.Join(err, <-offered))
		t.Logf("epoch %d: %d pages were mended in %v", epoch, pages, time.Since(begun))
		if !bytes.Equal(from.Bytes(), to.Bytes()) {
			t.Errorf("epoch %d: the memories differ", epoch)
		}
		check(t, errors.Join(from.Close(), to.Close()))
		check(t, p.to.DropIncoming(t.Context(), "shop", epoch))
		check(t, p.from.Rollback(t.Context(), "shop", epoch))
	}
}

// newTap makes a tap that is gone when the test is. One that a killed run left behind is taken down first.
func newTap(t *testing.T, name string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a tap")
	}
	remove := func() error { return exec.Command("ip", "link", "del", name).Run() }
	remove()
	if out, err := exec.Command("ip", "tuntap", "add", name, "mode", "tap", "vnet_hdr").CombinedOutput(); err != nil {
		t.Fatalf("make the tap %s: %s", name, out)
	}
	t.Cleanup(func() { check(t, remove()) })
}
