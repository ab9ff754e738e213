package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/server"
	"github.com/godwit-project/godwit/server/qemu/qmp"
)

// findings are what Probe keeps.
type findings struct {
	server.Capabilities
	Ballast bool   // this QEMU has the driver that the ballast needs
	Sandbox bool   // and can lock itself up
	Of      string // what the findings depend on: the program and the kernel
}

const findingsFile = "capabilities.json"

// preferredCPUs are pinned models with 64 bits that Linux distributions run on, the best first. Which of them an accelerator has
// whole, QEMU says; two sites agree on the first that both have.
var preferredCPUs = []string{
	"EPYC-Milan-v1", "EPYC-Rome-v2", "EPYC-v3", "EPYC-v1", "Icelake-Server-v2", "Icelake-Server-v1",
	"Cascadelake-Server-v4", "Cascadelake-Server-v1", "Skylake-Server-v4", "Skylake-Server-v1", "Broadwell-v2", "Broadwell-v1",
	"Haswell-v2", "Haswell-v1", "IvyBridge-v2", "IvyBridge-v1", "SandyBridge-v2", "SandyBridge-v1", "Westmere-v2", "Westmere-v1",
	"Nehalem-v2", "Nehalem-v1", "Penryn-v1", "Conroe-v1", "qemu64-v1", "kvm64-v1",
}

// Probe implements server.Platform.
func (p *Platform) Probe(ctx context.Context) (server.Capabilities, error) {
	f, err := p.probe(ctx)
	return f.Capabilities, err
}

func (p *Platform) probe(ctx context.Context) (findings, error) {
	binary, err := p.binary()
	if err != nil {
		return findings{}, err
	}
	p.probing.Lock()
	defer p.probing.Unlock()
	of, err := fingerprint(binary)
	if err != nil {
		return findings{}, fmt.Errorf("probe QEMU: %w", err)
	}
	var f findings
	if data, err := os.ReadFile(filepath.Join(p.o.Dir, findingsFile)); err == nil && json.Unmarshal(data, &f) == nil && f.Of == of {
		return f, nil
	}
	if f, err = p.tryAccelerators(ctx, binary); err != nil {
		return findings{}, fmt.Errorf("probe QEMU: %w", err)
	}
	f.Of = of
	data, err := json.MarshalIndent(f, "", "  ")
	if err == nil {
		err = replaceFile(p.o.Dir, findingsFile, append(data, '\n'), true)
	}
	if err != nil {
		return findings{}, fmt.Errorf("keep what was found out about QEMU: %w", err)
	}
	return f, nil
}

// fingerprint changes when the findings may.
func fingerprint(binary string) (string, error) {
	info, err := os.Stat(binary)
	if err != nil {
		return "", err
	}
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return "", err
	}
	_, kvm := os.Stat("/dev/kvm")
	return fmt.Sprintf("%s %d %d %s kvm=%v", binary, info.Size(), info.ModTime().UnixNano(), unix.ByteSliceToString(kernel.Release[:]), kvm == nil), nil
}

// tryAccelerators takes the first one under which a machine comes up and a preferred CPU is whole.
func (p *Platform) tryAccelerators(ctx context.Context, binary string) (findings, error) {
	var refusals []error
	for _, accelerator := range []string{"kvm", "tcg"} {
		if accelerator == "kvm" {
			if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
				refusals = append(refusals, fmt.Errorf("kvm: %w", err))
				continue
			} else {
				f.Close()
			}
		}
		f, err := p.tryFeatures(ctx, binary, accelerator)
		if err == nil {
			return f, nil
		}
		p.log.Info("accelerator does not run a machine", "accelerator", accelerator, "err", err)
		refusals = append(refusals, fmt.Errorf("%s: %w", accelerator, err))
		if ctx.Err() != nil {
			break
		}
	}
	return findings{}, fmt.Errorf("no accelerator runs a machine here: %w", errors.Join(refusals...))
}

// tryFeatures leaves out what this QEMU was built without.
func (p *Platform) tryFeatures(ctx context.Context, binary, accelerator string) (findings, error) {
	var first error
	for _, with := range []findings{{Ballast: true, Sandbox: true}, {Sandbox: true}, {Ballast: true}, {}} {
		f, err := p.tryMachine(ctx, binary, accelerator, with)
		if err == nil {
			return f, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, errDead) {
			break // it came up, and leaving something out would not help
		}
	}
	return findings{}, first
}

// probeSector switches to 64 bits with paging and says G at the debug port.
const probeSector = "\xfa\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x70\x66\xbf\x00\x10\x00\x00\x0f\x22\xdf\x66\x31\xc0\x66\xb9\x00\x08" +
	"\x00\x00\xfc\x66\xf3\xab\x66\xc7\x06\x00\x10\x03\x20\x00\x00\x66\xc7\x06\x00\x20\x83\x00\x00\x00\x66\xc7\x06\x00\x10\x03\x20\x00\x00" +
	"\x66\xc7\x06\x00\x20\x03\x30\x00\x00\x66\xb8\x83\x00\x00\x00\x66\xa3\x00\x30\x0f\x20\xe0\x0c\x20\x0f\x22\xe0\x66\xb9\x80\x00\x00\xc0" +
	"\x0f\x32\x0d\x00\x01\x0f\x30\x66\x0f\x01\x16\x98\x7c\x0f\x20\xc0\x66\x0d\x01\x00\x00\x80\x0f\x22\xc0\x66\xea\x7f\x7c\x00\x00\x08\x00" +
	"\x0f\x31\xb0\x47\xe6\xe9\xf4\xeb\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x9a\x20\x00\x0f\x00\x88\x7c"

