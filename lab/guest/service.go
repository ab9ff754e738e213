//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"
)

// longestLine bounds a request of either port.
const longestLine = 512

// machine is what the two ports report on.
type machine struct {
	started time.Time
	console *console
	memory  *memoryLoad
	disk    *disk // nil where the machine has none
	files   fileSystem
	// powerOff ends the machine; it is a field so that a test outlives the command.
	powerOff func()

	count atomic.Uint64
}

// acceptAll serves every connection in a goroutine of its own. It returns when the listener fails, which is the end of PID 1
// and takes the connections with it.
func acceptAll(l net.Listener, console *console, serve func(net.Conn)) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer console.dieOnPanic("connection of " + conn.RemoteAddr().String())
			defer conn.Close()
			serve(conn)
		}()
	}
}

// serveCounter answers each line N with "N COUNT ACKED": COUNT goes up by one with every request of any client, ACKED is the
// number of the last acknowledged disk write. Requests may be pipelined; answers leave when no further request is waiting.
func (m *machine) serveCounter(conn net.Conn) {
	in := bufio.NewReaderSize(conn, longestLine)
	out := bufio.NewWriter(conn)
	var answer []byte
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		answer = append(answer[:0], bytes.TrimSpace(line)...)
		answer = append(answer, ' ')
		answer = strconv.AppendUint(answer, m.count.Add(1), 10)
		answer = append(answer, ' ')
		answer = strconv.AppendUint(answer, m.acked(), 10)
		answer = append(answer, '\n')
		if _, err := out.Write(answer); err != nil {
			return
		}
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return
			}
		}
	}
}

func (m *machine) acked() uint64 {
	if m.disk == nil {
		return 0
	}
	return m.disk.lastAcked.Load()
}

// serveEcho sends every datagram back to where it came from.
func serveEcho(conn *net.UDPConn) error {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			continue // an ICMP error about an earlier answer; nothing is wrong with the socket
		}
		// A datagram that cannot be sent back is one lost on the way.
		_, _ = conn.WriteToUDPAddrPort(buffer[:n], from)
	}
}

var errNoDisk = errors.New("this machine has no disk")

// errUsage names the control port's commands.
var errUsage = fmt.Errorf("want stats, verify, set dirty=SIZE writes=N, mount, write N, keep N, check, measure read|write|sync SECONDS, or poweroff")
