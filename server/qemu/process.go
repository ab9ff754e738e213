package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/server/oomscore"
)

const (
	pidFile    = "pid"
	qmpFile    = "qmp.sock"
	logFile    = "qemu.log"
	serialFile = "console.log"
)

// process is a QEMU, ours or an adopted one, held by a descriptor that cannot come to mean another process.
type process struct {
	pid  int
	file *os.File
	gone chan struct{} // closed when the process has ended and watch has seen it
}

// spawn starts QEMU in a session of its own, in dir, its words appended to the log there.
func spawn(binary, dir string, arguments []string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir, logFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(binary, arguments...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	oomscore.Expose(pid)
	if err := cmd.Process.Release(); err != nil {
		return nil, err
	}
	return openProcess(pid)
}

func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	return &process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd"), gone: make(chan struct{})}, nil
}

// watch waits for the process to end, or ctx, and reaps it if it is our child. It is called once.
func (p *process) watch(ctx context.Context) {
	defer p.file.Close()
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { p.file.Close() })
	defer stop()
	ended := false
	_ = raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0)
		ended = err == nil && n == 1
		return ended
	})
	if !ended {
		return
	}
	var status unix.WaitStatus
	_, _ = unix.Wait4(p.pid, &status, unix.WNOHANG, nil) // ECHILD for an adopted one
	close(p.gone)
}

// kill ends the process at once. What the guest was told to be written is with the volume's server, not in QEMU.
func (p *process) kill() error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var killed error
	err = raw.Control(func(fd uintptr) { killed = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if errors.Is(err, os.ErrClosed) || errors.Is(killed, unix.ESRCH) {
		return nil
	}
	return errors.Join(err, killed)
}

// findProcess looks for the live QEMU that was started in dir under name; nil if there is none.
func findProcess(dir, name string) (*process, error) {
	if data, err := os.ReadFile(filepath.Join(dir, pidFile)); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && isMachine(pid, dir, name) {
			return holdIf(pid, dir, name)
		}
	}
	// It writes its pid file itself, a moment after it was started.
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && isMachine(pid, dir, name) {
			return holdIf(pid, dir, name)
		}
	}
	return nil, nil
}

// holdIf looks again once the process is held: its number may have changed hands in between.
func holdIf(pid int, dir, name string) (*process, error) {
	p, err := openProcess(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !isMachine(pid, dir, name) {
		p.file.Close()
		return nil, nil
	}
	return p, nil
}

// isMachine tells by its working folder and its command line; a zombie has neither.
func isMachine(pid int, dir, name string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	cwd, err := os.Readlink(filepath.Join(proc, "cwd"))
	if err != nil {
		return false
	}
	if real, err := filepath.EvalSymlinks(dir); err != nil || cwd != real {
		return false
	}
	line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	return err == nil && bytes.Contains(line, []byte("\x00-name\x00"+guestName(name)+"\x00"))
}

func guestName(name string) string { return "guest=" + name + ",debug-threads=on" }
