package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/storage"
)

// groupEndCommand makes this program one end of a group of volumes; the other argument is a groupEnd as JSON. It says a line when it is
// ready, obeys the lines on its standard input, and ends with that.
const groupEndCommand = "group-end"

// groupEnd is one end of a group, in a process of its own. Both ends are told the same, except Dir and Near.
type groupEnd struct {
	Dir  string
	Near bool
	// Link is the socket at which the far end listens; a round trip over it takes RTT, and it carries Rate bytes per second each way,
	// any number when 0. With To, the far end is no standby but the line to the server at that socket; with Shell, each connection is
	// to a command of its own (see farShellCommand).
	Link  string
	To    string
	Shell bool
	RTT   time.Duration
	Rate  int64
	// Volumes of Size bytes; the near end serves each at Dir/disk-N.sock.
	Volumes int
	Size    int64
}

func (e *groupEnd) specs() (specs []storage.Spec) {
	for i := range e.Volumes {
		specs = append(specs, storage.Spec{Name: fmt.Sprintf("disk-%d", i), Size: e.Size})
	}
	return specs
}

func (e *groupEnd) socket(i int) string { return filepath.Join(e.Dir, fmt.Sprintf("disk-%d.sock", i)) }

// serveGroupEnd is that process.
func serveGroupEnd(argument string, in io.Reader, out io.Writer) (err error) {
	var e groupEnd
	if err := json.Unmarshal([]byte(argument), &e); err != nil {
		return err
	}
	if e.Shell {
		return e.serveLine(in, out, func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() { _ = carryOut(far) }() // ends with the connection
			return near, nil
		})
	}
	if e.To != "" {
		return e.serveLine(in, out, func(context.Context) (net.Conn, error) { return net.Dial("unix", e.To) })
	}
	store, err := storage.Open(e.Dir, storage.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if e.Near {
		return e.serveNear(store, in, out)
	}
	standby, err := store.CreateStandby(context.Background(), "bench", e.specs(), 1)
	if err != nil {
		return err
	}
	return e.serveLine(in, out, func(ctx context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() { _ = standby.Serve(ctx, far) }() // waited for when the store is closed
		return near, nil
	})
}

// serveLine is the line, with what dial connects to at its end. To each line that it reads it says how many bytes went there.
func (e *groupEnd) serveLine(in io.Reader, out io.Writer, dial func(context.Context) (net.Conn, error)) error {
	ln, err := net.Listen("unix", e.Link)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var carried, back atomic.Int64
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := dial(ctx)
			if err != nil {
				_ = conn.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _, _ = far.Close(), conn.Close() })
			wg.Go(func() { e.line(far, conn, &carried) })
			wg.Go(func() { e.line(conn, far, &back) })
		}
	})
	fmt.Fprintln(out, "ready")
	for lines := bufio.NewScanner(in); lines.Scan(); {
		fmt.Fprintln(out, carried.Load())
	}
	return ln.Close()
}

// line carries bytes one way, each half a round trip later and no faster than the rate.
func (e *groupEnd) line(to io.WriteCloser, from io.Reader, carried *atomic.Int64) {
	const most = 256 << 10 // bytes at once
	atOnce := most
	if e.Rate > 0 {
		atOnce = 64 << 10 // so that the rate is even
	}
	type parcel struct {
		due time.Time
		p   *[most]byte
		n   int
	}
	const (
		maxLate = 5 * time.Millisecond // what the line catches up when it was not woken in time
		waiting = 1 << 20              // bytes for which the line is not free yet, as TCP keeps some
	)
	under := make(chan parcel, 1<<10)
	free := sync.Pool{New: func() any { return new([most]byte) }}
	var wg sync.WaitGroup
	wg.Go(func() {
		broken := false
		for m := range under {
			if wait := time.Until(m.due); wait > 0 {
				// The runtime's own timers are late by up to a millisecond when the process is idle.
				t := unix.NsecToTimespec(wait.Nanoseconds())
				_ = unix.Nanosleep(&t, nil)
			}
			if !broken {
				_, err := to.Write(m.p[:m.n])
				broken = err != nil
			}
			free.Put(m.p)
		}
	})
	idle := time.Now() // when the line has sent what it was given
	for {
		p, _ := free.Get().(*[most]byte)
		n, err := from.Read(p[:atOnce])
		carried.Add(int64(n))
		now := time.Now()
		if e.Rate > 0 {
			if late := now.Add(-maxLate); idle.Before(late) {
				idle = late
			}
			idle = idle.Add(time.Duration(float64(n) / float64(e.Rate) * float64(time.Second)))
			if idle.After(now) {
				now = idle
			}
			ahead := time.Duration(waiting / float64(e.Rate) * float64(time.Second))
			time.Sleep(time.Until(idle.Add(-ahead))) // the rest waits at the near end
		}
		under <- parcel{now.Add(e.RTT / 2), p, n}
		if err != nil {
			break
		}
	}
	close(under)
	wg.Wait()
	_ = to.Close()
}

// serveNear is the primary.
func (e *groupEnd) serveNear(store *storage.Store, in io.Reader, out io.Writer) error {
	ctx := context.Background()
	spec := storage.GroupSpec{Name: "bench", Epoch: 1}
	for i, v := range e.specs() {
		volume, err := store.Create(ctx, v, 1)
		if err == nil {
			err = volume.Serve(e.socket(i))
		}
		if err != nil {
			return err
		}
		spec.Volumes = append(spec.Volumes, v.Name)
	}
	var dialer net.Dialer
	dial := func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, "unix", e.Link) }
	fmt.Fprintln(out, "ready")
	for lines := bufio.NewScanner(in); lines.Scan(); {
		answer, err := e.obey(ctx, store, spec, dial, lines.Text())
		if err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		fmt.Fprintln(out, answer)
	}
	return nil
}

// obey carries out an order: none (no group), local, async, flush, sync (the group's mode, once it holds and all is at the standby),
// memory (bytes that are this process's alone), lag (what the far end lacks: bytes, and age of the oldest write in seconds).
func (e *groupEnd) obey(ctx context.Context, store *storage.Store, spec storage.GroupSpec, dial storage.Dialer, order string) (string, error) {
	switch order {
	case "none":
		return "ok", store.Unprotect(ctx, spec.Name, spec.Epoch)
	case "memory":
		return ownMemory()
	case "lag":
		return lagOf(store)
	}
	spec.Mode = order
	g, err := store.Protect(ctx, spec, dial)
	if err == nil {
		err = g.SetMode(ctx, order)
	}
	if err == nil && order != storage.ModeLocal {
		err = g.Drain(ctx)
	}
	return "ok", err
}

func lagOf(store *storage.Store) (string, error) {
	for _, g := range store.Groups() {
		return fmt.Sprintf("%d %f", g.Lag, g.LagTime.Seconds()), nil
	}
	return "0 0", nil
}

// ownMemory is what of this process lies in memory and in no file.
func ownMemory() (string, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "", err
	}
	var kib int64
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kib); err == nil {
			return strconv.FormatInt(kib<<10, 10), nil
		}
	}
	return "", errors.New("the kernel does not say what memory is used")
}
