package node_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

const benchSize = 64

// BenchmarkRequestReply compares ways for two processes on one machine to ask and answer 64 bytes, with 1, 8 and 64 clients in one
// process and the server in another.
func BenchmarkRequestReply(b *testing.B) {
	dir := b.TempDir()
	_, path := startNode(b, node.Options{Name: "a"})
	server := start(b, "server")
	server.must(b, "serve", request{Socket: path, Container: "c", Endpoint: "direct"})
	server.must(b, "serve", request{Socket: path, Container: "c", Endpoint: "relayed", NodeOnly: true})
	bare, rpcs := filepath.Join(dir, "bare"), filepath.Join(dir, "rpc")
	server.must(b, "bare", request{Socket: bare})
	server.must(b, "netrpc", request{Socket: rpcs})

	one := connect(b, path, dvs.Options{})
	kinds := []struct {
		name string
		open func(b *testing.B) func() error
	}{
		{"bare-socket", func(b *testing.B) func() error {
			c, err := net.Dial("unix", bare)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = c.Close() })
			buf := make([]byte, benchSize)
			return func() error {
				if _, err := c.Write(buf); err != nil {
					return err
				}
				_, err := io.ReadFull(c, buf)
				return err
			}
		}},
		{"net-rpc", func(b *testing.B) func() error {
			c, err := rpc.Dial("unix", rpcs)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = c.Close() })
			in := make([]byte, benchSize)
			return func() error {
				var out []byte
				return c.Call("Echo.Do", in, &out)
			}
		}},
		{"dvs", func(b *testing.B) func() error { return benchSession(b, path, "direct", dvs.Options{}) }},
		{"dvs-one-session", func(b *testing.B) func() error { return benchClient(b, one, "direct") }},
		{"dvs-relayed", func(b *testing.B) func() error {
			return benchSession(b, path, "relayed", dvs.Options{NodeOnly: true})
		}},
	}
	for _, clients := range []int{1, 8, 64} {
		for _, k := range kinds {
			b.Run(fmt.Sprintf("%s/%d", k.name, clients), func(b *testing.B) {
				calls := make([]func() error, clients)
				for i := range calls {
					calls[i] = k.open(b)
				}
				runClients(b, calls)
			})
		}
	}
}

func benchSession(b *testing.B, path, to string, o dvs.Options) func() error {
	s := connect(b, path, o)
	p := make([]byte, benchSize)
	ctx := context.Background()
	return func() error {
		_, err := s.SendRec(ctx, to, p)
		return err
	}
}

// benchClient is one of many callers of one session.
func benchClient(b *testing.B, s *dvs.Session, to string) func() error {
	c, err := s.Client()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	p := make([]byte, benchSize)
	ctx := context.Background()
	return func() error {
		_, err := c.SendRec(ctx, to, p)
		return err
	}
}

// runClients makes b.N calls in all and reports the median and the 99th percentile.
func runClients(b *testing.B, calls []func() error) {
	for _, call := range calls {
		if err := call(); err != nil { // connections and introductions are not measured
			b.Fatal(err)
		}
	}
	took := make([][]time.Duration, len(calls))
	errs := make(chan error, len(calls))
	b.ResetTimer()
	for i, call := range calls {
		go func() {
			for range (b.N + len(calls) - 1) / len(calls) {
				began := time.Now()
				if err := call(); err != nil {
					errs <- err
					return
				}
				took[i] = append(took[i], time.Since(began))
			}
			errs <- nil
		}()
	}
	for range calls {
		if err := <-errs; err != nil {
			b.Error(err)
		}
	}
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) > 0 {
		b.ReportMetric(float64(all[len(all)/2].Nanoseconds()), "p50-ns")
		b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds()), "p99-ns")
		b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "calls/s")
	}
}

// BenchmarkCopy compares a copy from a buffer of another process with reading as many bytes from its unix socket.
func BenchmarkCopy(b *testing.B) {
	_, path := startNode(b, node.Options{Name: "a"})
	server := start(b, "server")
	server.must(b, "buffer", request{Socket: path, Container: "c", Endpoint: "from", Size: 1 << 20})
	stream := filepath.Join(b.TempDir(), "stream")
	server.must(b, "stream", request{Socket: stream, Size: 1 << 20})
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("unix-socket/%d", size), func(b *testing.B) {
			c, err := net.Dial("unix", stream)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := c.Write(binary.LittleEndian.AppendUint32(nil, uint32(size))); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("dvs/%d", size), func(b *testing.B) {
			e := bind(b, connect(b, path, dvs.Options{}), fmt.Sprint("to-", size, b.N), dvs.BindOptions{})
			e.Register("room", make([]byte, size), dvs.Access{})
			to, from := dvs.Place{Endpoint: e.Name(), Buffer: "room"}, dvs.Place{Endpoint: "from", Buffer: "data"}
			b.SetBytes(int64(size))
			for b.Loop() {
				if err := e.Copy(context.Background(), to, from, uint64(size)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOutage moves a server with that much state from node to node while a client asks it, and reports the longest
// time that a call took.
func BenchmarkOutage(b *testing.B) {
	for _, k := range []struct {
		size, rate int // rate: pages that change in a second
		paged      bool
	}{
		{64 << 10, 0, false},
		{64 << 10, 0, true},
		{2_500_000, 0, false},
		{2_500_000, 0, true},
		{2_500_000, 10_000, true},
		{64 << 20, 0, false},
		{64 << 20, 0, true},
		{64 << 20, 10_000, true},
		{64 << 20, 50_000, true},
		{1 << 30, 0, true},
		{1 << 30, 10_000, true},
	} {
		b.Run(fmt.Sprintf("size=%d/pieces=%v/dirty=%d", k.size, k.paged, k.rate), func(b *testing.B) {
			c := startCluster(b, "a", "b")
			c.serveAs(b, "a", request{Endpoint: "kv", Size: k.size, Paged: k.paged, Rate: k.rate})
			at, to := "a", "b"
			var longest, total time.Duration
			for range b.N {
				standby := c.serveAs(b, to, request{Endpoint: "kv", Standby: true, Paged: k.paged, Rate: k.rate})
				clients := c.clients(b, "a", "kv", 1)
				progress(b, clients, 20)
				began := time.Now()
				c.move(b, "kv", at, to)
				total += time.Since(began)
				progress(b, clients, 20)
				y := clients.must(b, "stop", request{}).Tally
				if len(y.Errors) > 0 {
					b.Fatal(y.Errors)
				}
				longest = max(longest, y.Longest)
				clients.kill()
				_ = standby
				at, to = to, at
			}
			b.ReportMetric(float64(longest.Microseconds())/1000, "longest-ms")
			b.ReportMetric(float64(total.Microseconds())/1000/float64(b.N), "move-ms")
		})
	}
}
