package replica_test

import (
	"context"
	"errors"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

// host is what stands between a replica and its node: it binds the endpoint with the group's epoch when its replica serves, and gives each request
// to it.
type host struct {
	h                   *helper
	container, endpoint string
	session             *dvs.Session
	serve               chan replica.Change
}

func (o *host) start(path string) error {
	var err error
	if o.session, err = dvs.Connect(o.h.ctx, path, dvs.Options{Container: o.container, Program: "host"}); err != nil {
		return err
	}
	o.h.wg.Go(o.bind)
	return nil
}

// bind makes this host the owner whenever its replica serves.
func (o *host) bind() {
	serving := false
	for c := range o.serve {
		if !c.Serving || serving {
			serving = c.Serving
			continue
		}
		serving = true
		for o.h.replica.Last().Serving {
			ctx, cancel := context.WithTimeout(o.h.ctx, 5*time.Second)
			e, err := o.session.Bind(ctx, o.endpoint, dvs.BindOptions{Replicated: true, Epoch: c.Epoch, Line: 1, Gone: o.h.replica.Gone})
			cancel()
			if err == nil {
				o.h.wg.Go(func() { o.receive(e) })
				break
			}
			if errors.Is(err, dvs.ErrEpoch) {
				break // a newer one is there
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func (o *host) receive(e *dvs.Endpoint) {
	for {
		m, err := e.Receive(o.h.ctx, dvs.Any)
		if err != nil {
			return
		}
		if m.Kind != endpoint.Notify {
			o.h.wg.Go(func() { o.answer(e, m) })
		}
	}
}

func (o *host) answer(e *dvs.Endpoint, m dvs.Message) {
	caller, seq := m.Caller()
	out, err := o.h.replica.Handle(o.h.ctx, state.Request{Caller: caller, Seq: seq, Payload: m.Payload})
	var refused *replica.Failure
	switch {
	case errors.As(err, &refused):
		_ = e.Refuse(m, refused.Text)
	case err != nil:
		e.Drop(m)
	default:
		_ = e.Reply(m, out)
	}
}
