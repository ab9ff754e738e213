package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-project/godwit/dvs"
)

// copies compares a copy from a buffer of another process with asking for as many bytes over a socket.
func (b *bench) copies() error {
	_, socket, _, err := b.startNode("a")
	if err != nil {
		return err
	}
	_, sockets, err := b.pair2()
	if err != nil {
		return err
	}
	const size = 1 << 20
	tcp, err := freePort()
	if err != nil {
		return err
	}
	unix := b.path("stream")
	for _, o := range []order{
		{Op: "buffer", Socket: socket, Name: "from", Size: size},
		{Op: "buffer", Socket: sockets[1], Name: "from", Size: size},
		{Op: "stream", Network: "unix", Addr: unix, Size: size},
		{Op: "stream", Network: "tcp", Addr: tcp, Size: size},
	} {
		c, err := b.start()
		if err == nil {
			_, err = c.tell(o)
		}
		if err != nil {
			return err
		}
	}
	rows := [][]string{{"bytes", "unix socket", "TCP", "DVS, one machine", "DVS, two nodes", "DVS / unix socket (MB/s)", "DVS two nodes / TCP (MB/s)"}}
	for _, n := range []int{4 << 10, 16 << 10, 64 << 10, 256 << 10, size} {
		ways := []way{streamWay("unix", unix, n), streamWay("tcp", tcp, n), copyWay(socket, n), copyWay(sockets[0], n)}
		got := make([][]figures, len(ways))
		for range b.rounds {
			for i, w := range ways {
				f, err := w.run(1, b.during/2, b.spent)
				if err != nil {
					return err
				}
				got[i] = append(got[i], f)
			}
		}
		row := []string{fmt.Sprint(n)}
		var rate [4]float64
		for i := range ways {
			m := median(got[i])
			rate[i] = m.rate
			row = append(row, fmt.Sprintf("%s, %.0f MB/s", micros(m.p50), m.rate*float64(n)/1e6))
		}
		rows = append(rows, append(row, fmt.Sprintf("%.2f", rate[2]/rate[0]), fmt.Sprintf("%.2f", rate[3]/rate[1])))
	}
	b.table("Copy from a registered buffer of another process, one client", rows)
	return nil
}

// pair2 is pair, beside a node that is called a.
func (b *bench) pair2() (nodes [2]*child, sockets [2]string, err error) {
	first := b.dir
	b.dir += "/p"
	defer func() { b.dir = first }()
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		return nodes, sockets, err
	}
	return b.pair("")
}

func streamWay(network, addr string, n int) way {
	return way{network, each(
		func() (net.Conn, error) { return net.Dial(network, addr) },
		func(c net.Conn) func() error {
			buf := make([]byte, n)
			ask := binary.LittleEndian.AppendUint32(nil, uint32(n))
			return func() error {
				if _, err := c.Write(ask); err != nil {
					return err
				}
				_, err := io.ReadFull(c, buf)
				return err
			}
		},
		func(c net.Conn) { _ = c.Close() })}
}

// copier makes names for those who copy.
var copier atomic.Uint64

func copyWay(socket string, n int) way {
	return way{"DVS", each(
		func() (*dvs.Endpoint, error) {
			s, err := connect(socket)
			if err != nil {
				return nil, err
			}
			e, err := s.Bind(context.Background(), fmt.Sprint("to-", copier.Add(1)), dvs.BindOptions{})
			if err == nil {
				e.Register("room", make([]byte, n), dvs.Access{})
			}
			return e, err
		},
		func(e *dvs.Endpoint) func() error {
			to, from := dvs.Place{Endpoint: e.Name(), Buffer: "room"}, dvs.Place{Endpoint: "from", Buffer: "data"}
			return func() error { return e.Copy(context.Background(), to, from, uint64(n)) }
		},
		func(e *dvs.Endpoint) { e.Session().Close() })}
}

const (
	stateCopies = 10      // of a state that moves, in the memory of programs and nodes, before the garbage is collected
	large       = 1 << 30 // is moved there and back only, for the time's sake
)

// available is the memory that is free, in bytes.
func available() uint64 {
	text, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(text)) {
		var kib uint64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}

