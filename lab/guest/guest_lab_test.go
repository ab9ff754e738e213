//go:build lab

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// virtualMachine is a guest on QEMU's user-mode network.
type virtualMachine struct {
	t        *testing.T
	console  string
	forwards map[int]string // guest port to local address
	exited   chan struct{}
	started  time.Time
}

// boot starts the guest that `make build` has left, with a disk of 256 MiB and the given words on its command line.
func boot(t *testing.T, words string) *virtualMachine {
	t.Helper()
	guest, err := filepath.Abs("../../bin/guest")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"vmlinuz", "initrd.gz"} {
		if _, err := os.Stat(filepath.Join(guest, file)); err != nil {
			t.Skipf("there is no guest: run make build (%v)", err)
		}
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed (package qemu-system-x86)")
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 256<<20); err != nil {
		t.Fatal(err)
	}
	vm := &virtualMachine{
		t: t, console: filepath.Join(dir, "console"), started: time.Now(), exited: make(chan struct{}),
		forwards: map[int]string{servicePort: freeAddress(t), controlPort: freeAddress(t)},
	}
	user := "user,id=net"
	for port, address := range vm.forwards {
		user += fmt.Sprintf(",hostfwd=tcp:%s-:%d", address, port)
	}
	command := exec.Command(
		qemu, "-accel", "tcg", "-machine", "pc", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "file:"+vm.console, "-kernel", filepath.Join(guest, "vmlinuz"), "-initrd", filepath.Join(guest, "initrd.gz"),
		"-append", "console=ttyS0 panic=-1 "+words, "-drive", "file="+disk+",format=raw,if=virtio",
		"-netdev", user, "-device", "virtio-net-pci,netdev=net",
	)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(vm.exited)
		_ = command.Wait()
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-vm.exited
		if t.Failed() {
			t.Logf("the console:\n%s", vm.consoleText())
		}
	})
	return vm
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// waitReady returns when the console says that the guest serves. (QEMU accepts connections before the guest listens, and then
// leaves them hanging: so the port cannot be asked.) The minute is for a machine that is busy with other things.
func (vm *virtualMachine) waitReady() {
	vm.t.Helper()
	ctx, cancel := context.WithTimeout(vm.t.Context(), time.Minute)
	defer cancel()
	for !strings.Contains(vm.consoleText(), "godwit-guest ready 10.0.2.15") {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-vm.exited:
			vm.t.Fatal("the machine ended before it was ready")
		case <-ctx.Done():
			vm.t.Fatal("the machine was not ready within a minute")
		}
	}
}

// consoleText is what the console has shown so far.
func (vm *virtualMachine) consoleText() string {
	text, _ := os.ReadFile(vm.console) // it is not there before QEMU is
	return string(text)
}

// ask sends a line to a guest's port and returns the answer.
func (vm *virtualMachine) ask(port int, line string) string {
	vm.t.Helper()
	conn, err := net.Dial("tcp", vm.forwards[port])
	if err != nil {
		vm.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		vm.t.Fatal(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		vm.t.Fatalf("%s: %v", line, err)
	}
	return strings.TrimSpace(answer)
}

func (vm *virtualMachine) stats() stats {
	vm.t.Helper()
	return decodeAnswer[stats](vm, "stats")
}

func decodeAnswer[T any](vm *virtualMachine, line string) (value T) {
	vm.t.Helper()
	answer := vm.ask(controlPort, line)
	if err := json.Unmarshal([]byte(answer), &value); err != nil {
		vm.t.Fatalf("%s: %s: %v", line, answer, err)
	}
	return value
}

func TestGuestBootsServesAndVouchesForItsDisk(t *testing.T) {
	vm := boot(t, "quiet godwit.writes=100 godwit.dirty=4MiB")
	vm.waitReady()
	t.Logf("ready %v after QEMU was started", time.Since(vm.started).Round(10*time.Millisecond))
	first := vm.ask(servicePort, "7")
	if !strings.HasPrefix(first, "7 ") {
		t.Errorf("answered %q to 7", first)
	}
	var s stats
	for s.WritesAcknowledged < 300 || s.DirtiedBytes < 8<<20 {
		s = vm.stats()
	}
	if s.WriteErrors != 0 || s.Fsyncs == 0 || s.Count == 0 {
		t.Errorf("%+v", s)
	}
	v := decodeAnswer[verdict](vm, "verify")
	t.Logf("%+v %+v", s, v)
	if v.Lost != 0 || v.IOErrors != 0 || v.Checked == 0 || v.Acknowledged < 300 {
		t.Errorf("%+v", v)
	}
	vm.ask(controlPort, "poweroff")
	<-vm.exited
}

func TestGuestTakesItsAddressFromTheCommandLine(t *testing.T) {
	vm := boot(t, "quiet godwit.writes=0 godwit.address=10.0.2.15 godwit.gateway=10.0.2.2")
	vm.waitReady()
	if answer := vm.ask(servicePort, "1"); !strings.HasSuffix(answer, " 0") {
		t.Errorf("answered %q, want no acknowledged write", answer)
	}
}

func TestGuestSaysOnTheConsoleWhyItCannotRun(t *testing.T) {
	vm := boot(t, "quiet godwit.dirtyspace=1GiB")
	<-vm.exited
	if want := "godwit-guest FAILED: memory load: godwit.dirtyspace is 1073741824 bytes"; !strings.Contains(vm.consoleText(), want) {
		t.Errorf("the console lacks %q", want)
	}
}
