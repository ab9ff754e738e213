//go:build lab

package qemu

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/server"
)

// bootSector enters protected mode, then without end writes '.' to the serial port and increments one word in each of
// so many pages from 1 MiB up, turning an empty loop after each. Both numbers lie at its end.
const bootSector = "\xfa\x31\xc0\x8e\xd8\x66\x0f\x01\x16\x68\x7c\x0f\x20\xc0\x0c\x01\x0f\x22\xc0\x66\xea\x1b\x7c\x00\x00\x08\x00\x66\xb8" +
	"\x10\x00\x8e\xd8\x8e\xc0\x8e\xd0\x66\xba\xf8\x03\xb0\x2e\xee\x8b\x0d\xf4\x7d\x00\x00\xbf\x00\x00\x10\x00\xff\x07\x81\xc7\x00\x10\x00" +
	"\x00\xa1\xf8\x7d\x00\x00\x48\x75\xfd\x49\x75\xed\xeb\xd9\x8d\x74\x26\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00\x00\x9a\xcf" +
	"\x00\xff\xff\x00\x00\x00\x92\xcf\x00\x17\x00\x50\x7c"

// load is what the guest does. The kernel guest takes kilobytes per 100 ms instead, in a small Linux.
type load struct{ pages, delay uint32 }

var (
	idle   = load{1, 100_000_000}
	busy   = load{500, 100_000} // some 2 MB, again and again
	fierce = load{24_000, 1}    // 98 MB, faster than the link of its test, and more than QEMU keeps to send differences to (xbzrle)
)

// place is two hosts on one machine: a shared volume, and a platform each.
type place struct {
	t        *testing.T
	spec     server.Machine
	from, to *Platform
	dirs     [2]string
	events   chan server.Status
}

func newPlace(t *testing.T, l load) *place {
	t.Helper()
	for _, program := range []string{"qemu-system-x86_64", "qemu-nbd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s", program)
		}
	}
	dir := t.TempDir()
	boot := make([]byte, 1<<20)
	copy(boot, bootSector)
	binary.LittleEndian.PutUint32(boot[500:], l.pages)
	binary.LittleEndian.PutUint32(boot[504:], l.delay)
	boot[510], boot[511] = 0x55, 0xaa
	image, socket := filepath.Join(dir, "disk"), filepath.Join(dir, "nbd")
	if err := os.WriteFile(image, boot, 0o600); err != nil {
		t.Fatal(err)
	}
	nbd := exec.Command("qemu-nbd", "-f", "raw", "-k", socket, "-t", "-e", "8", image)
	if err := nbd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nbd.Process.Kill(); nbd.Wait() })
	until(t, func() bool { _, err := os.Stat(socket); return err == nil })
	p := &place{t: t, dirs: [2]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}, events: make(chan server.Status, 1000)}
	p.spec = server.Machine{Name: "shop", CPUs: 1, Memory: 256 << 20, Disks: []server.Disk{{Name: "root", Socket: socket}}}
	if kernel := os.Getenv("GODWIT_TEST_KERNEL"); kernel != "" {
		p.spec.Kernel, p.spec.Initrd = kernel, os.Getenv("GODWIT_TEST_INITRD")
		p.spec.CommandLine = fmt.Sprintf("console=ttyS0 quiet fill=20 dirty=%d", l.pages*4/10)
	}
	p.from, p.to = p.open(0), p.open(1)
	t.Cleanup(func() {
		for i := range p.dirs {
			q := p.open(i)
			if err := q.Destroy(context.Background(), "shop"); err != nil {
				t.Error(err)
			}
			q.Close()
		}
	})
	t.Cleanup(func() { p.from.Close(); p.to.Close() })
	return p
}

func (p *place) open(side int) *Platform {
	p.t.Helper()
	out := io.Discard
	if testing.Verbose() {
		out = os.Stderr
	}
	q, err := New(Options{Dir: p.dirs[side], Logger: slog.New(slog.NewTextHandler(out, nil)).With("side", "ab"[side:side+1])})
	if err != nil {
		p.t.Fatal(err)
	}
	q.Watch(func(s server.Status) { p.events <- s })
	return q
}

// restart is a new agent on that side.
func (p *place) restart(side int) {
	if side == 0 {
		p.from.Close()
		p.from = p.open(0)
		return
	}
	p.to.Close()
	p.to = p.open(1)
}