// tryMachine starts a tiny machine, asks it what this QEMU can do, and waits until it has booted.
func (p *Platform) tryMachine(ctx context.Context, binary, accelerator string, with findings) (f findings, err error) {
	const patience = 30 * time.Second // a loaded machine under TCG; unloaded it takes 0.2 s
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dir, err := os.MkdirTemp(p.o.Dir, ".probe-")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
	disk := make([]byte, mebibyte)
	copy(disk, probeSector)
	disk[510], disk[511] = 0x55, 0xaa
	if err := os.WriteFile(filepath.Join(dir, "disk"), disk, 0o600); err != nil {
		return f, err
	}
	a := []string{
		"-machine", "q35,accel=" + accelerator, "-m", "32", "-nodefaults", "-no-user-config", "-display", "none",
		"-blockdev", "driver=file,node-name=d,filename=disk,read-only=on", "-device", "virtio-blk-pci,drive=d,bootindex=0",
		"-chardev", "file,id=said,path=said", "-device", "isa-debugcon,iobase=0xe9,chardev=said",
		"-chardev", "socket,id=qmp,path=" + qmpFile + ",server=on,wait=off", "-mon", "chardev=qmp,mode=control",
	}
	if with.Ballast {
		a = append(a, "-blockdev", ballastArgument())
	}
	if with.Sandbox {
		a = append(a, "-sandbox", sandboxArgument)
	}
	proc, err := spawn(binary, dir, a)
	if err != nil {
		return f, err
	}
	watched := make(chan struct{})
	go func() { defer close(watched); proc.watch(context.Background()) }()
	defer func() { err = errors.Join(err, proc.kill()); <-watched }()
	// Asked first: a kvm without a usable CPU model takes seconds to boot.
	with.Platform, with.Accelerator = "qemu", accelerator
	if err := askWhenUp(ctx, proc, dir, &with); err != nil {
		return f, err
	}
	err = poll(ctx, proc, dir, func() bool {
		said, err := os.ReadFile(filepath.Join(dir, "said"))
		return err == nil && strings.Contains(string(said), "G")
	})
	return with, err
}

// askWhenUp waits for the control socket, then asks for all lists.
func askWhenUp(ctx context.Context, proc *process, dir string, f *findings) error {
	var client *qmp.Client
	err := poll(ctx, proc, dir, func() bool {
		var err error
		client, err = qmp.Dial(ctx, filepath.Join(dir, qmpFile), nil)
		return err == nil
	})
	if err != nil {
		return err
	}
	defer client.Close()
	return ask(ctx, client, f)
}

// poll waits until ready says so, or the tiny machine has ended.
func poll(ctx context.Context, proc *process, dir string, ready func() bool) error {
	const often = 10 * time.Millisecond
	for {
		if ready() {
			return nil
		}
		select {
		case <-proc.gone:
			words, _ := os.ReadFile(filepath.Join(dir, logFile))
			return fmt.Errorf("%w: %s", errDead, trimLines(words))
		case <-ctx.Done():
			return fmt.Errorf("the tiny machine did not boot: %w", ctx.Err())
		case <-time.After(often):
		}
	}
}

// ask fills in all lists.
func ask(ctx context.Context, client *qmp.Client, f *findings) error {
	var version struct {
		QEMU struct{ Major, Minor, Micro int }
	}
	var machines []struct {
		Name       string
		Deprecated bool
	}
	var cpus []struct {
		Name    string
		Missing []string `json:"unavailable-features"`
	}
	var features []struct{ Capability string }
	for command, result := range map[string]any{
		"query-version": &version, "query-machines": &machines, "query-cpu-definitions": &cpus, "query-migrate-capabilities": &features,
	} {
		if err := client.Do(ctx, command, nil, result); err != nil {
			return err
		}
	}
	f.Version = fmt.Sprintf("%d.%d.%d", version.QEMU.Major, version.QEMU.Minor, version.QEMU.Micro)
	missing := make(map[string][]string)
	for _, c := range cpus {
		missing[c.Name] = c.Missing
	}
	for _, name := range preferredCPUs {
		if lacks, known := missing[name]; known && len(lacks) == 0 {
			f.CPUModels = append(f.CPUModels, name)
		}
	}
	if len(f.CPUModels) == 0 {
		return fmt.Errorf("it has no 64-bit CPU model whole; qemu64-v1 lacks %s", strings.Join(missing["qemu64-v1"], ", "))
	}
	for _, m := range machines {
		if _, ok := machineVersion(m.Name); ok && !m.Deprecated {
			f.MachineTypes = append(f.MachineTypes, m.Name)
		}
	}
	if len(f.MachineTypes) == 0 {
		return errors.New("it knows no machine type pc-q35-VERSION")
	}
	slices.SortFunc(f.MachineTypes, func(a, b string) int {
		va, _ := machineVersion(a)
		vb, _ := machineVersion(b)
		return slices.Compare(vb, va)
	})
	for _, c := range features {
		f.Migration = append(f.Migration, c.Capability)
	}
	for _, need := range []string{"events", "pause-before-switchover", "late-block-activate"} {
		if !slices.Contains(f.Migration, need) {
			return fmt.Errorf("it cannot hand machines over: it lacks the migration capability %s; install QEMU 7.2 or newer", need)
		}
	}
	f.Ballast = f.Ballast && slices.Contains(f.Migration, "dirty-bitmaps")
	return nil
}

// machineVersion takes "pc-q35-7.2" apart.
func machineVersion(name string) ([]int, bool) {
	version, ok := strings.CutPrefix(name, "pc-q35-")
	if !ok {
		return nil, false
	}
	var numbers []int
	for part := range strings.SplitSeq(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, false
		}
		numbers = append(numbers, n)
	}
	return numbers, true
}
