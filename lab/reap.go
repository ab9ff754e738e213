package lab

import (
	"context"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reap collects children that nobody waits for. Whoever started a child waits for it at once, so a child that is
// still a zombie a second later is an orphan's.
func reap(ctx context.Context) {
	seen := 0
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pid := zombie()
		if pid != 0 && pid == seen {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			pid = 0
		}
		seen = pid
	}
}

// childInfo is the kernel's siginfo_t of a child, on 64-bit machines.
type childInfo struct {
	signo, errno, code, _ int32
	pid                   int32
	_                     [108]byte
}

// zombie returns the id of a child that has ended and not been waited for, 0 if there is none, without reaping it.
func zombie() int {
	var info childInfo
	err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err != nil {
		return 0
	}
	return int(info.pid)
}
