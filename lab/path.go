package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/lab/namespace"
)

// echoPort is the UDP port on which a guest answers.
const echoPort = 7000

// pathTries is how many packets are sent before a path without an answer is believed: the first may wait for the
// destination's address to be resolved.
const pathTries = 4

// Path returns the nodes that a packet passes from a node to an address, in their order; a node that it passes twice
// stands there twice, so a detour through a tunnel shows:
//
//	client core west-edge core east-edge east-host
//
// It follows UDP packets to port 7000 with a payload of their own, which every node looks for on all its devices, also
// inside VXLAN (what is encrypted it cannot see). If nobody answers, the path ends where the packet was last seen, and
// an error says so.
func (l *Lab) Path(ctx context.Context, from, dst string) ([]string, error) {
	if _, err := findNode(from); err != nil {
		return nil, err
	}
	to, err := netip.ParseAddr(dst)
	if err != nil {
		return nil, fmt.Errorf("trace the path to %q: %w", dst, err)
	}
	t, err := l.newTracer()
	if err != nil {
		return nil, fmt.Errorf("trace the path to %s: %w", dst, err)
	}
	defer t.close()
	conn, err := l.Dial(ctx, from, "udp", net.JoinHostPort(to.String(), strconv.Itoa(echoPort)))
	if err != nil {
		return nil, fmt.Errorf("trace the path to %s: %w", dst, err)
	}
	defer conn.Close()
	var path []string
	for range pathTries {
		token := []byte("godwit-path-" + rand.Text())
		answered := t.echo(ctx, conn, token)
		if seen := t.path(token); len(seen) > len(path) || answered {
			path = seen
		}
		if answered {
			return path, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return path, errors.Join(fmt.Errorf("trace the path to %s: no echo from its UDP port %d", dst, echoPort), ctx.Err())
}

// Paths traces packets from a node to a guest's UDP echo, one every so often, until ctx ends, and returns the different paths
// in the order in which they were first taken. A packet that was held on its way is waited for a moment; one that never
// arrived counts for nothing.
func (l *Lab) Paths(ctx context.Context, from, dst string, every time.Duration) ([][]string, error) {
	const stragglers = time.Second
	if _, err := findNode(from); err != nil {
		return nil, err
	}
	t, err := l.newTracer()
	if err != nil {
		return nil, fmt.Errorf("trace the paths to %s: %w", dst, err)
	}
	defer t.close()
	conn, err := l.Dial(ctx, from, "udp", net.JoinHostPort(dst, strconv.Itoa(echoPort)))
	if err != nil {
		return nil, fmt.Errorf("trace the paths to %s: %w", dst, err)
	}
	defer conn.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		// An ICMP error of an earlier packet is no reason to stop.
		_, _ = conn.Write([]byte(string(pathMark) + rand.Text()))
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	time.Sleep(stragglers)
	return t.paths(), nil
}

// paths are the different ways that packets took from end to end.
func (t *tracer) paths() [][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortStableFunc(t.seen, func(a, b sighting) int { return int(a.at - b.at) })
	var order []string
	ways := make(map[string][]string)
	for _, s := range t.seen {
		token := string(s.payload[:min(len(s.payload), len(pathMark)+len(rand.Text()))])
		way, known := ways[token]
		if !known {
			order = append(order, token)
		}
		if len(way) == 0 || way[len(way)-1] != s.node {
			ways[token] = append(way, s.node)
		}
	}
	var paths [][]string
	for _, token := range order {
		way := ways[token]
		arrived := strings.HasSuffix(way[len(way)-1], "-"+roleHost)
		if arrived && !slices.ContainsFunc(paths, func(p []string) bool { return slices.Equal(p, way) }) {
			paths = append(paths, way)
		}
	}
	return paths
}

// sighting is one packet on one device of a node.
type sighting struct {
	node    string
	at      int64 // ns, the kernel's wall clock, the same in all nodes
	payload []byte
}

// tracer listens on all nodes.
type tracer struct {
	sockets []*os.File
	wg      sync.WaitGroup
	mu      sync.Mutex
	seen    []sighting
}

func (l *Lab) newTracer() (*tracer, error) {
	t := &tracer{}
	for _, n := range nodes {
		var socket *os.File
		err := namespace.Do(namespaceOf(l.name, n.name), func() (err error) {
			socket, err = openSniffer()
			return err
		})
		if err != nil {
			t.close()
			return nil, fmt.Errorf("listen in %s: %w", n.name, err)
		}
		t.sockets = append(t.sockets, socket)
		t.wg.Go(func() { t.listen(n.name, socket) })
	}
	return t, nil
}

func (t *tracer) close() {
	for _, s := range t.sockets {
		s.Close() // makes its reader return
	}
	t.wg.Wait()
}

// echo sends the token and waits a moment for it to come back.
func (t *tracer) echo(ctx context.Context, conn net.Conn, token []byte) bool {
	deadline := time.Now().Add(time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if conn.SetReadDeadline(deadline) != nil {
		return false
	}
	if _, err := conn.Write(token); err != nil {
		return false
	}
	buf := make([]byte, 256)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			// Somebody is there, without an echo: the packet has arrived, but who it was nobody can tell.
			time.Sleep(time.Until(deadline))
			return false
		}
		if err != nil {
			return false
		}
		if bytes.Contains(buf[:n], token) {
			return true
		}
	}
}

// path orders the sightings of a token by time and drops repeated nodes.
func (t *tracer) path(token []byte) []string {
	// The answer is faster here than the readers of what was seen on the way: let them come to an end.
	for before := -1; ; {
		t.mu.Lock()
		now := len(t.seen)
		t.mu.Unlock()
		if now == before {
			break
		}
		before = now
		time.Sleep(50 * time.Millisecond)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var mine []sighting
	for _, s := range t.seen {
		if bytes.HasPrefix(s.payload, token) {
			mine = append(mine, s)
		}
	}
	slices.SortStableFunc(mine, func(a, b sighting) int { return int(a.at - b.at) })
	var path []string
	for _, s := range mine {
		if len(path) == 0 || path[len(path)-1] != s.node {
			path = append(path, s.node)
		}
	}
	return path
}

var pathMark = []byte("godwit-path-")

// listen collects the sightings of one node until its socket is closed.
func (t *tracer) listen(node string, socket *os.File) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	buf, control := make([]byte, 512), make([]byte, 128)
	for {
		var n, controlled int
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			n, controlled, _, _, readErr = unix.Recvmsg(int(fd), buf, control, 0)
			return !errors.Is(readErr, unix.EAGAIN)
		})
		if err != nil {
			return
		}
		if readErr != nil {
			continue // a device that went down; the others still speak
		}
		if payload := requestIn(buf[:n]); payload != nil {
			t.mu.Lock()
			t.seen = append(t.seen, sighting{node: node, at: receivedAt(control[:controlled]), payload: bytes.Clone(payload)})
			t.mu.Unlock()
		}
	}
}

// requestIn returns the payload of a traced request in a frame, also of one inside another packet; nil if there is
// none. Requests are told from their echoes by the port before the payload.
func requestIn(frame []byte) []byte {
	const udpHeader = 8
	i := bytes.Index(frame, pathMark)
	if i < udpHeader || binary.BigEndian.Uint16(frame[i-udpHeader+2:]) != echoPort {
		return nil
	}
	return frame[i:]
}

func receivedAt(control []byte) int64 {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return int64(binary.NativeEndian.Uint64(m.Data))*int64(time.Second) + int64(binary.NativeEndian.Uint64(m.Data[8:]))
		}
	}
	return 0
}

// openSniffer sees every UDP packet over IPv4 that enters or leaves a device of the calling thread's namespace.
func openSniffer() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IP, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 23},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_UDP, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 512},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}
	if err == nil {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen to all devices: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "sniffer"), nil
}
