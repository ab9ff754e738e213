package network

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openTun creates or attaches to a persistent tun or tap device, flags being IFF_TUN or IFF_TAP and its options. The
// file is non-blocking and served by the runtime's poller. The device stays when it is closed.
func openTun(name string, flags uint16) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("network: open /dev/net/tun (is the tun module there?): %w", err)
	}
	if err := attachTun(fd, name, flags); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("network: device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun:"+name), nil
}

func attachTun(fd int, name string, flags uint16) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("make persistent: %w", err)
	}
	return nil
}

// createTun makes sure of a persistent device and leaves it unattached. One that somebody has open is there already.
func createTun(name string, flags uint16) error {
	file, err := openTun(name, flags)
	if err != nil {
		return err
	}
	return file.Close()
}
