package probe

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options of a probe. Zero fields take the defaults.
type Options struct {
	// Duration is how long to ask; 0 until the context ends.
	Duration time.Duration
	// Interval between two requests; 1 ms by default.
	Interval time.Duration
	// Drain is how long to wait for outstanding replies at the end; 15 s by default.
	Drain time.Duration
	// Progress, if set, is called about once a second with the report so far, without lists.
	Progress func(Report)
}

// slots is how many requests may be outstanding before their times are forgotten: two minutes' worth.
const slots = 1 << 17

func newSlots() []atomic.Int64 { return make([]atomic.Int64, slots) }

// session is one probe under way. The sender writes the slots, the reader reads them.
type session struct {
	conn     net.Conn
	opts     Options
	sent     atomic.Uint64
	answered atomic.Uint64
	sending  atomic.Bool    // the sender may go on
	reading  atomic.Bool    // the reader may go on
	sentAt   []atomic.Int64 // by N modulo slots: wall clock in ns
	lateBy   []atomic.Int64 // by N modulo slots: ns after its time
	lateMax  atomic.Int64
	lates    atomic.Uint64
	view     atomic.Pointer[Report] // the reader's, published about once a second
}

// Run asks over conn until the duration has passed or ctx ends, waits for what is outstanding, and reports. It closes
// conn. Ending by ctx is the normal way to stop and no error.
func Run(ctx context.Context, conn net.Conn, opts Options) Report {
	if opts.Interval <= 0 {
		opts.Interval = time.Millisecond
	}
	if opts.Drain <= 0 {
		opts.Drain = 15 * time.Second
	}
	s := &session{conn: conn, opts: opts, sentAt: newSlots(), lateBy: newSlots()}
	s.sending.Store(true)
	s.reading.Store(true)
	// Two threads of a higher class must not wait until an ordinary thread of this process gets its turn.
	procs := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(procs + 6)
	defer runtime.GOMAXPROCS(procs)
	started := time.Now()
	if opts.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, opts.Duration)
		defer cancel()
	}

	sent, read := make(chan error, 1), make(chan error, 1)
	tally := newTally(s, started)
	go func() { sent <- s.send() }()
	go func() { read <- s.read(tally) }()
	sendErr, readErr := s.steer(ctx, sent, read)

	r := tally.finish(time.Now())
	r.Address = conn.RemoteAddr().String()
	err := errors.Join(sendErr, readErr)
	if err != nil {
		r.Error = err.Error()
	}
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		r.Resets = 1
	}
	return r
}

// steer lets the probe run until it is time to stop or it breaks, and comes back when both sides have ended.
func (s *session) steer(ctx context.Context, sent, read <-chan error) (sendErr, readErr error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	stop := ctx.Done()
	var drained <-chan time.Time
	senderEnded, readerEnded := false, false
	for !senderEnded || !readerEnded {
		select {
		case <-stop:
			stop = nil
			s.sending.Store(false)
		case sendErr = <-sent:
			senderEnded = true
			timer := time.NewTimer(s.opts.Drain)
			defer timer.Stop()
			drained = timer.C
		case <-drained:
			s.reading.Store(false)
		case readErr = <-read:
			readerEnded = true
			s.sending.Store(false)
			_ = s.conn.SetWriteDeadline(time.Unix(1, 0)) // a full socket must not hold the sender
		case <-tick.C:
			if r := s.view.Load(); r != nil && s.opts.Progress != nil {
				s.opts.Progress(*r)
			}
		}
		if senderEnded && s.answered.Load() >= s.sent.Load() {
			s.reading.Store(false)
		}
	}
	return errors.Join(sendErr, ignoreTimeout(s.conn.Close())), readErr
}

func ignoreTimeout(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return nil
	}
	return err
}

// send asks at its times. Times that it has slept through are left out, not made up for in a burst.
func (s *session) send() error {
	favourThread()
	if tcp, ok := s.conn.(*net.TCPConn); ok {
		if err := tcp.SetNoDelay(true); err != nil {
			return err
		}
	}
	line := make([]byte, 0, 24)
	due := monotonic()
	for n := uint64(1); s.sending.Load(); n++ {
		sleepUntil(due)
		now := monotonic()
		late := now - due
		s.noteLate(n, late)
		line = strconv.AppendUint(line[:0], n, 10)
		line = append(line, '\n')
		s.sentAt[n%slots].Store(time.Now().UnixNano())
		s.sent.Store(n)
		if _, err := s.conn.Write(line); err != nil {
			s.sent.Store(n - 1)
			if !s.sending.Load() {
				return nil
			}
			return err
		}
		due += int64(s.opts.Interval) * (1 + max(0, monotonic()-due)/int64(s.opts.Interval))
	}
	return nil
}

func (s *session) noteLate(n uint64, late int64) {
	s.lateBy[n%slots].Store(late)
	if late > s.lateMax.Load() {
		s.lateMax.Store(late)
	}
	if late > int64(5*time.Millisecond) {
		s.lates.Add(1)
	}
}

func monotonic() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return ts.Nano()
}

// sleepUntil sleeps on the calling thread, which wakes more exactly than the runtime's timers. The call keeps the
// runtime's permission to run: to ask for it back on a busy machine took up to 9 ms. The sleep is an interval long, so
// nobody waits longer than that for the runtime.
func sleepUntil(due int64) {
	ts := unix.NsecToTimespec(due)
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME,
			uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		if errno != unix.EINTR {
			return
		}
	}
}
