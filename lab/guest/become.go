//go:build linux

package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// become makes the file system of a disk the root, and its program PID 1, as an initial RAM disk does when it has done its part.
// The network stays as it was set up. It returns only with an error.
func become(device, program string) error {
	const root = "/root"
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("make mount point %s: %w", root, err)
	}
	if err := unix.Mount(device, root, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("take %s along: %w", dir, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("make %s the root: %w", device, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("make %s the root: %w", device, err)
	}
	environment := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	if err := unix.Exec(program, []string{program}, environment); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	return nil
}
