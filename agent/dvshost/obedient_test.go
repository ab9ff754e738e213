package dvshost_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
)

// obedient is the puppet's own side.
type obedient struct {
	session *dvs.Session
	say     func(told)

	mu        sync.Mutex
	endpoints map[string]*dvs.Endpoint
	messages  []dvs.Message
	buffers   map[string][]byte
	state     string
	ledgers   map[string]*ledger
	load      *load
}

func runPuppet() {
	out := json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	o := &obedient{endpoints: map[string]*dvs.Endpoint{}, buffers: map[string][]byte{}, ledgers: map[string]*ledger{}, say: func(a told) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(a)
	}}
	for lines := json.NewDecoder(bufio.NewReader(os.Stdin)); ; {
		var q order
		if lines.Decode(&q) != nil {
			os.Exit(0)
		}
		go func() {
			a, err := o.obey(q)
			a.ID = q.ID
			if err != nil {
				a.Err = err.Error()
			}
			o.say(a)
		}()
	}
}

// caller is what a session and an endpoint have in common.
type caller interface {
	Send(ctx context.Context, to string, payload []byte) error
	SendRec(ctx context.Context, to string, payload []byte) ([]byte, error)
	Notify(to string) error
	Copy(ctx context.Context, to, from dvs.Place, n uint64) error
}

func (o *obedient) obey(q order) (a told, err error) {
	ctx := context.Background()
	switch {
	case q.Wait > 0:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, q.Wait)
		defer cancel()
	case q.Wait < 0:
		ctx = dvs.NoWait(ctx)
	}
	if q.Op == "connect" {
		o.session, err = dvs.Connect(ctx, q.At, dvs.Options{Container: q.To, Program: "puppet"})
		return a, err
	}
	switch q.Op {
	case "bind":
		return a, o.bind(ctx, q)
	case "ledger":
		return a, o.keep(ctx, q)
	case "show":
		o.mu.Lock()
		l := o.ledgers[q.As]
		o.mu.Unlock()
		return l.show()
	case "load":
		o.load, err = startLoad(*q.Load)
		return a, err
	case "tally":
		y := o.load.tally()
		return told{Tally: &y}, nil
	case "rest":
		y := o.load.rest()
		return told{Tally: &y}, nil
	}
	o.mu.Lock()
	e := o.endpoints[q.As]
	o.mu.Unlock()
	var c caller = o.session
	if e != nil {
		c = e
	}
	switch q.Op {
	case "send":
		return a, c.Send(ctx, q.To, []byte(q.Data))
	case "sendrec":
		reply, err := c.SendRec(ctx, q.To, []byte(q.Data))
		a.Data = string(reply)
		return a, err
	case "notify":
		return a, c.Notify(q.To)
	case "copy":
		return a, c.Copy(ctx, q.Dst, q.Src, uint64(q.Size))
	}
	if e == nil {
		return a, errors.New("it has no endpoint " + q.As)
	}
	switch q.Op {
	case "receive", "request":
		return o.receive(ctx, e, q)
	case "reply", "refuse":
		o.mu.Lock()
		m := o.messages[q.Ref]
		o.mu.Unlock()
		if q.Op == "refuse" {
			return a, e.Refuse(m, q.Data)
		}
		return a, e.Reply(m, []byte(q.Data))
	case "echo":
		for {
			m, err := e.ReceiveRequest(ctx)
			if err != nil {
				return a, err
			}
			o.mu.Lock()
			o.state += "."
			o.mu.Unlock()
			_ = e.Reply(m, append([]byte(q.Data), m.Payload...))
		}
	case "register":
		b := make([]byte, q.Size)
		for i := range b {
			b[i] = byte(i * len(q.Data) >> 3)
		}
		o.buffers[q.Data] = b
		e.Register(q.Data, b, dvs.Access{Read: true, Write: true})
		return told{Sum: crc32.ChecksumIEEE(b)}, nil
	case "sum":
		return told{Sum: crc32.ChecksumIEEE(o.buffers[q.Data][:q.Size])}, nil
	case "state":
		o.mu.Lock()
		defer o.mu.Unlock()
		if q.Data != "" {
			o.state = q.Data
		}
		return told{Data: o.state}, nil
	case "unbind":
		return a, e.Unbind(ctx)
	default:
		return a, errors.New("it does not know how to " + q.Op)
	}
}

func (o *obedient) bind(ctx context.Context, q order) error {
	e, err := o.session.Bind(ctx, q.As, dvs.BindOptions{
		Standby: q.Standby, Queue: q.Queue,
		Snapshot: func() ([]byte, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			return []byte(o.state), nil
		},
		Restore: func(b []byte) error {
			time.Sleep(q.Slow) // a state that takes long to take in
			if q.Failing {
				return errors.New("no room for it")
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			o.state = string(b)
			return nil
		},
	})
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endpoints[q.As] = e
	return nil
}

// keep serves as a ledger, with random memory unless it takes over from another.
func (o *obedient) keep(ctx context.Context, q order) error {
	l := newLedger(q.Size)
	o.mu.Lock()
	o.ledgers[q.As] = l
	o.mu.Unlock()
	return l.start(ctx, o.session, q.As, q.Standby)
}

func kindName(k endpoint.Kind) string {
	switch k {
	case endpoint.Send:
		return "send"
	case endpoint.SendRec:
		return "sendrec"
	case endpoint.Notify:
		return "notify"
	default:
		return "none"
	}
}

func (o *obedient) receive(ctx context.Context, e *dvs.Endpoint, q order) (told, error) {
	var m dvs.Message
	var err error
	if q.Op == "request" {
		m, err = e.ReceiveRequest(ctx)
	} else {
		m, err = e.Receive(ctx, q.To)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.messages = append(o.messages, m)
	return told{Kind: kindName(m.Kind), From: m.From, Data: string(m.Payload), Ref: len(o.messages) - 1}, err
}
