//go:build lab

package network

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"
)

func (s *stream) send() {
	defer close(s.sending)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.stopped:
			return
		case <-tick.C:
			packet := make([]byte, 32)
			if s.sent%2 == 1 {
				packet = make([]byte, DefaultMTU-28) // the largest that fits the tunnel
			}
			binary.BigEndian.PutUint32(packet, uint32(s.sent))
			if _, err := s.conn.Write(packet); err == nil {
				s.sent++
			}
		}
	}
}

func (s *stream) receive() {
	defer close(s.reading)
	buffer := make([]byte, 2048)
	for {
		n, err := s.conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && n >= 4 {
			s.echoes = append(s.echoes, binary.BigEndian.Uint32(buffer))
			s.times = append(s.times, time.Now())
		}
	}
}

// result of a stream, all in packets but gap, the longest time without an answer.
type result struct {
	sent, answered, lost, twice, late int
	gap                               time.Duration
}

// end stops sending, waits for what is under way, and counts.
func (s *stream) end(t *testing.T) result {
	t.Helper()
	close(s.stopped)
	<-s.sending
	time.Sleep(300 * time.Millisecond) // nothing says that the last answer has come: a lost one never does
	s.conn.Close()
	<-s.reading
	r := result{sent: s.sent}
	seen := make([]int, s.sent)
	last := -1
	for i, n := range s.echoes {
		seen[n]++
		if int(n) < last {
			r.late++
		}
		last = max(last, int(n))
		if i > 0 {
			r.gap = max(r.gap, s.times[i].Sub(s.times[i-1]))
		}
	}
	for _, n := range seen {
		switch {
		case n == 0:
			r.lost++
		default:
			r.answered++
			r.twice += n - 1
		}
	}
	return r
}
