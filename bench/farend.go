package main

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// farEndCommand makes this program, started in a node of the lab, the other end of a stream: its only other argument is
// the address to listen at.
const farEndCommand = "far-end"

// What the near end asks for with the first byte that it sends.
const (
	askSwallow = 'r'
	askPour    = 's'
)

// serveFarEnd swallows or pours bytes over every connection until it is killed.
func serveFarEnd(address string) error {
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	defer listener.Close()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() { // ends with the process
			defer conn.Close()
			var asked [1]byte
			if _, err := io.ReadFull(conn, asked[:]); err != nil {
				return
			}
			_ = fillLine(conn)
			_ = flow(conn, asked[0])
		}()
	}
}

// flow swallows or pours until the connection ends.
func flow(conn net.Conn, what byte) error {
	buffer := make([]byte, 256<<10)
	for {
		var err error
		switch what {
		case askSwallow:
			_, err = conn.Read(buffer)
		case askPour:
			_, err = conn.Write(buffer)
		default:
			return fmt.Errorf("asked for %q", what)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lossBased are ways of TCP to find its rate that fill a line until its queue overflows. BBR, the default of some kernels,
// leaves a line partly idle by design, which would be measured as the emulator's fault. The last is in every kernel.
var lossBased = [...]string{"cubic", "reno"}

// fillLine makes a connection send as fast as the line allows.
func fillLine(conn net.Conn) error {
	return control(conn, func(fd int) (err error) {
		for _, way := range lossBased {
			if err = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, way); err == nil {
				return nil
			}
		}
		return err
	})
}

// setPace lets the kernel space out what a connection sends.
func setPace(conn net.Conn, bits int64) error {
	return control(conn, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, int(bits/8))
	})
}

// control sets options of a TCP connection.
func control(conn net.Conn, set func(fd int) error) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("set options of a %T: only TCP has them", conn)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var option error
	err = raw.Control(func(fd uintptr) { option = set(int(fd)) })
	if err := errors.Join(err, option); err != nil {
		return fmt.Errorf("set options of a stream: %w", err)
	}
	return nil
}
