// Package link emulates a line between two network devices of one machine: delay, bandwidth, a bounded queue, random
// loss, and cuts, in either direction, changeable while it runs. The lab has it because kernels without netem exist,
// and because its own is exact where it matters to us: it never lets a burst through that the line could not carry.
//
// One thread per direction sleeps in the kernel until a frame comes in or the next one is due. Frames lie in one ring
// from being read to being written; nothing is allocated and nothing copied on the way. With no traffic no
// processor time is used.
//
// An end is a descriptor that gives and takes one frame per call, each preceded by a virtio_net_hdr: a TAP (OpenTAP),
// or in tests one half of a socket pair.
package link

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// offloadRate is the rate in bit/s from which whole TCP super-frames (64 KiB) may pass: there they take about a
// millisecond. Below, they would be a burst that a real line does not know, and there is time for single packets.
const offloadRate = 500_000_000

// Settings of a line, the same in both directions.
type Settings struct {
	Cut   bool
	Rate  int64         // bit/s of Ethernet frames; 0 for no limit
	Delay time.Duration // one way
	Loss  float64       // probability, 0 to 1
	Queue int64         // bytes that may wait for the line; 0 for one round trip's worth
}

// Counters count one direction.
type Counters struct {
	Bytes, Packets uint64 // delivered
	Lost           uint64 // packets, at random
	Overflowed     uint64 // packets that found the queue full
	CutOff         uint64 // packets, because of a cut
	Failed         uint64 // packets that the far end did not take
}

// Dropped is the sum of all that was not delivered.
func (c Counters) Dropped() uint64 { return c.Lost + c.Overflowed + c.CutOff + c.Failed }

// End is one end of a line. Offload, if not nil, allows or forbids super-frames on it.
type End struct {
	FD      int
	Offload func(bool) error
}

// Link is a running line.
type Link struct {
	ends [2]End
	dirs [2]*direction
	wg   sync.WaitGroup

	mu       sync.Mutex
	settings Settings
	epoch    uint64
	offload  bool
	closed   bool
}

// Start runs a line between two ends until Close. The ends stay the caller's and must outlive it. Equal seeds lose
// the same frames of the same traffic.
func Start(a, b End, s Settings, seed uint64) (*Link, error) {
	l := &Link{ends: [2]End{a, b}}
	var err error
	for i, io := range [2][2]int{{a.FD, b.FD}, {b.FD, a.FD}} {
		if l.dirs[i], err = newDirection(io[0], io[1], seed, uint64(i)); err != nil {
			return nil, errors.Join(fmt.Errorf("start link: %w", err), l.Close())
		}
	}
	l.offload = true // what the ends are is unknown: make apply set it
	if err := l.Set(s); err != nil {
		return nil, errors.Join(fmt.Errorf("start link: %w", err), l.Close())
	}
	for _, d := range l.dirs {
		l.wg.Go(d.run)
	}
	return l, nil
}

// Set changes the line at once. A cut loses what is under way.
func (l *Link) Set(s Settings) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("set link: it is closed")
	}
	if offload := (s.Rate <= 0 || s.Rate >= offloadRate) && s.Loss <= 0; offload != l.offload {
		for _, e := range l.ends {
			if e.Offload == nil {
				continue
			}
			if err := e.Offload(offload); err != nil {
				return fmt.Errorf("set link: %w", err)
			}
		}
		l.offload = offload
	}
	if s.Cut && !l.settings.Cut {
		l.epoch++
	}
	l.settings = s
	for _, d := range l.dirs {
		d.params.Store(s.params(l.epoch))
		d.wake()
	}
	return nil
}

// Settings returns the present ones.
func (l *Link) Settings() Settings {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings
}

// Counters returns those of both directions: from a to b, and from b to a.
func (l *Link) Counters() (ab, ba Counters) { return l.dirs[0].counters(), l.dirs[1].counters() }

// Close ends the line and waits for its threads. What is under way is lost. Closing again does nothing.
func (l *Link) Close() error {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return nil
	}
	for _, d := range l.dirs {
		if d != nil {
			d.stop.Store(true)
			d.wake()
		}
	}
	l.wg.Wait()
	var errs []error
	for _, d := range l.dirs {
		if d != nil {
			errs = append(errs, d.close())
		}
	}
	return errors.Join(errs...)
}

type tally struct {
	bytes, packets, lost, overflowed, cutOff, failed atomic.Uint64
}

func (d *direction) counters() Counters {
	t := &d.tally
	return Counters{
		Bytes: t.bytes.Load(), Packets: t.packets.Load(), Lost: t.lost.Load(),
		Overflowed: t.overflowed.Load(), CutOff: t.cutOff.Load(), Failed: t.failed.Load(),
	}
}
