package wan

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout is how long data may stay unacknowledged before a connection counts as broken. It is what turns a cut WAN
// into an error that a migration can act on.
const userTimeout = 6 * time.Second

// notSentLowWater bounds what waits in a socket beyond what is in flight. Deep buffers spoil QEMU's estimate of the
// bandwidth and lengthen the blackout.
const notSentLowWater = 64 << 10

// tune sets what a class asks of its socket. Each setting is an improvement that a kernel may lack, so failures are
// not errors.
func tune(conn net.Conn, class Class) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		s := int(fd)
		_ = unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		_ = unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowWater)
		_ = unix.SetsockoptInt(s, unix.IPPROTO_IP, unix.IP_TOS, class.dscp()<<2)
		_ = unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, class.dscp()<<2)
		// BBR keeps the queue at the bottleneck short, where loss-based control would fill it in front of the clients'
		// packets.
		_ = unix.SetsockoptString(s, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
	})
}