// outages moves servers with much and little state while a client asks them without a pause.
func (b *bench) outages() error {
	rows := [][]string{{"state", "how", "longest call", "whole move", "moves"}}
	for _, size := range b.sizes {
		for _, pieces := range []bool{false, true} {
			how := "frozen"
			if pieces {
				how = "pre-copied"
			}
			moves := 2 * b.rounds
			if size >= large {
				moves = 2
			}
			if free := available(); free < stateCopies*uint64(size) {
				rows = append(rows, []string{fmt.Sprint(size), how, fmt.Sprintf("not measured: %d MiB of memory were free, and it may take %d", free>>20, stateCopies*size>>20), "", "0"})
				continue
			}
			var longest, whole []time.Duration
			err := b.section(func() (err error) {
				longest, whole, err = b.outage(size, pieces, moves)
				return err
			})
			if err != nil {
				return err
			}
			rows = append(rows, []string{fmt.Sprint(size), how, middle(longest), middle(whole), fmt.Sprint(len(whole))})
		}
	}
	b.table("Outage: the longest call while a server moves between two nodes, over loopback (median of the moves; worst in brackets)", rows)
	return nil
}

func middle(all []time.Duration) string {
	slices.SortFunc(all, cmp.Compare)
	return fmt.Sprintf("%s (%s)", millis(all[len(all)/2]), millis(all[len(all)-1]))
}

func (b *bench) outage(size int, pieces bool, moves int) (longest, whole []time.Duration, err error) {
	nodes, sockets, err := b.pair("")
	if err != nil {
		return nil, nil, err
	}
	server, err := b.start()
	if err == nil {
		_, err = server.tell(order{Op: "movable", Socket: sockets[0], Name: "kv", Size: size, Pieces: pieces})
	}
	if err != nil {
		return nil, nil, err
	}
	s, err := connect(sockets[0])
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	for i := range moves {
		from, to := i%2, 1-i%2
		standby, err := b.start()
		if err != nil {
			return nil, nil, err
		}
		if _, err := standby.tell(order{Op: "movable", Socket: sockets[to], Name: "kv", Pieces: pieces, Flag: true}); err != nil {
			return nil, nil, err
		}
		for there := false; !there; {
			a, err := nodes[to].tell(order{Op: "standby?", Name: "kv"})
			if err != nil {
				return nil, nil, err
			}
			if there = a.Flag; !there {
				time.Sleep(time.Millisecond)
			}
		}
		worst, took, err := b.move(s, nodes, from, uint64(100+i))
		if err != nil {
			return nil, nil, err
		}
		longest, whole = append(longest, worst), append(whole, took)
		server.stop()
		server = standby
	}
	return longest, whole, nil
}

// move carries the server over while a client asks, and returns the longest of its calls.
func (b *bench) move(s *dvs.Session, nodes [2]*child, from int, epoch uint64) (worst, took time.Duration, err error) {
	const pause = 200 * time.Microsecond // the client leaves room for the move: it stands for one that has other things to do
	var stop atomic.Bool
	var wg sync.WaitGroup
	var asked error
	wg.Go(func() {
		for !stop.Load() && asked == nil {
			began := time.Now()
			_, asked = s.SendRec(context.Background(), "kv", []byte("x"))
			worst = max(worst, time.Since(began))
			time.Sleep(pause)
		}
	})
	names := [2]string{"a", "b"}
	began := time.Now()
	for _, step := range []struct {
		at   int
		verb string
	}{
		{1 - from, "process/destination/prepare"},
		{from, "endpoint/source/prepare"},
		{from, "process/source/converge"},
		{from, "endpoint/source/quiesce"},
		{1 - from, "endpoint/destination/commit"},
		{from, "endpoint/source/commit"},
	} {
		if _, err = nodes[step.at].tell(order{Op: "step", Name: "kv", Verb: step.verb, Epoch: epoch, Peer: names[1-step.at]}); err != nil {
			break
		}
	}
	took = time.Since(began)
	stop.Store(true)
	wg.Wait()
	if err == nil {
		err = asked
	}
	return worst, took, err
}
