package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/godwit-project/godwit/lab"
)

const (
	// A stream has settleTime to find its rate before it is counted for streamTime.
	settleTime = 2 * time.Second
	streamTime = 4 * time.Second
	// halfLoad and highLoad are the shares of the rate that a paced stream takes up while the delay under load is measured.
	// What comes on top of the line's own delay at half load is the emulator's fault. At high load a part is the queue that
	// a real line would have as well: TCP sends a millisecond's worth at once, behind which an echo waits 0.3 ms on average.
	halfLoad = 0.5
	highLoad = 0.8
	pings    = 60

	nearNode, farNode = "west-host", "east-host"
	farAddress        = "198.51.100.18"
	farPort           = "7999"
)

// line is what is asked of the emulator between the two sites.
type line struct {
	rate int64 // bit/s of Ethernet frames, each direction
	rtt  time.Duration
}

func (l line) String() string {
	return fmt.Sprintf("%d Mbit/s, %d ms", l.rate/1_000_000, l.rtt.Milliseconds())
}

// askedLines are measured; the first is the default lab's, over which the migrations run.
var askedLines = [...]line{
	{rate: lab.DefaultBandwidth, rtt: lab.DefaultRTT},
	{rate: 1_000_000_000, rtt: lab.DefaultRTT},
}

// delivered is what came of it. Times are milliseconds, rates bit/s of Ethernet frames.
type delivered struct {
	idle, half, high echoes
	there, back      float64
}

// setLine changes the uplinks of both sites; each has a quarter of the round trip, one way.
func (b *bed) setLine(ctx context.Context, l line) error {
	delay := l.rtt / 4
	for _, site := range lab.Sites() {
		if err := b.lab.SetLink(ctx, site, lab.LinkChange{Rate: &l.rate, Delay: &delay}); err != nil {
			return err
		}
	}
	return nil
}

// measureLine measures between a host of either site, as a migration's bytes go.
func (b *bed) measureLine(ctx context.Context, l line) (d delivered, err error) {
	if err := b.setLine(ctx, l); err != nil {
		return d, err
	}
	stop, err := b.startFarEnd(ctx)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if d.idle, err = b.ping(ctx); err != nil {
		return d, fmt.Errorf("round trip: %w", err)
	}
	for share, into := range map[float64]*echoes{halfLoad: &d.half, highLoad: &d.high} {
		err := b.streaming(ctx, askSwallow, int64(share*float64(l.rate)), func() (err error) {
			*into, err = b.ping(ctx)
			return err
		})
		if err != nil {
			return d, fmt.Errorf("round trip under load: %w", err)
		}
	}
	if d.there, err = b.streamRate(ctx, askSwallow, east); err != nil {
		return d, fmt.Errorf("rate from %s: %w", nearNode, err)
	}
	if d.back, err = b.streamRate(ctx, askPour, west); err != nil {
		return d, fmt.Errorf("rate from %s: %w", farNode, err)
	}
	return d, nil
}

// startFarEnd starts this program in the far node. The function returned ends it and waits for that.
func (b *bed) startFarEnd(ctx context.Context) (stop func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	address := net.JoinHostPort(farAddress, farPort)
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := b.lab.Exec(running, farNode, []string{self, farEndCommand, address}, lab.Stdio{Err: os.Stderr})
		ended <- err
	}()
	stop = func() error {
		cancel()
		<-ended // killed, which is no fault
		return ctx.Err()
	}
	trying, done := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("the far end of the stream does not answer"))
	defer done()
	err = eventually(trying, 20*time.Millisecond, func() (bool, error) {
		conn, err := b.lab.Dial(trying, nearNode, "tcp4", address)
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// streaming runs f while a TCP stream flows that has found its rate; pace in bit/s bounds it, 0 does not.
func (b *bed) streaming(ctx context.Context, ask byte, pace int64, f func() error) error {
	conn, err := b.lab.Dial(ctx, nearNode, "tcp4", net.JoinHostPort(farAddress, farPort))
	if err != nil {
		return err
	}
	if err := fillLine(conn); err != nil {
		return errors.Join(err, conn.Close())
	}
	if pace > 0 {
		if err := setPace(conn, pace); err != nil {
			return errors.Join(err, conn.Close())
		}
	}
	if _, err := conn.Write([]byte{ask}); err != nil {
		return errors.Join(err, conn.Close())
	}
	opposite := map[byte]byte{askSwallow: askPour, askPour: askSwallow}[ask]
	var flowing sync.WaitGroup
	var flowed error
	flowing.Go(func() { flowed = flow(conn, opposite) })
	err = sleep(ctx, settleTime)
	if err == nil {
		err = f()
	}
	err = errors.Join(err, conn.Close())
	flowing.Wait()
	if flowed != nil && !errors.Is(flowed, net.ErrClosed) {
		err = errors.Join(err, fmt.Errorf("the stream broke: %w", flowed))
	}
	return err
}

// streamRate lets a stream flow as fast as it can, and counts at the uplink of the site where it arrives.
func (b *bed) streamRate(ctx context.Context, ask byte, at string) (rate float64, err error) {
	err = b.streaming(ctx, ask, 0, func() error {
		before, began, err := b.arrived(ctx, at)
		if err != nil {
			return err
		}
		if err := sleep(ctx, streamTime); err != nil {
			return err
		}
		after, ended, err := b.arrived(ctx, at)
		rate = float64(after-before) * 8 / ended.Sub(began).Seconds()
		return err
	})
	return rate, err
}

// arrived returns how many bytes a site's uplink has brought there, and when that was.
func (b *bed) arrived(ctx context.Context, site string) (uint64, time.Time, error) {
	now := time.Now() // the counters are the first thing that the lab looks at
	l, err := b.link(ctx, site)
	return l.In.Bytes, now, err
}
