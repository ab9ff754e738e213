package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// echoes are the round trips of one series of echo requests, in milliseconds.
type echoes struct {
	median, worst float64 // worst but for one in a hundred
}

// ping sends ICMP echo requests from the near node, one at a time. The far kernel answers, and this one notes when the
// answer came, so that only the way is measured.
func (b *bed) ping(ctx context.Context) (echoes, error) {
	conn, err := b.lab.Dial(ctx, nearNode, "ip4:icmp", farAddress)
	if err != nil {
		return echoes{}, err
	}
	defer conn.Close()
	ip, ok := conn.(*net.IPConn)
	if !ok {
		return echoes{}, fmt.Errorf("send an echo request: dialled a %T", conn)
	}
	if err := askForTimes(ip); err != nil {
		return echoes{}, err
	}
	var trips []float64
	for seq, lost := byte(1), 0; len(trips) < pings; seq++ {
		if err := ctx.Err(); err != nil {
			return echoes{}, err
		}
		trip, err := echo(ip, seq)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && lost < 10:
			lost++
		case err != nil:
			return echoes{}, fmt.Errorf("send an echo request to %s: %w", farNode, err)
		default:
			trips = append(trips, milliseconds(trip))
		}
	}
	return echoes{median: quantile(trips, 0.5), worst: quantile(trips, 0.99)}, nil
}

// askForTimes makes the kernel tell when it received what is read.
func askForTimes(conn *net.IPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var option error
	err = raw.Control(func(fd uintptr) { option = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) })
	return errors.Join(err, os.NewSyscallError("ask for receive times", option))
}

// echo makes one request and returns how long the answer took.
func echo(conn *net.IPConn, seq byte) (time.Duration, error) {
	const identifier = 0x6277
	request := []byte{8, 0, 0, 0, identifier >> 8, identifier & 0xff, 0, seq}
	sum := uint32(0x0800) + identifier + uint32(seq)
	sum = ^(sum&0xffff + sum>>16)
	request[2], request[3] = byte(sum>>8), byte(sum)
	sent := time.Now()
	if _, err := conn.Write(request); err != nil {
		return 0, err
	}
	if err := conn.SetReadDeadline(sent.Add(time.Second)); err != nil {
		return 0, err
	}
	buffer, control := make([]byte, 256), make([]byte, 128)
	for {
		n, controlled, _, _, err := conn.ReadMsgIP(buffer, control)
		if err != nil {
			return 0, err
		}
		const header = 20 // the kernel gives the IP header with it
		if n < header+8 || buffer[header] != 0 || buffer[header+7] != seq {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(control[:controlled])
		if err != nil || len(messages) == 0 || len(messages[0].Data) < 16 {
			return time.Since(sent), err
		}
		data := messages[0].Data
		came := time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:])))
		return came.Sub(time.Unix(0, sent.UnixNano())), nil
	}
}
