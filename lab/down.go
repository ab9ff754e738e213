package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/lab/namespace"
)

// Down removes a lab, whatever state it is in: its supervisor, every process in its namespaces, the namespaces with
// their devices, its mounts and its folder. It returns what it found and removed; nothing there is no error.
func Down(ctx context.Context, name string) (removed []string, err error) {
	if name == "" {
		name = DefaultName
	}
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("take down lab %q: that cannot be the name of a lab", name)
	}
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	dir := dirOf(name)
	if pid := supervisorPid(dir); pid != 0 {
		if err := endSupervisor(ctx, pid); err != nil {
			return nil, fmt.Errorf("take down lab %s: %w", name, err)
		}
		removed = append(removed, fmt.Sprintf("process %d (supervisor)", pid))
	}
	spaces, err := namespace.List(namespacePrefix(name))
	if err != nil {
		return removed, fmt.Errorf("take down lab %s: %w", name, err)
	}
	spaces = slices.DeleteFunc(spaces, func(s string) bool { return !slices.Contains(namespacesOf(name), s) })
	killed, err := namespace.KillAll(10*time.Second, spaces...)
	for _, k := range killed {
		removed = append(removed, "process "+k)
	}
	errs := []error{err}
	for _, space := range spaces {
		if err := namespace.Delete(space); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, "namespace "+space)
	}
	gone, err := removeFolder(dir)
	removed, errs = append(removed, gone...), append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return removed, fmt.Errorf("take down lab %s: %w", name, err)
	}
	return removed, nil
}

// supervisorPid returns the id of the lab's supervisor if it lives, else 0. The command line tells it from a process
// that has been given its old id.
func supervisorPid(dir string) int {
	data, err := os.ReadFile(pidPath(dir))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(line), "\x00"+configPath(dir)+"\x00") {
		return 0
	}
	return pid
}

func alive(dir string) bool { return supervisorPid(dir) != 0 }

// endSupervisor asks it to end, and insists after ten seconds.
func endSupervisor(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the supervisor: %w", err)
	}
	defer unix.Close(fd)
	for _, try := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, 10 * time.Second}, {unix.SIGKILL, 5 * time.Second}} {
		if err := unix.PidfdSendSignal(fd, try.signal, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("end the supervisor: %w", err)
		}
		for deadline := time.Now().Add(try.wait); time.Now().Before(deadline) && ctx.Err() == nil; {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
			if err == nil && n > 0 {
				return nil
			}
		}
	}
	return errors.Join(fmt.Errorf("end the supervisor: process %d does not end", pid), ctx.Err())
}

// removeFolder removes the lab's folder, what is mounted in it first.
func removeFolder(dir string) (removed []string, err error) {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove %s: %w", dir, err)
	}
	if real != "" {
		mounts, err := mountsBelow(real)
		if err != nil {
			return nil, err
		}
		for _, m := range slices.Backward(mounts) { // inner ones come later
			if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
				return removed, fmt.Errorf("unmount %s: %w", m, err)
			}
			removed = append(removed, "mount "+m)
		}
		if err := os.RemoveAll(real); err != nil {
			return removed, fmt.Errorf("remove %s: %w", real, err)
		}
		removed = append(removed, "folder "+real)
	}
	if err := os.RemoveAll(dir); err != nil {
		return removed, fmt.Errorf("remove %s: %w", dir, err)
	}
	return removed, nil
}

func mountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var mounts []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			mounts = append(mounts, f[4])
		}
	}
	return mounts, nil
}

// Leftovers lists what there is of a lab: its supervisor, namespaces, devices and processes in them, mounts, folder.
// After Down, and before Up, that is nothing.
func Leftovers(name string) ([]string, error) {
	var left []string
	dir := dirOf(name)
	if pid := supervisorPid(dir); pid != 0 {
		left = append(left, fmt.Sprintf("process %d (supervisor)", pid))
	}
	spaces, err := namespace.List(namespacePrefix(name))
	if err != nil {
		return nil, err
	}
	for _, space := range spaces {
		if !slices.Contains(namespacesOf(name), space) {
			continue
		}
		left = append(left, "namespace "+space)
		devices, err := devicesIn(space)
		if err != nil {
			return nil, err
		}
		left = append(left, devices...)
		pids, err := namespace.Processes(space)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			left = append(left, fmt.Sprintf("process %d (%s) in %s", pid, strings.TrimSpace(string(comm)), space))
		}
	}
	if _, err := os.Lstat(dir); err == nil {
		left = append(left, "folder "+dir)
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return left, nil // a link to a folder that is gone
		}
		mounts, err := mountsBelow(real)
		if err != nil {
			return nil, err
		}
		for _, m := range mounts {
			left = append(left, "mount "+m)
		}
	}
	return left, nil
}
