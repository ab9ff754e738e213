package probe

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// service answers probes the way a guest does; answer may change or withhold ("") each reply.
func service(t *testing.T, answer func(n, count uint64) string) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var count uint64 = 1000
		for in := bufio.NewScanner(conn); in.Scan(); {
			var n uint64
			if _, err := fmt.Sscan(in.Text(), &n); err != nil {
				return
			}
			count++
			reply := answer(n, count)
			if reply == "close" {
				return
			}
			if reply == "reset" {
				conn.(*net.TCPConn).SetLinger(0)
				return
			}
			if _, err := conn.Write([]byte(reply)); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func honest(n, count uint64) string { return fmt.Sprintf("%d %d %d\n", n, count, n/20) }

func TestAnHonestServiceGetsACleanReport(t *testing.T) {
	r := Run(t.Context(), service(t, honest), Options{Duration: 300 * time.Millisecond})
	if !r.Clean() || r.Sent == 0 || r.LastCount != 1000+r.Sent || r.LastAcked != r.Sent/20 || r.RTTMaxMs <= 0 {
		t.Errorf("%+v", r)
	}
}

func TestTheContextEndsAProbeWithoutError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := Run(ctx, service(t, func(n, count uint64) string {
		if n == 50 {
			cancel()
		}
		return honest(n, count)
	}), Options{})
	if !r.Clean() || r.Sent < 50 {
		t.Errorf("%+v", r)
	}
}

func TestAPauseOfTheServiceIsTheLongestGap(t *testing.T) {
	r := Run(t.Context(), service(t, func(n, count uint64) string {
		if n == 100 {
			time.Sleep(150 * time.Millisecond) // the pause that is to be found
		}
		return honest(n, count)
	}), Options{Duration: 400 * time.Millisecond})
	if !r.Clean() || r.LongestGapMs < 145 || len(r.Gaps) == 0 {
		t.Errorf("%+v", r)
	}
	if b := r.Histogram[2]; b.OverMs != 100 || b.Count != 1 {
		t.Errorf("histogram %+v", r.Histogram)
	}
}

func TestWrongRepliesAreCountedByKind(t *testing.T) {
	r := Run(t.Context(), service(t, func(n, count uint64) string {
		switch n {
		case 10:
			return fmt.Sprintf("%d %d %d\n", n+1, count, 0) // a number too far: this reply and the next are out of order
		case 20:
			return fmt.Sprintf("%d %d %d\n", n, count+1, 0) // a count too high, and back
		case 30:
			return "what?\n" + honest(n, count)
		case 40:
			return fmt.Sprintf("%d %d %d\n", n, count, 0) // forgot its writes
		}
		return fmt.Sprintf("%d %d %d\n", n, count, n)
	}), Options{Duration: 200 * time.Millisecond})
	if r.OutOfOrder != 2 || r.Miscounted != 2 || r.Malformed != 1 || r.AckedWentBack < 1 || r.Clean() {
		t.Errorf("%+v", r)
	}
}

func TestAClosedOrResetConnectionEndsTheProbeWithAnError(t *testing.T) {
	for _, how := range []string{"close", "reset"} {
		r := Run(t.Context(), service(t, func(n, count uint64) string {
			if n == 30 {
				return how
			}
			return honest(n, count)
		}), Options{})
		if r.Error == "" || r.Answered != 29 || r.Clean() {
			t.Errorf("%s: %+v", how, r)
		}
		if how == "reset" && r.Resets != 1 {
			t.Errorf("resets %d, %s", r.Resets, r.Error)
		}
	}
}

func TestUnansweredRequestsAreAGapToTheEnd(t *testing.T) {
	r := Run(t.Context(), service(t, func(n, count uint64) string {
		if n > 50 {
			return ""
		}
		return honest(n, count)
	}), Options{Duration: 100 * time.Millisecond, Drain: 100 * time.Millisecond})
	if r.Answered != 50 || r.Sent <= 50 || r.LongestGapMs < 100 || r.Error != "" {
		t.Errorf("%+v", r)
	}
}

func TestRepliesMayComeInPieces(t *testing.T) {
	s := &session{}
	s.sentAt, s.lateBy = newSlots(), newSlots()
	tl := newTally(s, time.Now())
	for _, b := range []byte("1 7 0\n2 8 0\n3 9 1\n") {
		tl.take([]byte{b}, 1, 0)
	}
	if tl.r.Answered != 3 || tl.r.LastCount != 9 || tl.r.LastAcked != 1 || tl.r.OutOfOrder+tl.r.Miscounted+tl.r.Malformed != 0 {
		t.Errorf("%+v", tl.r)
	}
	tl.take([]byte(strings.Repeat("x", 5000)), 2, 0)
	tl.take([]byte(strings.Repeat("x", 5000)), 2, 0)
	if len(tl.rest) > 256 {
		t.Errorf("keeps %d bytes of rubbish", len(tl.rest))
	}
}

func FuzzParseReply(f *testing.F) {
	f.Add([]byte("1 2 3"))
	f.Add([]byte(" 1 2 3"))
	f.Fuzz(func(t *testing.T, line []byte) {
		n, count, acked, ok := parseReply(line)
		if ok && strings.Count(string(line), " ") != 2 {
			t.Errorf("%q read as %d %d %d", line, n, count, acked)
		}
	})
}
