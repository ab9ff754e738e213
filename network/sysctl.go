package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// setSysctl writes a value below /proc/sys/net unless it is there already (so that a read-only /proc with the right
// values does). path is given with slashes, since interface names may contain dots.
func setSysctl(path, value string) error {
	file := filepath.Join("/proc/sys/net", path)
	if now, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(now)) == value {
		return nil
	}
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		return fmt.Errorf("network: set net/%s to %s: %w", path, value, err)
	}
	return nil
}

// enableForwarding makes this namespace a router that takes packets by any interface: traffic of a moving service is
// asymmetric by nature, and reverse-path filtering would drop it.
func enableForwarding() error {
	return errors.Join(
		setSysctl("ipv4/ip_forward", "1"),
		setSysctl("ipv4/conf/all/rp_filter", "0"),
	)
}

// quietDevice prepares a device of ours: no reverse-path filter, no IPv6 chatter (which would count as traffic).
func quietDevice(name string) error {
	err := setSysctl("ipv4/conf/"+name+"/rp_filter", "0")
	v6 := setSysctl("ipv6/conf/"+name+"/disable_ipv6", "1")
	if errors.Is(v6, fs.ErrNotExist) {
		v6 = nil // a kernel without IPv6
	}
	return errors.Join(err, v6)
}

func fdatasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
