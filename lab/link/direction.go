package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes of a direction's ring: enough for a round trip of 50 ms at 1 Gbit/s, or 60,000 small packets.
const (
	ringBytes   = 16 << 20
	ringEntries = 1 << 16
)

// The time between two wake-ups of a busy direction. Without it each packet of a stream is a wake-up of its own, which
// costs more than carrying it, and is taken from what the lab is there to measure. What came during a nap counts as if it
// had come in its middle, and what is due in the first half of the next goes at once: so a stream is as late as asked on
// average, each of its frames within a nap, and an isolated frame is exact. A fast line has more to carry in each.
const (
	longNap  = int64(400 * time.Microsecond)
	shortNap = int64(150 * time.Microsecond) // from offloadRate on
)

// batch is how many frames are read before those that are due are looked at again.
const batch = 32

// direction carries frames from one descriptor to another. run owns everything that is not atomic.
type direction struct {
	from, to int
	event    int // eventfd: params or stop have changed
	params   atomic.Pointer[params]
	stop     atomic.Bool
	tally    tally
	started  time.Time // the zero of now
	gone     bool      // from will never give a frame again
	woke     int64     // when wait last returned
	napped   bool      // and that was from a nap …
	idle     bool      // … in which nothing came and nothing was due

	ring  *ring
	model model
	rand  *rand.PCG
}

func newDirection(from, to int, seed, index uint64) (*direction, error) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &direction{
		from: from, to: to, event: event, started: time.Now(),
		ring: newRing(ringBytes, ringEntries), rand: rand.NewPCG(seed, index),
	}, nil
}

func (d *direction) close() error { return unix.Close(d.event) }

// wake makes run look at params and stop. A full eventfd is awake already.
func (d *direction) wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(d.event, one[:])
}

// run moves frames until stop. It keeps its thread, for which it asks exact timers and a place before ordinary
// processes: a virtual machine that computes must not stretch the line.
func (d *direction) run() {
	runtime.LockOSThread() // and never unlocked: the thread's settings end with it
	favourThread()
	fds := []unix.PollFd{{Fd: int32(d.event), Events: unix.POLLIN}, {Fd: int32(d.from), Events: unix.POLLIN}}
	for !d.stop.Load() {
		p := d.params.Load()
		now := d.now()
		slack := int64(0)
		if d.napped {
			slack = p.nap / 2
		}
		sent := d.deliver(now+slack, p)
		got, more := d.receive(p, slack)
		d.idle = d.idle && !sent && !got
		if more {
			continue
		}
		if d.wait(fds, d.ring.oldest(), p.nap) {
			var counter [8]byte
			_, _ = unix.Read(d.event, counter[:])
		}
	}
}

// wait sleeps until there is something to do, and reports whether it was woken. A full ring does not listen.
func (d *direction) wait(fds []unix.PollFd, next *entry, nap int64) (woken bool) {
	var timeout *unix.Timespec
	var ts unix.Timespec
	now := d.now()
	defer func() { d.woke = d.now() }()
	listen := fds
	if space, _ := d.ring.room(); space == nil || d.gone {
		listen = fds[:1]
	}
	until := int64(0)
	if next != nil {
		until = next.due
	}
	if rested := d.woke + nap; now < rested && !(d.napped && d.idle) {
		// What comes in or is due meanwhile is taken together afterwards.
		until, listen, d.napped = rested, fds[:1], true
	} else {
		d.napped = false
	}
	d.idle = true
	if until > 0 {
		if until <= now {
			return false
		}
		ts = unix.NsecToTimespec(until - now)
		timeout = &ts
	}
	n, err := unix.Ppoll(listen, timeout, nil)
	if err != nil || n == 0 {
		return false
	}
	// An error without data is a device that has been removed; to listen on would be to spin.
	if len(listen) > 1 && fds[1].Revents&unix.POLLIN == 0 && fds[1].Revents != 0 {
		d.gone = true
	}
	return fds[0].Revents != 0
}

// deliver writes out what is due by then, and reports whether anything was.
func (d *direction) deliver(then int64, p *params) (any bool) {
	for {
		e := d.ring.oldest()
		if e == nil || e.due > then {
			return any
		}
		any = true
		switch {
		case e.epoch != p.epoch:
			d.tally.cutOff.Add(uint64(e.packets))
		case write(d.to, d.ring.frame(e)) != nil:
			d.tally.failed.Add(uint64(e.packets))
		default:
			d.tally.bytes.Add(uint64(e.wire))
			d.tally.packets.Add(uint64(e.packets))
		}
		d.ring.pop()
	}
}

// receive takes in a batch of frames, as if they had come so long ago, and reports whether there was any, and whether there
// may be more.
func (d *direction) receive(p *params, ago int64) (any, more bool) {
	for range batch {
		space, skipped := d.ring.room()
		if space == nil {
			return any, false
		}
		n, err := unix.Read(d.from, space)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= vnetHeader {
			return any, false // nothing there, or an end that is down: poll will say when that changes
		}
		any = true
		d.accept(space[:n], skipped, p, ago)
	}
	return true, true
}

// accept decides what becomes of a frame that came so long ago.
func (d *direction) accept(frame []byte, skipped int, p *params, ago int64) {
	wire, packets := wireSize(frame)
	if p.cut {
		d.tally.cutOff.Add(uint64(packets))
		return
	}
	due, ok := d.model.admit(d.now()-ago, wire, p)
	if !ok {
		d.tally.overflowed.Add(uint64(packets))
		return
	}
	if p.lossOver > 0 && d.rand.Uint64() < p.lossOver {
		d.tally.lost.Add(uint64(packets))
		return
	}
	d.ring.push(entry{due: due, epoch: p.epoch, size: len(frame), skipped: skipped, wire: wire, packets: packets})
}

func write(fd int, frame []byte) error {
	for {
		_, err := unix.Write(fd, frame)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// now returns nanoseconds of a monotonic clock.
func (d *direction) now() int64 { return int64(time.Since(d.started)) }

// favourThread is best effort: without the rights to it the line is merely less exact.
func favourThread() {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	attr := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}
	if unix.SchedSetAttr(0, attr, 0) != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -15)
	}
}
