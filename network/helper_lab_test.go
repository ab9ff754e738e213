//go:build lab

package network

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-project/godwit/network/bgp"
	"golang.org/x/sys/unix"
)

// helperVariable makes the test binary a helper and carries its helperConfig.
const helperVariable = "GODWIT_NETWORK_HELPER"

type helperConfig struct {
	Dir      string
	Own      netip.Addr // edge: address on the uplink; invalid: a host
	Neighbor netip.Addr
}

type request struct {
	Op         string
	Service    string
	Epoch      uint64
	Placement  Placement
	Tunnel     Tunnel
	Attachment Attachment
	Open       bool
	Quiet      time.Duration
}

type reply struct {
	Error    string
	Took     time.Duration
	Status   []EdgeStatus
	Sessions []bgp.State
	Frames   uint64
	Attached []Attachment
}

func TestMain(m *testing.M) {
	encoded := os.Getenv(helperVariable)
	if encoded == "" {
		os.Exit(m.Run())
	}
	var config helperConfig
	if err := json.Unmarshal([]byte(encoded), &config); err != nil {
		panic(err)
	}
	handle, err := open(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(1)
	}
	serve(handle)
}

func open(config helperConfig) (func(request) reply, error) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if !config.Own.IsValid() {
		h, err := NewHost(HostOptions{Logger: logger, Dir: config.Dir})
		return (&hostHelper{host: h, guests: map[string]*guest{}}).handle, err
	}
	e, err := NewEdge(context.Background(), EdgeOptions{
		Logger: logger, Dir: config.Dir, RouterID: config.Own, ASN: labASN, NextHop: config.Own, Underlay: config.Own,
		Neighbors: []Neighbor{{Address: config.Neighbor, ASN: labASN}},
	})
	return (&edgeHelper{edge: e}).handle, err
}

func serve(handle func(request) reply) {
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		var q request
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			panic(err)
		}
		start := time.Now()
		r := handle(q)
		r.Took = time.Since(start)
		if err := out.Encode(r); err != nil {
			return
		}
	}
}

func failure(err error) reply {
	if err != nil {
		return reply{Error: err.Error()}
	}
	return reply{}
}

type edgeHelper struct{ edge *Edge }

func (h *edgeHelper) handle(q request) reply {
	ctx, e := context.Background(), h.edge
	switch q.Op {
	case "ready":
		return reply{}
	case "close":
		return failure(e.Close())
	case "attach":
		return failure(e.Attach(ctx, q.Placement))
	case "detach":
		return failure(e.Detach(ctx, q.Service, q.Epoch))
	case "prepare":
		return failure(e.PrepareTunnel(ctx, q.Tunnel))
	case "hold":
		return failure(e.Hold(ctx, q.Service, q.Epoch))
	case "letgo":
		return failure(e.LetGo(ctx, q.Service, q.Epoch))
	case "restore":
		return failure(e.Restore(ctx, q.Service, q.Epoch))
	case "activate":
		return failure(e.Activate(ctx, q.Placement))
	case "announce":
		return failure(e.Announce(ctx, q.Service, q.Epoch))
	case "waitidle":
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		return failure(e.WaitIdle(ctx, q.Service, q.Epoch, q.Quiet, nil))
	case "withdraw":
		return failure(e.Withdraw(ctx, q.Service, q.Epoch))
	case "release":
		return failure(e.Release(ctx, q.Service, q.Epoch))
	case "drop":
		return failure(e.Drop(ctx, q.Service, q.Epoch))
	case "status":
		sessions, err := e.Sessions(ctx)
		r := failure(err)
		r.Status, r.Sessions = e.Status(), sessions
		return r
	default:
		return failure(fmt.Errorf("no operation %q", q.Op))
	}
}

type hostHelper struct {
	host   *Host
	guests map[string]*guest
}

func (h *hostHelper) handle(q request) reply {
	ctx := context.Background()
	switch q.Op {
	case "ready":
		return reply{}
	case "close":
		return failure(h.host.Close())
	case "attach":
		return failure(h.host.Attach(ctx, q.Attachment, q.Open))
	case "gate":
		return failure(h.host.SetGate(ctx, q.Service, q.Open))
	case "detach":
		return failure(h.host.Detach(ctx, q.Service))
	case "attachments":
		return reply{Attached: h.host.Attachments()}
	case "boot":
		g, err := boot(TapName(q.Service))
		h.guests[q.Service] = g
		return failure(err)
	case "frames":
		return reply{Frames: h.guests[q.Service].frames.Load()}
	case "halt":
		err := h.guests[q.Service].file.Close()
		<-h.guests[q.Service].done
		return failure(err)
	default:
		return failure(fmt.Errorf("no operation %q", q.Op))
	}
}

// guest opens a tap as QEMU would and sends every UDP packet back to where it came from.
type guest struct {
	file   *os.File
	frames atomic.Uint64
	done   chan struct{}
}

func boot(tap string) (*guest, error) {
	file, err := openTun(tap, tapFlags)
	if err != nil {
		return nil, err
	}
	g := &guest{file: file, done: make(chan struct{})}
	go g.run()
	return g, nil
}

func (g *guest) run() {
	defer close(g.done)
	buffer := make([]byte, 65536)
	for {
		n, err := g.file.Read(buffer)
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADFD) {
			return
		}
		if err == nil && echo(buffer[:n]) {
			g.frames.Add(1)
			g.file.Write(buffer[:n])
		}
	}
}

// echo turns a frame round: a swap leaves every checksum right.
func echo(frame []byte) bool {
	const vnet, ethernet = 10, 14
	if len(frame) < vnet+ethernet+28 || binary.BigEndian.Uint16(frame[vnet+12:]) != 0x0800 || frame[vnet+ethernet+9] != 17 {
		return false
	}
	clear(frame[:vnet])
	swap(frame[vnet:], 6)
	packet := frame[vnet+ethernet:]
	swap(packet[12:], 4)
	swap(packet[20:], 2)
	return true
}

func swap(b []byte, n int) {
	first := bytes.Clone(b[:n])
	copy(b, b[n:2*n])
	copy(b[n:], first)
}
