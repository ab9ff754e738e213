package node_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/node"
)

// A replicated endpoint outlives its owners: requests wait for the next one, and come again with the numbers they had.
func TestLine23AReplicatedEndpointOutlivesItsOwner(t *testing.T) {
	_, path := startNode(t, node.Options{Name: "a"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := connect(t, path, dvs.Options{})
	gone := make(chan uint64, 8)
	own := func(s *dvs.Session, epoch uint64) *dvs.Endpoint {
		return bind(t, s, "kv", dvs.BindOptions{Replicated: true, Epoch: epoch, Line: 3, Gone: func(c uint64) { gone <- c }})
	}
	first, second, third := connect(t, path, dvs.Options{}), connect(t, path, dvs.Options{}), connect(t, path, dvs.Options{})
	one := own(first, 3)
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	ask := func() {
		b, err := client.SendRec(ctx, "kv", []byte("x"))
		answers <- answer{b, err}
	}
	receive := func(e *dvs.Endpoint) dvs.Message {
		t.Helper()
		m, err := e.Receive(ctx, dvs.Any)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	go ask()
	m := receive(one)
	caller, seq := m.Caller()
	first.Close() // it has the request, and dies with it
	two := own(second, 5)
	m = receive(two)
	if c, s := m.Caller(); c != caller || s != seq {
		t.Errorf("caller %x, request %d, were %x and %d", c, s, caller, seq)
	}
	two.Drop(m) // it finds out that it is no longer the one to ask
	if _, err := third.Bind(ctx, "kv", dvs.BindOptions{Replicated: true, Epoch: 5, Line: 3}); !errors.Is(err, dvs.ErrEpoch) {
		t.Errorf("an epoch that is taken: %v", err)
	}
	if _, err := third.Bind(ctx, "kv", dvs.BindOptions{}); !errors.Is(err, dvs.ErrNameUsed) {
		t.Errorf("somebody else: %v", err)
	}
	three := own(third, 9)
	if _, err := two.Receive(ctx, dvs.Any); !errors.Is(err, dvs.ErrMoved) {
		t.Errorf("the old owner: %v", err)
	}
	m = receive(three)
	if err := three.Reply(m, []byte("done")); err != nil {
		t.Error(err)
	}
	if a := <-answers; string(a.text) != "done" || a.err != nil {
		t.Errorf("%q, %v", a.text, a.err)
	}
	sent := make(chan error, 1)
	go func() { sent <- client.Send(ctx, "kv", nil) }()
	m = receive(three)
	if m.Kind != endpoint.Send {
		t.Errorf("kind %d", m.Kind)
	}
	again := own(third, 11) // the same session answers for the group a second time
	m = receive(again)      // it was not acknowledged
	if err := errors.Join(again.Reply(m, nil), <-sent); err != nil {
		t.Error(err)
	}
	go ask()
	receive(again)
	if err := again.Unbind(ctx); err != nil { // the end of the group
		t.Error(err)
	}
	if a := <-answers; !errors.Is(a.err, dvs.ErrOutcomeUnknown) {
		t.Errorf("after the end: %v", a.err)
	}
	own(third, 12)
	client.Close()
	for c := range gone { // the first two owners are callers as well
		if c == caller {
			break
		}
	}
}
