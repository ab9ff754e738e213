package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/storage/disk/vfs"
)

const (
	// releasedPrefix begins the name of the note on what a replica has left on its block device; no volume's name can begin with it.
	releasedPrefix = ".released-"
	// edge is how much is looked at of both ends of a device to find out whether it holds something: there file systems, partition
	// tables, volume managers and arrays have what they are known by. In bytes.
	edge = 1 << 20
	// Between the ends so many places are looked at, evenly spaced, of so many bytes each: all of a device up to 34 MiB, and of a larger one
	// enough to meet anything that goes on for more than a 512th of it. A disk that has to move its head takes some seconds for that.
	probes = 512
	probe  = 64 << 10
)

// leftover is what a volume that was a copy of another has left on its device, and what the next replica of its name may write over.
type leftover struct {
	Device   string `json:"device"`
	DeviceID string `json:"deviceId,omitempty"`
	Size     int64  `json:"size"`
	Edges    uint64 `json:"edges"`
}

// deviceForLocked finds that a volume may lie on the device that it is to have, and what the kernel knows that by. Nothing is written.
func (s *Store) deviceForLocked(spec Spec, role string) (id string, err error) {
	number, err := deviceNumber(spec.Device)
	if err == nil {
		err = s.notTakenLocked(spec, number)
	}
	if err == nil {
		id = deviceID(number)
		err = s.fits(spec, id, role)
	}
	if err != nil {
		return "", fmt.Errorf("volume %s on %s: %w", spec.Name, spec.Device, err)
	}
	return id, nil
}

// deviceNumber is the kernel's number of the block device of that path.
func deviceNumber(path string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	switch {
	case !filepath.IsAbs(path):
		return 0, fmt.Errorf("%w: its path is not absolute", ErrDevice)
	case errors.Is(err, unix.ENOENT):
		return 0, fmt.Errorf("%w: it is not there: make it first", ErrDevice)
	case err != nil:
		return 0, fmt.Errorf("%w: %w", ErrDevice, err)
	case st.Mode&unix.S_IFMT != unix.S_IFBLK:
		return 0, fmt.Errorf("%w: it is no block device", ErrDevice)
	}
	return st.Rdev, nil
}

// notTakenLocked refuses a device that another volume of the store lies on, be that damaged.
func (s *Store) notTakenLocked(spec Spec, number uint64) error {
	taken := map[string]string{}
	for name, v := range s.volumes {
		taken[name] = v.metadata().Device
	}
	for name := range s.damaged {
		if meta, err := loadMetadata(filepath.Join(s.dir, name)); err == nil {
			taken[name] = meta.Device
		}
	}
	for name, device := range taken {
		if other, err := deviceNumber(device); device != "" && name != spec.Name && (device == spec.Device || err == nil && other == number) {
			return fmt.Errorf("%w: volume %s lies on it", ErrDevice, name)
		}
	}
	return nil
}

// fits opens a device as its volume will, for this process alone, and looks whether it is large enough, and empty if it has to be.
func (s *Store) fits(spec Spec, id, role string) error {
	f, err := vfs.OS{}.Open(spec.Device, os.O_RDWR)
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: it is in use: mounted, a part of an array or of a volume group, swap, or another program's: %w", ErrDevice, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrDevice, err)
	}
	defer f.Close()
	info, err := f.Info()
	switch {
	case err != nil:
		return err
	case info.Size < spec.Size:
		return fmt.Errorf("%w: it has %d bytes, the volume needs %d", ErrDevice, info.Size, spec.Size)
	case role != RoleReplica && !spec.Overwrite:
		return nil
	}
	at, err := contentAt(f, info.Size)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDevice, err)
	}
	if at < 0 {
		return nil
	}
	// The volume was shorter than the device, perhaps: what it left is at its own ends.
	left, err := s.leftBy(spec.Name)
	if err == nil && role == RoleReplica && left.Device == spec.Device && left.DeviceID == id && left.Size <= info.Size {
		if first, last, err := edges(f, left.Size); err == nil && left.Edges == sumEdges(first, last) {
			return nil
		}
	}
	return fmt.Errorf("%w: it holds something at byte %d, which would be written over: look what that is (lsblk -f %s shows file systems and the like); wipefs -a and blkdiscard -z empty it", ErrNotBlank, at, spec.Device)
}

// contentAt looks for something on a device, at its ends and at places between, and returns where there is some; -1 if none was met.
func contentAt(f io.ReaderAt, size int64) (int64, error) {
	p := make([]byte, edge)
	in := func(off, n int64) (int64, error) {
		if _, err := f.ReadAt(p[:n], off); err != nil {
			return 0, err
		}
		if isZero(p[:n]) {
			return -1, nil
		}
		return off + int64(slices.IndexFunc(p[:n], func(b byte) bool { return b != 0 })), nil
	}
	for _, off := range []int64{0, max(0, size-edge)} {
		if at, err := in(off, min(edge, size)); at >= 0 || err != nil {
			return at, err
		}
	}
	step := max(probe, size/probes/probe*probe)
	for off := int64(edge); off < size-edge; off += step {
		if at, err := in(off, min(probe, size-off)); at >= 0 || err != nil {
			return at, err
		}
	}
	return -1, nil
}

