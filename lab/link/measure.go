package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/lab/namespace"
)

// Measurement is what a line really delivers between two namespaces.
type Measurement struct {
	Settings Settings `json:"settings"`
	// Round trips of echo requests over the idle line, ms; the line's own share is twice the delay.
	RTTMinMs    float64 `json:"rttMinMs"`
	RTTMedianMs float64 `json:"rttMedianMs"`
	RTT99Ms     float64 `json:"rtt99Ms"`
	RTTMaxMs    float64 `json:"rttMaxMs"`
	Pings       int     `json:"pings"`
	// Rate is what the line carried under one TCP stream after it had got going, bit/s of Ethernet frames; Goodput what
	// the stream's reader got, bit/s.
	Rate    float64 `json:"rate"`
	Goodput float64 `json:"goodput"`
	// CPU is the share of one processor that the emulator's process used meanwhile, the stream's two ends included.
	CPU     float64 `json:"cpu"`
	Dropped uint64  `json:"dropped"`
}

// Measure builds a line between two namespaces of its own, asks for echoes over it, then sends a TCP stream for the
// time given. It needs root, and leaves nothing.
func Measure(ctx context.Context, s Settings, d time.Duration) (m Measurement, err error) {
	m.Settings = s
	// The stream's ends share this process with the line: give each thread the right to run at once, so that the line
	// competes for processors only, as it does in the lab.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(16))
	b, err := newMeasureBed(s)
	defer func() { err = errors.Join(err, b.close()) }()
	if err != nil {
		return m, fmt.Errorf("measure a link: %w", err)
	}
	if err := b.ping(ctx, &m); err != nil {
		return m, fmt.Errorf("measure a link's round trip: %w", err)
	}
	if err := b.stream(ctx, d, &m); err != nil {
		return m, fmt.Errorf("measure a link's rate: %w", err)
	}
	return m, nil
}

// measureBed is a line between two namespaces.
type measureBed struct {
	spaces [2]string
	taps   []*TAP
	link   *Link
}

var measureAddresses = [2]string{"192.0.2.1", "192.0.2.2"}

func newMeasureBed(s Settings) (*measureBed, error) {
	b := &measureBed{}
	for i := range b.spaces {
		name := fmt.Sprintf("godwit-measure-%d-%d", os.Getpid(), i)
		if err := namespace.Create(name); err != nil {
			return b, err
		}
		b.spaces[i] = name
		err := namespace.Do(name, func() error {
			tap, err := OpenTAP("line")
			if err == nil {
				b.taps = append(b.taps, tap)
			}
			return err
		})
		if err != nil {
			return b, err
		}
		if err := addressTAP(name, i); err != nil {
			return b, err
		}
	}
	var err error
	b.link, err = Start(b.taps[0].End(), b.taps[1].End(), s, 1)
	return b, err
}

