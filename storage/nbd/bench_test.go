package nbd

import (
	"bytes"
	"context"
	"fmt"
	"testing"
)

// endless repeats a conversation.
type endless struct {
	script []byte
	at     int
	left   int // rounds
}

func (e *endless) Read(p []byte) (int, error) {
	if e.at == len(e.script) {
		e.at = 0
		if e.left--; e.left <= 0 {
			return 0, errDisc
		}
	}
	n := copy(p, e.script[e.at:])
	e.at += n
	return n, nil
}

// What a request costs here, without sockets and disks: go test -bench . -benchmem ./storage/nbd
func BenchmarkRequests(b *testing.B) {
	for _, cmd := range []uint16{cmdRead, cmdWrite} {
		request := command(0, cmd, 1, 4096, 4096)
		if cmd == cmdWrite {
			request = append(request, make([]byte, 4096)...)
		}
		b.Run(fmt.Sprintf("command %d", cmd), func(b *testing.B) {
			b.ReportAllocs()
			m := prompt{&memory{b: make([]byte, 1<<20)}}
			script := &endless{script: bytes.Repeat(request, 32), left: b.N/32 + 1}
			_ = newTransmission(context.Background(), pipe{Reader: script}, m, terms{size: m.Size(), flags: flagsOf(m, false)}).run()
		})
	}
}
