package link

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// tunOffloads are the kinds of super-frame that may pass: TCP over IPv4 and IPv6, checksums left to the far end.
const tunOffloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN

// TAP is a network device whose frames a program carries. It lasts until Close.
type TAP struct {
	fd   int
	name string
}

// OpenTAP makes a TAP of that name in the network namespace of the calling thread. It is down and without address.
func OpenTAP(name string) (*TAP, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make TAP %s: open /dev/net/tun: %w", name, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHeader)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make TAP %s: %w", name, err), unix.Close(fd))
	}
	return &TAP{fd: fd, name: name}, nil
}

// End returns the device as an end of a Link.
func (t *TAP) End() End { return End{FD: t.fd, Offload: t.offload} }

func (t *TAP) offload(on bool) error {
	flags := 0
	if on {
		flags = tunOffloads
	}
	if err := unix.IoctlSetInt(t.fd, unix.TUNSETOFFLOAD, flags); err != nil {
		return fmt.Errorf("set offloads of TAP %s: %w", t.name, err)
	}
	return nil
}

// Close removes the device.
func (t *TAP) Close() error { return unix.Close(t.fd) }