func (p *place) console(side int) string {
	data, _ := os.ReadFile(filepath.Join(p.dirs[side], "shop", serialFile))
	return string(data)
}

// boot starts the guest at the source and waits until it works.
func (p *place) boot() {
	p.t.Helper()
	if err := p.from.Start(p.t.Context(), p.spec); err != nil {
		p.t.Fatal(err)
	}
	mark := "."
	if p.spec.Kernel != "" {
		mark = "GODWIT-FILLED"
	}
	until(p.t, func() bool { return strings.Contains(p.console(0), mark) })
}

// goesOn waits until the guest of that side has said more.
func (p *place) goesOn(side int) {
	p.t.Helper()
	n := len(p.console(side))
	until(p.t, func() bool { return len(p.console(side)) > n })
}

func (p *place) state(side int) string {
	p.t.Helper()
	s, err := [2]*Platform{p.from, p.to}[side].Status(p.t.Context(), "shop")
	if err != nil {
		p.t.Fatal(err)
	}
	return s.State
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("waited for a minute in vain")
		}
		time.Sleep(5 * time.Millisecond) // a poll: the deadline is above
	}
}

// link is a WAN of so many bytes per second and so much delay each way, with room for one round trip.
type link struct {
	rate  float64
	delay time.Duration
	sent  atomic.Int64
	wg    sync.WaitGroup
	near  net.Conn // the source's
	far   net.Conn // the destination's
}

type parcel struct {
	data []byte
	at   time.Time
}

func newLink(t *testing.T, rate float64, delay time.Duration) *link {
	t.Helper()
	pair := func() (net.Conn, net.Conn) {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = syscall.SetsockoptInt(fds[0], syscall.SOL_SOCKET, syscall.SO_SNDBUF, chunk)
		var ends [2]net.Conn
		for i, fd := range fds {
			f := os.NewFile(uintptr(fd), "link")
			if ends[i], err = net.FileConn(f); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		return ends[0], ends[1]
	}
	l := &link{rate: rate, delay: delay}
	near, a := pair()
	b, far := pair()
	l.near, l.far = near, far
	way := make(chan parcel, max(1, int(2*delay.Seconds()*rate/16384)))
	l.wg.Add(3)
	go func() { // the rate
		defer l.wg.Done()
		defer close(way)
		for free := time.Now(); ; {
			buffer := make([]byte, 16384)
			n, err := a.Read(buffer)
			if err != nil {
				return
			}
			if now := time.Now(); free.Before(now) {
				free = now
			}
			free = free.Add(time.Duration(float64(n) / l.rate * 1e9))
			time.Sleep(time.Until(free))
			l.sent.Add(int64(n))
			way <- parcel{buffer[:n], time.Now().Add(l.delay)}
		}
	}()
	go func() { // the delay
		defer l.wg.Done()
		for x := range way {
			time.Sleep(time.Until(x.at))
			_, _ = b.Write(x.data)
		}
		_ = b.(*net.UnixConn).CloseWrite()
	}()
	go func() { // the other direction only ever closes
		defer l.wg.Done()
		_, _ = io.Copy(io.Discard, b)
		a.Close()
	}()
	t.Cleanup(func() { l.cut(); far.Close(); a.Close(); b.Close(); l.wg.Wait() })
	return l
}

func (l *link) cut() { l.near.Close(); l.far.Close() }

func wan(t *testing.T) *link { return newLink(t, 12.5e6, 10*time.Millisecond) }

// prepared lets the destination wait and take what comes over the link.
func (p *place) prepared(epoch uint64, l *link) (dial func(context.Context) (net.Conn, error), accepted <-chan error) {
	p.t.Helper()
	if err := p.from.CheckSource(p.t.Context(), "shop"); err != nil {
		p.t.Fatal(err)
	}
	if err := p.to.PrepareIncoming(p.t.Context(), p.spec, epoch); err != nil {
		p.t.Fatal(err)
	}
	result := make(chan error, 1)
	to, ctx := p.to, p.t.Context()
	return func(context.Context) (net.Conn, error) {
		go func() { result <- to.AcceptIncoming(ctx, "shop", epoch, l.far) }()
		return l.near, nil
	}, result
}
