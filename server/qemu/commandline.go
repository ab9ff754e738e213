package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/godwit-project/godwit/server"
)

const mebibyte = 1 << 20

var errMachine = errors.New("the machine cannot be built")

// checkMachine refuses what QEMU would refuse less clearly, and what would be read as several options.
func checkMachine(m server.Machine) error {
	if err := checkName(m.Name); err != nil {
		return err
	}
	wrong := func(format string, a ...any) error {
		return fmt.Errorf("machine %s: %w: %s", m.Name, errMachine, fmt.Sprintf(format, a...))
	}
	switch {
	case m.CPUs < 1:
		return wrong("it needs at least one CPU")
	case m.Memory < mebibyte || m.Memory%mebibyte != 0:
		return wrong("memory is %d bytes; give a multiple of 1 MiB", m.Memory)
	case m.Kernel == "" && len(m.Disks) == 0:
		return wrong("it has neither a kernel nor a disk to boot from")
	case m.Kernel == "" && (m.Initrd != "" || m.CommandLine != ""):
		return wrong("initrd and command line need a kernel")
	}
	for _, word := range []string{m.MachineType, m.CPUModel, m.Accelerator} {
		if strings.ContainsAny(word, ",= ") {
			return wrong("%q is not a name of a machine type, CPU model or accelerator", word)
		}
	}
	for i, d := range m.Disks {
		if d.Socket == "" {
			return wrong("disk %d (%s) has no socket", i, d.Name)
		}
	}
	for _, n := range m.NICs {
		if n.Tap == "" || strings.ContainsAny(n.Tap+n.MAC, ", ") {
			return wrong("network card %q needs the name of a tap device", n.MAC)
		}
	}
	return nil
}

// commandLine is the same at both ends of a handover in everything that the guest sees.
func commandLine(m server.Machine, incoming, ballast, sandbox bool) ([]string, error) {
	if err := checkMachine(m); err != nil {
		return nil, err
	}
	a := []string{
		"-name", guestName(m.Name),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-pidfile", pidFile,
		"-chardev", "socket,id=qmp,path=" + qmpFile + ",server=on,wait=off", "-mon", "chardev=qmp,mode=control",
		// The description of the device state would be sent in the blackout, for debuggers only.
		"-machine", m.MachineType + ",accel=" + m.Accelerator + ",memory-backend=ram0,suppress-vmdesc=on",
		"-cpu", m.CPUModel + ",enforce",
		"-smp", strconv.Itoa(m.CPUs),
		"-object", memoryArgument(m),
		"-m", strconv.FormatInt(m.Memory/mebibyte, 10),
		"-msg", "timestamp=on",
		"-boot", "strict=on",
		"-device", "virtio-rng-pci",
	}
	console := m.Console
	if console == "" {
		console = serialFile
	}
	a = append(a, "-chardev", "file,id=serial0,append=on,path="+escape(console), "-serial", "chardev:serial0")
	if m.Kernel != "" {
		a = append(a, "-kernel", m.Kernel)
		if m.Initrd != "" {
			a = append(a, "-initrd", m.Initrd)
		}
		if m.CommandLine != "" {
			a = append(a, "-append", m.CommandLine)
		}
	}
	for i, d := range m.Disks {
		disk, err := diskArguments(i, d, m.Kernel == "" && i == 0)
		if err != nil {
			return nil, err
		}
		a = append(a, disk...)
	}
	for i, n := range m.NICs {
		// No announcement after a move: nobody learns from frames where this guest is, and to make them is some 2,500
		// blocks of guest code in its first moments.
		id := "net" + strconv.Itoa(i)
		a = append(a, "-netdev", "tap,id="+id+",ifname="+n.Tap+",script=no,downscript=no,vhost=off",
			"-device", "virtio-net-pci,netdev="+id+",mac="+n.MAC+",romfile=,guest_announce=off")
	}
	if ballast {
		a = append(a, "-blockdev", ballastArgument())
	}
	if sandbox {
		a = append(a, "-sandbox", sandboxArgument)
	}
	if incoming {
		a = append(a, "-S", "-incoming", "defer")
	}
	return a, nil
}

// memoryArgument makes memory that we can look at, where we have to; both kinds are the same to the guest and in the stream.
func memoryArgument(m server.Machine) string {
	size := strconv.FormatInt(m.Memory, 10)
	if doubtful(m) {
		return "memory-backend-memfd,share=on,id=ram0,size=" + size
	}
	return "memory-backend-ram,id=ram0,size=" + size
}

// sandboxArgument keeps a QEMU that its guest has broken into from starting programs or gaining rights.
const sandboxArgument = "on,obsolete=deny,elevateprivileges=deny,spawn=deny"

func ballastArgument() string {
	return fmt.Sprintf(`{"driver":"null-co","node-name":%q,"size":%d,"read-zeroes":true}`, ballastNode, ballastSize)
}

func diskArguments(i int, d server.Disk, boot bool) ([]string, error) {
	const reconnect = 600 // seconds: a restart of what serves the volume is a pause, not an I/O error
	node := "disk" + strconv.Itoa(i)
	socket, err := filepath.Abs(d.Socket)
	if err != nil {
		return nil, err
	}
	blockdev, err := json.Marshal(map[string]any{
		"driver": "nbd", "node-name": node, "export": d.Export, "reconnect-delay": reconnect, "discard": "unmap",
		"server": map[string]string{"type": "unix", "path": socket},
	})
	if err != nil {
		return nil, err
	}
	// A failed write stops the guest, which can go on when there is room again, rather than telling it of a broken disk, which it never
	// forgets. A failed read is told, as a disk array would of a bad sector: to try again would not put it right.
	device := "virtio-blk-pci,drive=" + node + ",id=virtio-" + node + ",werror=stop,rerror=report"
	if d.Name != "" {
		const longestSerial = 20
		device += ",serial=" + escape(d.Name[:min(len(d.Name), longestSerial)])
	}
	if boot {
		device += ",bootindex=0"
	}
	return []string{"-blockdev", string(blockdev), "-device", device}, nil
}

// escape doubles commas, as QEMU's option lists want them.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
