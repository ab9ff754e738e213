//go:build linux

// Guest is the whole user space of the lab's virtual servers: one static program, PID 1 of an initramfs.
//
// It answers clients (TCP and UDP port 7000), keeps memory and disk busy at a rate that the kernel command line sets, and can
// prove afterwards, on its control port (TCP 7001), that no disk write that was acknowledged to it has been lost. So one small
// machine shows at once what a migration must not disturb: connections, memory, and the disk.
//
// It stands for a customer's machine: it knows nothing of Godwit, and nothing of Godwit may be imported here.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	servicePort = 7000
	controlPort = 7001
	diskPath    = "/dev/vda"
	// memoryLimit makes the collector work harder before the heap competes with the load for a small machine's memory.
	memoryLimit = 48 << 20
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "godwit-guest: this is PID 1 of the lab's guest; build an image with `make build` and boot it")
		os.Exit(2)
	}
	calmly()
	// One processor: under TCG a second thread that spins for work costs more than it brings.
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(memoryLimit)
	console := &console{w: os.Stdout}
	defer console.dieOnPanic("main")
	if err := run(console); err != nil {
		console.die(err)
	}
}

// calmly starts this program again with a runtime that sends no signals to take the processor from a goroutine: each costs an
// emulated processor some 500 blocks of code that it has not translated yet, in the first moments after a move, and
// nothing here runs for long. The runtime reads that setting from the environment alone.
func calmly() {
	const setting = "GODEBUG"
	if os.Getenv(setting) == "" {
		_ = unix.Exec("/init", os.Args, append(os.Environ(), setting+"=asyncpreemptoff=1")) // as it is, it serves as well
	}
}

// run boots, serves, and returns only with an error.
func run(console *console) error {
	started := time.Now()
	if err := mountFileSystems(); err != nil {
		return err
	}
	commandLine, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read the kernel command line: %w", err)
	}
	options, err := parseOptions(string(commandLine))
	if err != nil {
		return err
	}
	if err := creditEntropy(); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}

	if options.run != "" {
		return becomeOf(console, options)
	}

	m := &machine{started: started, console: console, memory: newMemoryLoad(options), powerOff: powerOff}
	if m.disk, err = openDisk(diskPath, options); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var tasks sync.WaitGroup
	task := func(name string, f func(context.Context) error) {
		tasks.Go(func() {
			defer console.dieOnPanic(name)
			if err := f(ctx); err != nil {
				console.die(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	task("memory load", m.memory.run)
	if m.disk != nil {
		task("disk load", m.disk.run)
	}

	// The listeners open before the address is there: the first packet that arrives finds them.
	service, err := net.Listen("tcp", ":"+strconv.Itoa(servicePort))
	if err != nil {
		return fmt.Errorf("serve clients: %w", err)
	}
	control, err := net.Listen("tcp", ":"+strconv.Itoa(controlPort))
	if err != nil {
		return fmt.Errorf("serve the control port: %w", err)
	}
	echo, err := net.ListenUDP("udp", &net.UDPAddr{Port: servicePort})
	if err != nil {
		return fmt.Errorf("serve the UDP echo: %w", err)
	}
	task("counting service", func(context.Context) error { return acceptAll(service, console, m.serveCounter) })
	task("control port", func(context.Context) error { return acceptAll(control, console, m.serveControl) })
	task("UDP echo", func(context.Context) error { return serveEcho(echo) })

	address, err := setUpNetwork(ctx, console, options)
	if err != nil {
		return err
	}
	console.printf("ready %s", address)
	tasks.Wait()
	return fmt.Errorf("all services ended")
}

// becomeOf makes this machine the one of the disk's file system. It returns only with an error.
func becomeOf(console *console, o options) error {
	address, err := setUpNetwork(context.Background(), console, o)
	if err != nil {
		return err
	}
	console.printf("ready %s, and goes on as %s", address, o.run)
	return become(diskPath, o.run)
}

// console writes whole lines that begin with the program's name, so that they can be found among the kernel's.
type console struct {
	mu sync.Mutex
	w  io.Writer
}

func (c *console) printf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.w, "godwit-guest "+format+"\n", args...)
}

// dieOnPanic is deferred at the bottom of every goroutine: a panic of PID 1 would otherwise be a kernel panic, whose
// hundred lines hide the cause.
func (c *console) dieOnPanic(where string) {
	if r := recover(); r != nil {
		c.printf("PANIC in %s: %v\n%s", where, r, debug.Stack())
		powerOff()
	}
}

func (c *console) die(err error) {
	c.printf("FAILED: %v", err)
	powerOff()
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