// edges reads the first and the last of the first size bytes of a device.
func edges(f io.ReaderAt, size int64) (first, last []byte, err error) {
	first, last = make([]byte, min(edge, size)), make([]byte, min(edge, size))
	if _, err = f.ReadAt(first, 0); err == nil {
		_, err = f.ReadAt(last, size-int64(len(last)))
	}
	return first, last, err
}

func sumEdges(first, last []byte) uint64 {
	return xxh3.Hash(bytes.Join([][]byte{first, last}, nil))
}

// deviceHas says why a volume of that size has no room on a device.
func deviceHas(path string, size int64) error {
	f, err := vfs.OS{}.Open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	info, err := f.Info()
	if err = errors.Join(err, f.Close()); err == nil && info.Size < size {
		err = fmt.Errorf("%w: %s has %d bytes: make it larger first", ErrNoSpace, path, info.Size)
	}
	return err
}

// released notes what a volume, which is closed and on its way out, leaves on its device. A primary leaves what may be the only copy:
// nothing may be written over that without somebody's word.
func (s *Store) released(meta metadata) {
	s.opts.Logger.Info("a block device is let go; what is on it stays", "volume", meta.Name, "device", meta.Device, "role", meta.Role)
	if meta.Role == RolePrimary {
		return
	}
	left := leftover{Device: meta.Device, DeviceID: meta.DeviceID, Size: meta.Size}
	f, err := vfs.OS{}.Open(meta.Device, os.O_RDONLY)
	if err == nil {
		var first, last []byte
		first, last, err = edges(f, meta.Size)
		left.Edges = sumEdges(first, last)
		err = errors.Join(err, f.Close())
	}
	var content []byte
	if err == nil {
		content, err = json.Marshal(left)
	}
	if err == nil {
		err = vfs.Replace(vfs.OS{}, s.notePath(meta.Name), content)
	}
	if err != nil {
		s.opts.Logger.Warn("the next replica on this block device will want it empty", "volume", meta.Name, "device", meta.Device, "err", err)
	}
}

// forgetDeviceLocked is putAside for a volume whose device is out of reach, or another's by now: what is in the store is no data.
func (s *Store) forgetDeviceLocked(meta metadata, epoch uint64) (gone string, err error) {
	if err := (&Volume{meta: meta}).deletable(epoch); err != nil {
		return "", err
	}
	gone = s.deletedPath(meta.Name)
	if err := os.Rename(filepath.Join(s.dir, meta.Name), gone); err != nil {
		return "", err
	}
	delete(s.damaged, meta.Name)
	return gone, vfs.OS{}.SyncDir(s.dir)
}

func (s *Store) notePath(volume string) string { return filepath.Join(s.dir, releasedPrefix+volume) }

func (s *Store) leftBy(volume string) (left leftover, err error) {
	content, err := os.ReadFile(s.notePath(volume))
	if err == nil {
		err = json.Unmarshal(content, &left)
	}
	return left, err
}

// found says why the volume's bytes are not where they were: the file has another size, or the path leads to another device.
func (m *metadata) found(dir string) error {
	if m.Device == "" {
		path := filepath.Join(dir, baseName)
		st, err := os.Stat(path)
		if err == nil && st.Size() != m.Size && m.Growing == 0 {
			err = fmt.Errorf("%s has %d bytes, its metadata says %d", path, st.Size(), m.Size)
		}
		return err
	}
	number, err := deviceNumber(m.Device)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Device, err)
	}
	if id := deviceID(number); id != m.DeviceID {
		return fmt.Errorf("%w: %s is %q now, and the volume was made on %q: devices have changed their names; let the old one have its path again (a link in /dev/disk/by-id would keep it)", ErrDevice, m.Device, id, m.DeviceID)
	}
	return nil
}

// deviceID is by what a device can be told from another that comes to have its path: what its maker, or the device mapper, gave it, or the
// file behind it. Empty when the kernel knows nothing of that kind.
func deviceID(number uint64) string {
	dir := "/sys/dev/block/" + strconv.Itoa(int(unix.Major(number))) + ":" + strconv.Itoa(int(unix.Minor(number)))
	part := ""
	if p, err := os.ReadFile(dir + "/partition"); err == nil {
		part = ", partition " + strings.TrimSpace(string(p))
		dir += "/.."
	}
	for _, name := range []string{"dm/uuid", "wwid", "device/wwid", "serial", "device/serial", "md/uuid", "loop/backing_file"} {
		if id, err := os.ReadFile(dir + "/" + name); err == nil && len(bytes.TrimSpace(id)) > 0 {
			return name + " " + strings.TrimSpace(string(id)) + part
		}
	}
	return ""
}
