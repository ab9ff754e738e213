package replica_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/dvs/replica/state"
	"github.com/godwit-project/godwit/dvs/socket"
	"github.com/godwit-project/godwit/dvs/wire"
)

// host is what stands between a replica and its node: a program that waits as the endpoint's standby, becomes its owner with the group's epoch
// when its replica serves, and gives each request to it. It speaks the frames itself, for the library keeps its own table of replies.
type host struct {
	h                   *helper
	container, endpoint string
	conn                *socket.Conn
	serve               chan replica.Change
}

func (o *host) start(path string) error {
	raw, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	if o.conn, err = socket.New(raw); err != nil {
		return err
	}
	caller := uint64(time.Now().UnixNano()) | 1
	if err := o.conn.Send(wire.Hello{Version: wire.Version, Caller: caller, Container: o.container, Program: "host"}.Append(nil)); err != nil {
		return err
	}
	if f, err := o.conn.Read(); err != nil || f.Kind != wire.KindWelcome {
		return fmt.Errorf("%s for a welcome, %w", f.Kind, err)
	}
	if err := o.standBy(); err != nil {
		return err
	}
	o.h.wg.Go(o.read)
	o.h.wg.Go(o.bind)
	return nil
}

func (o *host) standBy() error {
	return o.conn.Send(wire.Bind{Call: 1, Standby: true, Movable: true, Name: o.endpoint}.Append(nil))
}

// bind makes this host the owner whenever its replica serves.
func (o *host) bind() {
	serving := false
	for c := range o.serve {
		if !c.Serving || serving {
			serving = c.Serving
			continue
		}
		for o.h.replica.Last().Serving {
			if serving = o.commit(c.Epoch) == nil; serving {
				break
			}
			time.Sleep(time.Millisecond) // the standby may not have been told of yet
		}
	}
}

func (o *host) commit(epoch uint64) error {
	ctx, cancel := context.WithTimeout(o.h.ctx, 5*time.Second)
	defer cancel()
	for _, step := range [][2]string{{"process", endpoint.VerbPrepare}, {"endpoint", endpoint.VerbCommit}} {
		err := o.h.node.Do(ctx, node.Command{
			Container: o.container, Endpoint: o.endpoint, Participant: step[0], Role: "destination", Verb: step[1], Epoch: epoch,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *host) read() {
	for {
		f, err := o.conn.Read()
		if err != nil {
			return
		}
		switch f.Kind {
		case wire.KindOrder:
			m, err := wire.ParseOrder(f.Body)
			if err != nil {
				return
			}
			if m.Order == wire.OrderLeave {
				_ = o.standBy() // another is the owner; this one waits again
			}
			_ = o.conn.Send(wire.Done{Order: m}.Append(nil))
		case wire.KindRequest:
			q, err := wire.ParseRequest(f.Body)
			if err == nil && q.Kind == endpoint.SendRec {
				o.h.wg.Go(func() { o.answer(q) })
			}
		case wire.KindProbe: // if it is in work, it is found in the table or in the queue when it comes again
			if q, err := wire.ParseInquiry(f.Body); err == nil {
				_ = o.conn.Send(wire.AppendReply(nil, endpoint.Reply{To: q.To, Caller: q.Caller, Seq: q.Seq, Code: endpoint.Unknown}))
			}
		case wire.KindGone:
			if m, err := wire.ParseGone(f.Body); err == nil {
				o.h.replica.Gone(m.Caller)
			}
		}
	}
}

func (o *host) answer(q endpoint.Request) {
	out, err := o.h.replica.Handle(o.h.ctx, state.Request{Caller: q.Caller, Seq: q.Seq, Payload: q.Payload})
	p := endpoint.Reply{To: q.To, Caller: q.Caller, Seq: q.Seq, Payload: out}
	var refused *replica.Failure
	switch {
	case errors.As(err, &refused):
		p.Code, p.Payload = endpoint.Failed, []byte(refused.Text)
	case err != nil:
		return // the caller sends it again, on its next route
	}
	_ = o.conn.Send(wire.AppendReply(nil, p))
}
