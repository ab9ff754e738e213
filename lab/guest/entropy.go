//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poolInfo is the kernel's struct rand_pool_info with 32 bytes behind it.
type poolInfo struct {
	entropyBits, size int32
	bytes             [32]byte
}

// creditEntropy declares the kernel's random pool initialised. An emulated processor without RDRAND and a machine without a
// disturbance leave it empty for ever, and the DHCP client waits for it (measured: no DISCOVER within 20 s). What is put in is no
// secret. It need not be: this machine keeps none, and random numbers only have to differ here.
func creditEntropy() error {
	pool, err := os.OpenFile("/dev/random", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the random pool: %w", err)
	}
	defer pool.Close()
	info := poolInfo{entropyBits: 256, size: 32}
	for i := 0; i < len(info.bytes); i += 8 {
		binary.LittleEndian.PutUint64(info.bytes[i:], uint64(time.Now().UnixNano()))
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, pool.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return fmt.Errorf("credit the random pool: %w", errno)
	}
	return nil
}
