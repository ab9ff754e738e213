package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
)

// The rhythm of a session. A connection over which nothing comes back is given up after ping and patience.
const (
	heartbeat  = time.Second
	ping       = 2 * time.Second
	patience   = 3 * time.Second
	firstRetry = 200 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// controller is the way to the controller.
type controller struct {
	base   string
	client *http.Client
}

func newController(address string, conf *tls.Config) *controller {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	transport := &http.Transport{
		TLSClientConfig: conf, Protocols: protocols, TLSHandshakeTimeout: patience,
		HTTP2: &http.HTTP2Config{SendPingTimeout: ping, PingTimeout: patience, WriteByteTimeout: patience},
	}
	return &controller{base: "https://" + address, client: &http.Client{Transport: transport}}
}

// sessions keeps one session with the controller open, and dials again whenever it ends.
type sessions struct {
	link    *controller
	hello   *pb.Hello
	dvs     *dvsNode // nil: this machine runs none
	book    *book
	worker  worker
	tasks   *tasks
	notices <-chan *pb.Notice
	lost    []*pb.Notice // told at each beginning, while undecided
	logger  *slog.Logger
}

// run returns when ctx ends.
func (s *sessions) run(ctx context.Context) error {
	wait := firstRetry
	for {
		began := time.Now()
		err := s.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > lastRetry {
			wait = firstRetry
		}
		s.logger.Warn("session with the controller ended, dialling again", "err", explain(err), "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		wait = min(2*wait, lastRetry)
	}
}

// explain takes the RPC layer's prefixes off an error.
func explain(err error) error {
	var remote *connect.Error
	if errors.As(err, &remote) {
		return errors.New(remote.Message())
	}
	return err
}

func (s *sessions) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := godwitv1connect.NewAgentServiceClient(s.link.client, s.link.base).Session(ctx)
	hello := &pb.Hello{Address: s.hello.GetAddress(), Underlay: s.hello.GetUnderlay(), Dvs: s.hello.GetDvs(), Facts: s.worker.facts(ctx), Holdings: s.holdings(ctx)}
	if err := stream.Send(&pb.SessionRequest{Message: &pb.SessionRequest_Hello{Hello: hello}}); err != nil {
		return errors.Join(err, receiveError(stream))
	}
	out := make(chan *pb.SessionRequest, 256)
	release := s.tasks.answerTo(ctx, out)
	defer release()
	done := make(chan error, 1)
	go func() {
		err := s.transmit(ctx, stream, out)
		cancel()
		done <- err
	}()
	err := s.receive(ctx, stream)
	cancel()
	return errors.Join(err, <-done)
}

// receiveError asks a stream that could not be sent on why.
func receiveError(stream *connect.BidiStreamForClient[pb.SessionRequest, pb.SessionResponse]) error {
	_, err := stream.Receive()
	return err
}

func (s *sessions) receive(ctx context.Context, stream *connect.BidiStreamForClient[pb.SessionRequest, pb.SessionResponse]) error {
	for {
		m, err := stream.Receive()
		if err != nil {
			return err
		}
		if nodes := m.GetDvs(); nodes != nil {
			s.dvs.told(nodes.GetAddresses())
			continue
		}
		s.tasks.take(ctx, m)
	}
}

func (s *sessions) transmit(ctx context.Context, stream *connect.BidiStreamForClient[pb.SessionRequest, pb.SessionResponse], out <-chan *pb.SessionRequest) error {
	for _, n := range s.lost {
		if s.book.still(n) {
			if err := stream.Send(&pb.SessionRequest{Message: &pb.SessionRequest_Notice{Notice: n}}); err != nil {
				return err
			}
		}
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		var m *pb.SessionRequest
		select {
		case m = <-out:
		case n := <-s.notices:
			// What is true now goes first, so that the controller does not look at older facts.
			if err := stream.Send(s.beat(ctx)); err != nil {
				return err
			}
			m = &pb.SessionRequest{Message: &pb.SessionRequest_Notice{Notice: n}}
		case <-beat.C:
			m = s.beat(ctx)
		case <-ctx.Done():
			return stream.CloseRequest()
		}
		if err := stream.Send(m); err != nil {
			return fmt.Errorf("send to the controller: %w", err)
		}
	}
}

func (s *sessions) beat(ctx context.Context) *pb.SessionRequest {
	return &pb.SessionRequest{Message: &pb.SessionRequest_Heartbeat{Heartbeat: &pb.Heartbeat{Facts: s.worker.facts(ctx), Holdings: s.holdings(ctx)}}}
}

func (s *sessions) holdings(ctx context.Context) []*pb.Holding {
	var all []*pb.Holding
	for _, name := range s.book.services() {
		h := s.worker.observe(ctx, name)
		if h == nil {
			continue
		}
		s.book.view(name, func(e entry) { h.Service, h.Epoch = name, e.Journal.Epoch })
		all = append(all, h)
	}
	if h := s.worker.observe(ctx, ""); h != nil {
		all = append(all, h)
	}
	return all
}
