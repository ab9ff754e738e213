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
	"github.com/insomniacslk/dhcp/dhcpv4"
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
	Leased   string
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
		return failure(h.host.Attach(ctx, q.Attachment, gateOf(q.Open)))
	case "gate":
		return failure(h.host.SetGate(ctx, q.Service, gateOf(q.Open)))
	case "divert":
		return failure(h.host.Divert(ctx, q.Service, q.Open))
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
	case "dhcp":
		leased, err := h.guests[q.Service].lease()
		r := failure(err)
		r.Leased = leased
		return r
	case "halt":
		err := h.guests[q.Service].file.Close()
		<-h.guests[q.Service].done
		return failure(err)
	default:
		return failure(fmt.Errorf("no operation %q", q.Op))
	}
}

func gateOf(open bool) Gate {
	if open {
		return GateOpen
	}
	return GateShut
}

// guest opens a tap as QEMU would and sends every UDP packet back to where it came from.
type guest struct {
	file    *os.File
	frames  atomic.Uint64
	answers chan []byte // DHCP
	done    chan struct{}
}

func boot(tap string) (*guest, error) {
	file, err := openTun(tap, tapFlags)
	if err != nil {
		return nil, err
	}
	g := &guest{file: file, done: make(chan struct{}), answers: make(chan []byte, 8)}
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
		if err != nil {
			continue
		}
		if port, payload := udp(buffer[:n]); port == 68 {
			g.answers <- bytes.Clone(payload)
		} else if echo(buffer[:n]) {
			g.frames.Add(1)
			g.file.Write(buffer[:n])
		}
	}
}

const vnetHeader, ethernetHeader = 10, 14

// udp returns the destination port and payload of a frame that is UDP over IPv4; else port 0.
func udp(frame []byte) (int, []byte) {
	const headers = vnetHeader + ethernetHeader + 28
	if len(frame) < headers || binary.BigEndian.Uint16(frame[vnetHeader+12:]) != 0x0800 || frame[vnetHeader+ethernetHeader+9] != 17 {
		return 0, nil
	}
	return int(binary.BigEndian.Uint16(frame[headers-6:])), frame[headers:]
}

// lease asks for an address as a booting guest does.
func (g *guest) lease() (string, error) {
	discover, err := dhcpv4.NewDiscovery(guestMAC)
	if err != nil {
		return "", err
	}
	offer, err := g.exchange(discover)
	if err != nil {
		return "", err
	}
	ask, err := dhcpv4.NewRequestFromOffer(offer)
	if err != nil {
		return "", err
	}
	ack, err := g.exchange(ask)
	if err != nil {
		return "", err
	}
	return ack.YourIPAddr.String(), nil
}

func (g *guest) exchange(message *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	if _, err := g.file.Write(broadcast(message.ToBytes())); err != nil {
		return nil, err
	}
	select {
	case data := <-g.answers:
		return dhcpv4.FromBytes(data)
	case <-time.After(500 * time.Millisecond):
		return nil, errors.New("no DHCP server answers")
	}
}

// broadcast wraps a payload from 0.0.0.0:68 to 255.255.255.255:67.
func broadcast(payload []byte) []byte {
	frame := make([]byte, vnetHeader+ethernetHeader+28, 1024)
	ethernet := frame[vnetHeader:]
	copy(ethernet, []byte{255, 255, 255, 255, 255, 255})
	copy(ethernet[6:], guestMAC)
	binary.BigEndian.PutUint16(ethernet[12:], 0x0800)
	packet := ethernet[ethernetHeader:]
	packet[0], packet[8], packet[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(packet[2:], uint16(28+len(payload)))
	copy(packet[16:], []byte{255, 255, 255, 255})
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	binary.BigEndian.PutUint16(packet[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(packet[20:], 68)
	binary.BigEndian.PutUint16(packet[22:], 67)
	binary.BigEndian.PutUint16(packet[24:], uint16(8+len(payload)))
	return append(frame, payload...)
}

// echo turns a frame round: a swap leaves every checksum right.
func echo(frame []byte) bool {
	if port, _ := udp(frame); port == 0 {
		return false
	}
	clear(frame[:vnetHeader])
	swap(frame[vnetHeader:], 6)
	packet := frame[vnetHeader+ethernetHeader:]
	swap(packet[12:], 4)
	swap(packet[20:], 2)
	return true
}

func swap(b []byte, n int) {
	first := bytes.Clone(b[:n])
	copy(b, b[n:2*n])
	copy(b[n:], first)
}
