package main

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/bench/document"
)

// conditions are what the figures depend on besides what is measured.
type conditions struct {
	when      time.Time
	kernel    string
	qemu      string
	processor string
	cpus      int

	congestion string
	load       float64 // processors that others kept busy when the run began
}

// look notes the conditions before the bench itself makes any load.
func look() conditions {
	c := conditions{when: time.Now().UTC(), cpus: runtime.NumCPU(), kernel: "unknown", qemu: "unknown", processor: "unknown", congestion: "unknown"}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		c.kernel = unix.ByteSliceToString(name.Release[:])
	}
	if program, err := qemuName(); err == nil {
		if out, err := exec.Command(program, "--version").Output(); err == nil {
			first, _, _ := bytes.Cut(out, []byte("\n"))
			c.qemu = strings.TrimPrefix(string(first), "QEMU emulator version ")
		}
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		c.processor = processorIn(string(text))
	}
	if text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control"); err == nil {
		c.congestion = strings.TrimSpace(string(text))
	}
	c.load = document.Others(c.cpus)
	return c
}

// processorIn finds the name in /proc/cpuinfo.
func processorIn(text string) string {
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// busy says whether something else had the machine when the run began: then the figures are preliminary.
func (c conditions) busy() bool { return c.load > float64(c.cpus)/10 }
