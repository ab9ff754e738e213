package agent

import (
	"bufio"
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/server"
)

// probeTimeout bounds the search for a working accelerator; its first run starts machines.
const probeTimeout = 60 * time.Second

// capabilities asks the platform once, and again only after a failure.
func (h *host) capabilities(ctx context.Context) (server.Capabilities, error) {
	h.probe.Lock()
	defer h.probe.Unlock()
	if h.probe.done {
		return h.probe.capabilities, nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	h.probe.capabilities, h.probe.err = h.platform.Probe(ctx)
	h.probe.done = h.probe.err == nil
	return h.probe.capabilities, h.probe.err
}

func (h *host) facts(ctx context.Context) *pb.HostFacts {
	f := new(pb.HostFacts)
	c, err := h.capabilities(ctx)
	if err != nil {
		f.Problem = err.Error()
	}
	f.Platform, f.Version, f.Accelerator = c.Platform, c.Version, c.Accelerator
	f.MachineTypes, f.CpuModels = c.MachineTypes, c.CPUModels
	f.MemoryTotal, f.MemoryFree = memory()
	if free, err := h.store.Free(); err == nil {
		f.DiskFree = free
	} else {
		f.Problem = err.Error()
	}
	return f
}

func freeMemory() int64 {
	_, free := memory()
	return free
}

// memory returns the machine's memory, and what of it is available without swapping, in bytes; zeroes when the kernel
// does not say.
func memory() (total, available int64) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = kib << 10
		case "MemAvailable:":
			available = kib << 10
		}
	}
	return total, available
}