func addressTAP(space string, i int) error {
	ns, err := netns.GetFromPath(namespace.Path(space))
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	dev, err := h.LinkByName("line")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(measureAddresses[i] + "/30")
	if err != nil {
		return err
	}
	macs := [2]net.HardwareAddr{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	return errors.Join(h.LinkSetHardwareAddr(dev, macs[i]), h.AddrAdd(dev, addr), h.LinkSetUp(dev), h.NeighSet(&netlink.Neigh{
		LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP(measureAddresses[1-i]), HardwareAddr: macs[1-i],
	}))
}

func (b *measureBed) close() error {
	var errs []error
	if b.link != nil {
		errs = append(errs, b.link.Close())
	}
	for _, t := range b.taps {
		errs = append(errs, t.Close())
	}
	for _, s := range b.spaces {
		if s != "" {
			errs = append(errs, namespace.Delete(s))
		}
	}
	return errors.Join(errs...)
}

// ping sends ICMP echo requests, one at a time. The far kernel answers, and this one notes when the answer came, so that
// only the line is measured.
func (b *measureBed) ping(ctx context.Context, m *Measurement) error {
	var conn *net.IPConn
	err := namespace.Do(b.spaces[0], func() (err error) {
		conn, err = net.DialIP("ip4:icmp", nil, &net.IPAddr{IP: net.ParseIP(measureAddresses[1])})
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var option error
	err = raw.Control(func(fd uintptr) { option = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) })
	if err := errors.Join(err, option); err != nil {
		return err
	}
	var rtts []time.Duration
	for seq, lost := byte(1), 0; seq <= 100 && lost < 10 && ctx.Err() == nil; seq++ {
		rtt, err := echo(conn, seq, 4*m.Settings.Delay+time.Second)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			lost++
		case err != nil:
			return err
		default:
			rtts = append(rtts, rtt)
		}
	}
	if len(rtts) == 0 {
		return errors.New("no echo came back")
	}
	slices.Sort(rtts)
	at := func(q float64) float64 { return rtts[int(q*float64(len(rtts)-1))].Seconds() * 1000 }
	m.RTTMinMs, m.RTTMedianMs, m.RTT99Ms, m.RTTMaxMs, m.Pings = at(0), at(0.5), at(0.99), at(1), len(rtts)
	return ctx.Err()
}

// echo makes one request and returns how long the answer took.
func echo(conn *net.IPConn, seq byte, patience time.Duration) (time.Duration, error) {
	request := []byte{8, 0, 0, 0, 0, 1, 0, seq}
	sum := ^uint16(0x0800 + 0x0001 + uint16(seq))
	request[2], request[3] = byte(sum>>8), byte(sum)
	sent := time.Now()
	if _, err := conn.Write(request); err != nil {
		return 0, err
	}
	if err := conn.SetReadDeadline(sent.Add(patience)); err != nil {
		return 0, err
	}
	buf, control := make([]byte, 256), make([]byte, 128)
	for {
		n, controlled, _, _, err := conn.ReadMsgIP(buf, control)
		if err != nil {
			return 0, err
		}
		const ip = 20 // the kernel gives the IP header with it
		if n < ip+8 || buf[ip] != 0 || buf[ip+7] != seq {
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

// stream sends for a quarter of the time to let TCP find its window, and counts during the rest.
func (b *measureBed) stream(ctx context.Context, d time.Duration, m *Measurement) error {
	var listener net.Listener
	err := namespace.Do(b.spaces[1], func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp4", measureAddresses[1]+":0")
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	var out net.Conn
	err = namespace.Do(b.spaces[0], func() (err error) {
		out, err = new(net.Dialer).DialContext(ctx, "tcp4", listener.Addr().String())
		return err
	})
	if err != nil {
		return err
	}
	in, err := listener.Accept()
	if err != nil {
		return errors.Join(err, out.Close())
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		data := make([]byte, 256<<10)
		for {
			if _, err := out.Write(data); err != nil {
				return
			}
		}
	}()
	counted := b.count(ctx, in, d, m)
	err = errors.Join(counted, in.Close(), out.Close())
	<-sent
	return err
}

func (b *measureBed) count(ctx context.Context, in net.Conn, d time.Duration, m *Measurement) error {
	buf := make([]byte, 256<<10)
	read := func(until time.Time) (total int64, err error) {
		if err := in.SetReadDeadline(until); err != nil {
			return 0, err
		}
		for {
			n, err := in.Read(buf)
			total += int64(n)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return total, ctx.Err()
			}
			if errors.Is(err, io.EOF) {
				return total, errors.New("the stream ended early")
			}
			if err != nil {
				return total, err
			}
		}
	}
	if _, err := read(time.Now().Add(d / 4)); err != nil {
		return err
	}
	before, _ := b.link.Counters()
	cpu, began := processorTime(), time.Now()
	total, err := read(began.Add(d - d/4))
	after, _ := b.link.Counters()
	took := time.Since(began).Seconds()
	m.Rate, m.Goodput = float64(after.Bytes-before.Bytes)*8/took, float64(total)*8/took
	m.CPU = (processorTime() - cpu).Seconds() / took
	m.Dropped = after.Dropped()
	return err
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
