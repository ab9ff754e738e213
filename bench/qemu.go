package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/godwit-project/godwit/lab"
)

const (
	diskNode = "disk0"
	bareTap  = "bare0"
	bareMAC  = "02:67:77:62:00:01"
)

// vm is a QEMU that the bench runs on a host, with nothing between it and its file.
type vm struct {
	*qmp
	dir    string
	cancel context.CancelFunc
	gone   chan struct{} // closed when the process has ended
}

// qemuName is the program for machines of this machine's kind.
func qemuName() (string, error) {
	switch runtime.GOARCH {
	case "amd64":
		return "qemu-system-x86_64", nil
	case "arm64":
		return "qemu-system-aarch64", nil
	}
	return "", fmt.Errorf("find QEMU: which one runs machines of %s is not known here", runtime.GOARCH)
}

// startVM starts a QEMU in dir, which it makes, with a new sparse disk, on a site's host. incoming lets it wait for
// another's memory instead of booting.
func (b *bed) startVM(ctx context.Context, dir, site string, m machine, incoming bool) (*vm, error) {
	program, err := qemuName()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make a folder for QEMU: %w", err)
	}
	v := &vm{dir: dir, gone: make(chan struct{})}
	disk, err := os.Create(v.file("disk.raw"))
	if err != nil {
		return nil, fmt.Errorf("make a disk: %w", err)
	}
	if err := errors.Join(disk.Truncate(guestDisk), disk.Close()); err != nil {
		return nil, fmt.Errorf("make a disk: %w", err)
	}
	words, err := os.Create(v.file("qemu.log"))
	if err != nil {
		return nil, fmt.Errorf("make a log for QEMU: %w", err)
	}
	argv, err := b.vmCommand(program, v, m, incoming)
	if err != nil {
		return nil, errors.Join(err, words.Close())
	}
	running, cancel := context.WithCancel(ctx)
	v.cancel = cancel
	go func() {
		defer close(v.gone)
		defer words.Close()
		_, _ = b.lab.Exec(running, site+"-host", argv, lab.Stdio{Out: words, Err: words}) // how it ended is in the log
	}()
	if err := v.connect(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start QEMU: %w", err), v.lastWords(), v.end())
	}
	return v, nil
}

func (v *vm) file(name string) string { return filepath.Join(v.dir, name) }

func (v *vm) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("it does not answer"))
	defer cancel()
	return eventually(ctx, 10*time.Millisecond, func() (ok bool, err error) {
		select {
		case <-v.gone:
			return false, errQMPEnded
		default:
		}
		if _, err := os.Stat(v.file("qmp.sock")); err != nil {
			return false, nil
		}
		v.qmp, err = openQMP(ctx, v.file("qmp.sock"))
		return err == nil, nil
	})
}

// lastWords are what QEMU wrote, as an error; nil if it was silent.
func (v *vm) lastWords() error {
	text, err := os.ReadFile(v.file("qemu.log"))
	if err != nil {
		return err
	}
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return nil
	}
	return fmt.Errorf("its words: %s", text)
}

// end kills the process, waits for it, and removes its files.
func (v *vm) end() error {
	v.cancel()
	<-v.gone
	if v.qmp != nil {
		_ = v.qmp.close() // the other side is gone already
	}
	return os.RemoveAll(v.dir)
}

// vmCommand is Godwit's own command line for the machine, but for the disk, which is a raw file here.
func (b *bed) vmCommand(program string, v *vm, m machine, incoming bool) ([]string, error) {
	disk, err := json.Marshal(map[string]any{
		"driver": "raw", "node-name": diskNode, "discard": "unmap",
		"file": map[string]any{"driver": "file", "filename": v.file("disk.raw")},
	})
	if err != nil {
		return nil, err
	}
	argv := []string{
		program, "-name", "bare", "-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "socket,id=qmp,path=" + v.file("qmp.sock") + ",server=on,wait=off", "-mon", "chardev=qmp,mode=control",
		"-machine", m.machineType + ",accel=" + m.accelerator + ",memory-backend=ram0,suppress-vmdesc=on",
		"-cpu", m.cpuModel + ",enforce", "-smp", "1",
		"-object", "memory-backend-ram,id=ram0,size=" + strconv.Itoa(guestMemory), "-m", strconv.Itoa(guestMemory >> 20),
		"-boot", "strict=on", "-device", "virtio-rng-pci",
		"-chardev", "file,id=serial0,append=on,path=" + v.file("console.log"), "-serial", "chardev:serial0",
		"-kernel", b.kernel(), "-initrd", b.initrd(),
		"-append", guestConsole + guestLoad + " godwit.address=" + bareAddress + " godwit.gateway=" + gatewayAddress,
		"-blockdev", string(disk), "-device", "virtio-blk-pci,drive=" + diskNode + ",id=virtio-disk0,werror=stop,rerror=stop,serial=data",
		"-netdev", "tap,id=net0,ifname=" + bareTap + ",script=no,downscript=no,vhost=off",
		"-device", "virtio-net-pci,netdev=net0,mac=" + bareMAC + ",romfile=",
	}
	if incoming {
		argv = append(argv, "-S", "-incoming", "defer")
	}
	return argv, nil
}
