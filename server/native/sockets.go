package native

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// outwardSockets returns the inodes of the connected unix sockets of this place's processes whose other end is outside.
func outwardSockets() ([]uint64, error) {
	ours, err := socketsOfAll()
	if err != nil {
		return nil, err
	}
	all, err := netlink.UnixSocketDiagInfo()
	if err != nil {
		return nil, fmt.Errorf("list unix sockets: %w", err)
	}
	var outward []uint64
	for _, one := range all {
		inode := uint64(one.DiagMsg.INode)
		if ours[inode] && one.Peer != nil && !ours[uint64(*one.Peer)] {
			outward = append(outward, inode)
		}
	}
	slices.Sort(outward)
	return outward, nil
}

// socketsOfAll returns the inodes of all sockets of this place's processes, the shepherd excepted.
func socketsOfAll() (map[uint64]bool, error) {
	found := map[uint64]bool{}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		if pid, err := strconv.Atoi(p.Name()); err != nil || pid == 1 {
			continue
		}
		dir := filepath.Join("/proc", p.Name(), "fd")
		files, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			to, err := os.Readlink(filepath.Join(dir, f.Name()))
			if err != nil {
				continue // closed meanwhile
			}
			if inode, is := strings.CutPrefix(to, "socket:["); is {
				if n, err := strconv.ParseUint(strings.TrimSuffix(inode, "]"), 10, 64); err == nil {
					found[n] = true
				}
			}
		}
	}
	return found, nil
}
