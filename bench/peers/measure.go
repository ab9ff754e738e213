package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/rpc"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/godwit-project/godwit/dvs"
)

const payloadSize = 64

// way is one way to ask and be answered. open makes as many clients as are wanted, and what closes them.
type way struct {
	name string
	open func(clients int) (all []client, end func(), err error)
}

// client calls without a pause for that long, and returns how long each call took.
type client func(during time.Duration) ([]time.Duration, error)

// figures are one measurement.
type figures struct {
	rate     float64 // calls in a second
	p50, p99 time.Duration
	cpu      time.Duration // of all processes of the measurement, for one call
}

// run has every client call for that long. spent tells the processor time of all processes.
func (w way) run(clients int, during time.Duration, spent func() time.Duration) (figures, error) {
	all, end, err := w.open(clients)
	if err != nil {
		return figures{}, err
	}
	defer end()
	took := make([][]time.Duration, clients)
	errs := make([]error, clients)
	cpu := spent()
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() { took[i], errs[i] = c(during) })
	}
	wg.Wait()
	cpu = spent() - cpu
	if err := errors.Join(errs...); err != nil {
		return figures{}, err
	}
	rate := 0.0
	for _, own := range took {
		var lasted time.Duration
		for _, one := range own {
			lasted += one
		}
		rate += float64(len(own)) / lasted.Seconds()
	}
	calls := slices.Concat(took...)
	slices.Sort(calls)
	return figures{
		rate: rate, p50: calls[len(calls)/2], p99: calls[len(calls)*99/100], cpu: cpu / time.Duration(len(calls)),
	}, nil
}

// warm makes a client of a call. Connections and introductions are not measured.
func warm(call func() error) (client, error) {
	for range 20 {
		if err := call(); err != nil {
			return nil, err
		}
	}
	return func(during time.Duration) (took []time.Duration, err error) {
		for began, at := time.Now(), time.Now(); err == nil && at.Sub(began) < during; {
			err = call()
			now := time.Now()
			took = append(took, now.Sub(at))
			at = now
		}
		return took, err
	}, nil
}

// each opens one thing for each client.
func each[T any](open func() (T, error), call func(T) func() error, end func(T)) func(int) ([]client, func(), error) {
	return func(clients int) (all []client, done func(), err error) {
		var opened []T
		done = func() {
			for _, one := range opened {
				end(one)
			}
		}
		for range clients {
			one, err := open()
			if err == nil {
				opened = append(opened, one)
				var c client
				c, err = warm(call(one))
				all = append(all, c)
			}
			if err != nil {
				done()
				return nil, nil, err
			}
		}
		return all, done, nil
	}
}

func bareWay(network, addr string) way {
	return way{"bare " + network + " socket", each(
		func() (net.Conn, error) { return net.Dial(network, addr) },
		func(c net.Conn) func() error {
			b := make([]byte, payloadSize)
			return func() error {
				if _, err := c.Write(b); err != nil {
					return err
				}
				_, err := io.ReadFull(c, b)
				return err
			}
		},
		func(c net.Conn) { _ = c.Close() })}
}

func netrpcWay(network, addr string) way {
	return way{"net/rpc", each(
		func() (*rpc.Client, error) { return rpc.Dial(network, addr) },
		func(c *rpc.Client) func() error {
			b := make([]byte, payloadSize)
			return func() error {
				var out []byte
				return c.Call("Echo.Do", b, &out)
			}
		},
		func(c *rpc.Client) { _ = c.Close() })}
}

func grpcWay(target string) way {
	return way{"gRPC", each(
		func() (*grpc.ClientConn, error) {
			return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		},
		func(c *grpc.ClientConn) func() error {
			in := &wrapperspb.BytesValue{Value: make([]byte, payloadSize)}
			return func() error {
				return c.Invoke(context.Background(), grpcMethod, in, new(wrapperspb.BytesValue))
			}
		},
		func(c *grpc.ClientConn) { _ = c.Close() })}
}

func natsWay(url string) way {
	return way{"NATS", each(
		func() (*nats.Conn, error) { return nats.Connect(url) },
		func(c *nats.Conn) func() error {
			b := make([]byte, payloadSize)
			return func() error {
				_, err := c.Request("echo", b, 10*time.Second)
				return err
			}
		},
		func(c *nats.Conn) { c.Close() })}
}

func connect(socket string) (*dvs.Session, error) {
	return dvs.Connect(context.Background(), socket, dvs.Options{Container: container})
}

// dvsWay is a session for each client, as programs of their own would have.
func dvsWay(socket, to string, payload []byte) way {
	return way{"DVS", each(
		func() (*dvs.Session, error) { return connect(socket) },
		func(s *dvs.Session) func() error { return asker(s, to, payload) },
		func(s *dvs.Session) { s.Close() })}
}

// dvsSharedWay is one session whose callers are the clients.
func dvsSharedWay(socket, to string, payload []byte) way {
	return way{"DVS, one session", func(clients int) ([]client, func(), error) {
		s, err := connect(socket)
		if err != nil {
			return nil, nil, err
		}
		all, _, err := each(s.Client, func(c *dvs.Client) func() error { return asker(c, to, payload) }, (*dvs.Client).Close)(clients)
		if err != nil {
			s.Close()
			return nil, nil, err
		}
		return all, s.Close, nil
	}}
}

func asker(c interface {
	SendRec(context.Context, string, []byte) ([]byte, error)
}, to string, payload []byte,
) func() error {
	return func() error {
		_, err := c.SendRec(context.Background(), to, payload)
		return err
	}
}
