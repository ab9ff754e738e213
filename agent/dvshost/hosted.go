package dvshost

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/server/process"
)

// sendTime bounds how long a process's own messages may wait for their receivers. Until then it handles nothing and cannot move.
const sendTime = 5 * time.Second

// hosted is one process and its endpoint.
type hosted struct {
	h        *Host
	key      key
	machine  *process.Process
	limits   process.Limits
	session  *dvs.Session
	left     sync.Once     // the session
	waited   chan struct{} // of a standby: closed when it waits no longer
	stop     func()        // of a standby: ends its waiting
	endpoint *dvs.Endpoint // nil until it is the owner
	ended    chan struct{} // closed when it serves no longer
	epoch    uint64        // of a standby: that of the move that it waits for
	from     string        // of a standby: the node that it comes from
	staged   atomic.Bool   // of a standby: the state has come

	calls, failures, unsent atomic.Uint64

	busy atomic.Int64 // nanoseconds of work
	came time.Time    // when it came from another node; zero: it began here

	mu   sync.Mutex
	base base // what the other end of a move has already
}

// base is a state that the destination of a move has, as it was at a mark.
type base struct {
	id   baseID // zero: there is none
	mark uint64 // at the source: what has changed since is missing
}

func (p *hosted) bindOptions(standby bool) dvs.BindOptions {
	return dvs.BindOptions{Snapshot: p.snapshot, Restore: p.restore, Standby: standby}
}

// leave ends the session, and with it the endpoint. More than one may want that.
func (p *hosted) leave() { p.left.Do(p.session.Close) }

// end frees what belongs to the process.
func (p *hosted) end() {
	p.leave()
	p.machine.Close()
}

// serve handles messages until the endpoint is no longer here.
func (p *hosted) serve(ctx context.Context) error {
	for {
		m, err := p.endpoint.Receive(ctx, dvs.Any)
		if err != nil {
			return err
		}
		in := process.Input{Kind: kindOf(m.Kind), From: m.From, Payload: m.Payload, Now: p.h.o.Now().UnixNano()}
		_, _ = rand.Read(in.Seed[:]) // never fails
		began := time.Now()
		out, err := p.machine.Call(ctx, in)
		p.busy.Add(int64(time.Since(began)))
		p.calls.Add(1)
		if len(out.Log) > 0 {
			p.h.o.Log.Info("DVS process says", "endpoint", p.key, "text", string(out.Log))
		}
		if errors.Is(err, process.ErrBroken) {
			return err // those who wait are told that the outcome is unknown
		}
		if err != nil {
			p.failures.Add(1)
			p.h.o.Log.Warn("DVS process failed", "endpoint", p.key, "err", err)
		}
		if m.Kind == endpoint.SendRec {
			p.answer(m, out.Reply, err)
		}
		p.send(ctx, out.Sends)
	}
}

func kindOf(k endpoint.Kind) process.Kind {
	switch k {
	case endpoint.SendRec:
		return process.KindRequest
	case endpoint.Notify:
		return process.KindNotify
	default:
		return process.KindSend
	}
}

// answer answers a request. A caller that has gone needs none.
func (p *hosted) answer(m dvs.Message, reply []byte, failed error) {
	if failed == nil {
		_ = p.endpoint.Reply(m, reply)
		return
	}
	_ = p.endpoint.Refuse(m, failed.Error())
}

// send sends what the program wanted to be sent, in order. What nobody takes in time is left out, and said.
func (p *hosted) send(ctx context.Context, all []process.Sending) {
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	for _, one := range all {
		var err error
		if one.Kind == process.KindNotify {
			err = p.endpoint.Notify(one.To)
		} else {
			err = p.endpoint.Send(ctx, one.To, one.Payload)
		}
		if err != nil {
			p.unsent.Add(1)
			p.h.o.Log.Warn("DVS process's message not delivered", "endpoint", p.key, "to", one.To, "err", err)
		}
	}
}

func (p *hosted) info(state string) ProcessInfo {
	return ProcessInfo{
		Container: p.key.container, Name: p.key.name, State: state, Module: p.machine.Module().ID().String(), Memory: p.machine.Memory(),
		Calls: p.calls.Load(), Failures: p.failures.Load(), Unsent: p.unsent.Load(),
	}
}
