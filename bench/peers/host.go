package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

const container = "bench"

// adaptive is the way of a link that is the default, but for streams.
const adaptive = "adaptive (default)"

// host is what a child runs: servers, nodes, a broker. They end with the process.
type host struct {
	node   *node.Node
	client client
}

func (h *host) do(o order) (answer, error) {
	switch o.Op {
	case "bare":
		return answer{}, listen(o, func(c net.Conn) { echo(c, make([]byte, payloadSize)) })
	case "stream":
		return answer{}, listen(o, func(c net.Conn) { stream(c, make([]byte, o.Size)) })
	case "netrpc":
		s := rpc.NewServer()
		return answer{}, errors.Join(s.Register(Echo{}), listen(o, func(c net.Conn) { s.ServeConn(c) }))
	case "grpc":
		return answer{}, serveGRPC(o)
	case "broker":
		return serveBroker()
	case "nats":
		c, err := nats.Connect(o.Addr)
		if err == nil {
			_, err = c.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
		}
		if err == nil {
			err = c.Flush()
		}
		return answer{}, err
	case "node":
		return h.startNode(o)
	case "link":
		return answer{}, h.link(o)
	case "standby?":
		for _, i := range h.node.Endpoints() {
			if i.Name == o.Name && i.Standby {
				return answer{Flag: true}, nil
			}
		}
		return answer{}, nil
	case "wrote":
		return answer{Bytes: h.node.Links()[0].Wrote}, nil
	case "step":
		p := strings.Split(o.Verb, "/")
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		return answer{}, h.node.Do(ctx, node.Command{Container: container, Endpoint: o.Name, Participant: p[0], Role: p[1], Verb: p[2], Epoch: o.Epoch, Peer: o.Peer})
	case "serve":
		return answer{}, serve(o)
	case "buffer":
		return answer{}, serveBuffer(o)
	case "movable":
		return answer{}, serveMovable(o)
	case "many":
		return answer{}, serveMany(o)
	case "client":
		all, _, err := wayTo(o).open(1)
		if err == nil {
			h.client = all[0]
		}
		return answer{}, err
	case "ask":
		took, err := h.client(o.During)
		return answer{Took: took}, err
	default:
		return answer{}, fmt.Errorf("unknown order %q", o.Op)
	}
}

func listen(o order, serve func(net.Conn)) error {
	l, err := net.Listen(o.Network, o.Addr)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return nil
}

func echo(c net.Conn, b []byte) {
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// stream sends as many bytes as it is asked for.
func stream(c net.Conn, data []byte) {
	var n [4]byte
	for {
		if _, err := io.ReadFull(c, n[:]); err != nil {
			return
		}
		if _, err := c.Write(data[:binary.LittleEndian.Uint32(n[:])]); err != nil {
			return
		}
	}
}

// Echo is the service of net/rpc.
type Echo struct{}

// Do returns what it gets.
func (Echo) Do(in []byte, out *[]byte) error {
	*out = in
	return nil
}

const grpcMethod = "/bench.Echo/Do"

func serveGRPC(o order) error {
	l, err := net.Listen(o.Network, o.Addr)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	handler := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		m := new(wrapperspb.BytesValue)
		return m, decode(m)
	}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Do", Handler: handler}},
	}, struct{}{})
	go func() { _ = s.Serve(l) }()
	return nil
}

func serveBroker() (answer, error) {
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		return answer{}, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return answer{}, errors.New("the NATS server does not start")
	}
	return answer{Text: s.ClientURL()}, nil
}

func (h *host) startNode(o order) (answer, error) {
	n, err := node.New(node.Options{Name: o.Name})
	if err != nil {
		return answer{}, err
	}
	h.node = n
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.Socket, Net: "unix"})
	if err != nil {
		return answer{}, err
	}
	go func() { _ = n.Serve(l) }()
	links, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return answer{}, err
	}
	go func() {
		for {
			c, err := links.Accept()
			if err != nil {
				return
			}
			go func() { _ = n.Accept(c) }()
		}
	}()
	streams, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return answer{}, err
	}
	go func() { _ = n.ServeStreams(streams, streams.Addr().String()) }()
	return answer{Text: links.Addr().String()}, nil
}

func (h *host) link(o order) error {
	var dial node.Dial
	if o.Addr != "" {
		dial = func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", o.Addr) }
	}
	how := map[string]node.LinkOptions{
		"":            {},
		"neither":     {Relay: true, Single: true, Compress: node.CompressNever},
		"batching":    {Relay: true, Compress: node.CompressNever},
		"compression": {Relay: true, Single: true, Compress: node.CompressAlways},
		"both":        {Relay: true, Compress: node.CompressAlways},
		adaptive:      {Relay: true},
	}[o.Verb]
	return h.node.LinkWith(o.Peer, dial, how)
}

func bind(o order, opts dvs.BindOptions) (*dvs.Endpoint, error) {
	s, err := dvs.Connect(context.Background(), o.Socket, dvs.Options{Container: container})
	if err != nil {
		return nil, err
	}
	return s.Bind(context.Background(), o.Name, opts)
}

func serve(o order) error {
	e, err := bind(o, dvs.BindOptions{})
	if err == nil {
		go answerAll(e)
	}
	return err
}

func answerAll(e *dvs.Endpoint) {
	for {
		m, err := e.ReceiveRequest(context.Background())
		if err != nil {
			return
		}
		_ = e.Reply(m, m.Payload)
	}
}

func serveBuffer(o order) error {
	e, err := bind(o, dvs.BindOptions{})
	if err == nil {
		e.Register("data", make([]byte, o.Size), dvs.Access{Read: true})
		go func() { _, _ = e.Receive(context.Background(), "nobody") }()
	}
	return err
}

// serveMany binds Count names: the first serves.
func serveMany(o order) error {
	s, err := dvs.Connect(context.Background(), o.Socket, dvs.Options{Container: container})
	if err != nil {
		return err
	}
	for i := range o.Count {
		e, err := s.Bind(context.Background(), fmt.Sprintf("%s-%d", o.Name, i), dvs.BindOptions{})
		if err != nil {
			return err
		}
		if i == 0 {
			go answerAll(e)
		}
	}
	return nil
}
