// Package namespace makes, enters and removes named network namespaces, the same ones that `ip netns` knows.
//
// A thread that has entered a namespace runs nothing but the function given for it: the package locks it and brings
// it back, or lets it die where it cannot be brought back.
package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// folder is where iproute2 mounts named namespaces.
const folder = "/run/netns"

// Path returns the file that holds the namespace of that name.
func Path(name string) string { return filepath.Join(folder, name) }

// Create makes a namespace with its loopback up, and gives it the name. An existing name is an error.
func Create(name string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	f, err := os.OpenFile(Path(name), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", Path(name), "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount on %s: %w", Path(name), err)
		}
		return loopbackUp()
	})
	if err != nil {
		return errors.Join(fmt.Errorf("create namespace %s: %w", name, err), Delete(name))
	}
	return nil
}

// Delete takes the name away; the namespace vanishes with its last process and descriptor. No such name is no error.
func Delete(name string) error {
	err := unix.Unmount(Path(name), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete namespace %s: unmount: %w", name, err)
	}
	if err := os.Remove(Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return nil
}

// List returns the names of all namespaces that begin with the prefix.
func List(prefix string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Do runs f on a thread of its own inside the namespace: sockets that f opens and processes that it starts belong
// there. Goroutines that f starts do not.
func Do(name string, f func() error) error {
	target, err := os.Open(Path(name))
	if err != nil {
		return fmt.Errorf("enter namespace %s: %w", name, err)
	}
	defer target.Close()
	return onThread(func() error {
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace %s: %w", name, err)
		}
		return f()
	})
}

// onThread runs f in a goroutine locked to its thread, and brings that thread back to where it came from.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("remember the namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		// A thread that cannot go home stays locked, so that the runtime ends it with this goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// loopbackUp sets lo up in the namespace of the calling thread.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// Processes returns the ids of the processes whose main thread lives in one of the named namespaces.
func Processes(names ...string) ([]int, error) {
	wanted := make(map[[2]uint64]bool)
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Stat(Path(name), &st); err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			return nil, fmt.Errorf("look at namespace %s: %w", name, err)
		}
		wanted[[2]uint64{uint64(st.Dev), st.Ino}] = true
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join("/proc", e.Name(), "ns/net"), &st) == nil && wanted[[2]uint64{uint64(st.Dev), st.Ino}] {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// KillAll kills every process in the named namespaces and waits until they are gone, at most for the time given. It
// returns the ids and names of those it killed.
func KillAll(wait time.Duration, names ...string) ([]string, error) {
	var killed []string
	deadline := time.Now().Add(wait)
	for {
		pids, err := Processes(names...)
		if err != nil || len(pids) == 0 {
			return killed, err
		}
		if time.Now().After(deadline) {
			return killed, fmt.Errorf("kill the processes of %s: %v are still there after %s", strings.Join(names, ", "), pids, wait)
		}
		for _, pid := range pids {
			killed = append(killed, killOne(pid, time.Until(deadline))...)
		}
	}
}

// killOne kills a process and waits for its end through a descriptor, so that its id cannot come to mean another.
func killOne(pid int, wait time.Duration) []string {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return nil
	}
	if unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) != nil {
		return nil
	}
	timeout := max(int(wait/time.Millisecond), 0)
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, timeout)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return []string{fmt.Sprintf("%d (%s)", pid, strings.TrimSpace(string(comm)))}
}
