package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
	"github.com/godwit-project/godwit/migration"
)

// fakeController hands each session to the test, and ends it when the test says so.
type fakeController struct {
	sessions chan *fakeSession
}

type fakeSession struct {
	stream *connect.BidiStream[pb.SessionRequest, pb.SessionResponse]
	came   chan *pb.SessionRequest
	end    chan struct{}
}

func (c *fakeController) Session(ctx context.Context, stream *connect.BidiStream[pb.SessionRequest, pb.SessionResponse]) error {
	s := &fakeSession{stream: stream, came: make(chan *pb.SessionRequest, 64), end: make(chan struct{})}
	go func() {
		for {
			m, err := stream.Receive()
			if err != nil {
				return
			}
			s.came <- m
		}
	}()
	c.sessions <- s
	select {
	case <-s.end:
		return connect.NewError(connect.CodeUnavailable, errors.New("a newer session has come"))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// next returns the next message that is not a heartbeat, unless heartbeats are asked for.
func (s *fakeSession) next(t *testing.T, beats bool) *pb.SessionRequest {
	t.Helper()
	for {
		select {
		case m := <-s.came:
			if m.GetHeartbeat() == nil || beats {
				return m
			}
		case <-time.After(soon):
			t.Fatal("the agent sends nothing")
		}
	}
}

func TestASessionIsOpenedAgainAndTellsWhatWasLost(t *testing.T) {
	dir := t.TempDir()
	before := opened(t, dir)
	err := before.change("shop", false, func(e *entry) error {
		e.Journal.Admit(5, replicates)
		return e.Journal.Record(5, replicates)
	})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, dir)
	fake := &fakeController{sessions: make(chan *fakeSession, 4)}
	mux := http.NewServeMux()
	mux.Handle(godwitv1connect.NewAgentServiceHandler(fake))
	plain := new(http.Protocols)
	plain.SetUnencryptedHTTP2(true)
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = plain
	server.Start()
	defer server.Close()
	transport := &http.Transport{Protocols: plain}
	defer transport.CloseIdleConnections()
	notices := make(chan *pb.Notice, 1)
	s := &sessions{
		link: &controller{base: server.URL, client: &http.Client{Transport: transport}}, hello: &pb.Hello{Address: "192.0.2.1:7000"},
		book: b.book, worker: b.worker, tasks: b.tasks, notices: notices, logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	s.lost = b.book.undecided(b.worker.volatile)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	open := func() *fakeSession {
		select {
		case f := <-fake.sessions:
			if got := f.next(t, true).GetHello().GetAddress(); got != "192.0.2.1:7000" {
				t.Errorf("a session began with the address %q", got)
			}
			return f
		case <-time.After(soon):
			t.Fatal("the agent does not dial")
		}
		return nil
	}

	first := open()
	if n := first.next(t, false).GetNotice(); n.GetService() != "shop" || n.GetEpoch() != 5 {
		t.Fatalf("first came %v, want the notice of the lost stream", n)
	}
	task := func(id uint64, step migration.StepID) *pb.SessionResponse {
		return &pb.SessionResponse{Id: id, Task: &pb.SessionResponse_Step{Step: &pb.MigrationStep{
			Step: string(step), Epoch: 5, Service: &pb.ServiceSpec{Name: "shop"},
		}}}
	}
	if err := first.stream.Send(task(1, converge)); err != nil {
		t.Fatal(err)
	}
	c := b.begins(string(converge), 5)
	close(first.end)

	// The step goes on over the end of its session, and the next session's question joins it.
	second := open()
	second.next(t, false) // the notice again: nobody has decided
	if err := second.stream.Send(task(2, converge)); err != nil {
		t.Fatal(err)
	}
	b.joined(converge, 2)
	if c.ctx.Err() != nil {
		t.Error("the end of the session cancelled the step")
	}
	c.end <- ending{}
	for {
		if r := second.next(t, false).GetResult(); r.GetId() == 2 {
			if r.GetError() != "" {
				t.Errorf("answer is %v", r)
			}
			break
		}
	}
	// What is true goes before what has happened.
	notices <- &pb.Notice{Service: "shop", Epoch: 5, Reason: "the virtual server died"}
	var beat bool
	for {
		m := second.next(t, true)
		if n := m.GetNotice(); n != nil {
			if !beat || n.GetReason() != "the virtual server died" {
				t.Errorf("notice %v, heartbeat just before: %t", n, beat)
			}
			break
		}
		beat = m.GetHeartbeat() != nil
	}

	// Once the attempt is decided, its lost stream is of no interest.
	if err := second.stream.Send(task(3, abort)); err != nil {
		t.Fatal(err)
	}
	b.begins(string(abort), 5).end <- ending{}
	for second.next(t, false).GetResult().GetId() != 3 {
	}
	close(second.end)
	third := open()
	if err := third.stream.Send(task(4, abort)); err != nil {
		t.Fatal(err)
	}
	if m := third.next(t, false); m.GetResult().GetId() != 4 {
		t.Errorf("the session began with %v", m)
	}
}
