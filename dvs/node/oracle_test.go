package node_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs"
)

// The oracle. Every client has a number and counts its requests; the server remembers the last count of each, and a running total.
// A request that is executed twice or skipped shows in the server's state at once, and in the replies.

// state is what a server moves with: the oracle and some memory.
type state struct {
	Total    uint64
	Last     map[string]uint64 // by client
	Faults   []string
	Notified map[string]uint64
	Memory   []byte
}

type server struct {
	mu    sync.Mutex
	state state
	err   error
	// touched, if set, is told of every byte of the memory that changes.
	touched func(at uint64)
}

// serve runs a server that answers "client count" with the total. It comes back when the name is bound; a standby at once.
func (h *helper) serve(r request) error {
	s, err := dvs.Connect(h.ctx, r.Socket, dvs.Options{Container: r.Container, NodeOnly: r.NodeOnly})
	if err != nil {
		return err
	}
	v := &server{state: state{Last: map[string]uint64{}, Notified: map[string]uint64{}}}
	if r.Size > 0 {
		v.state.Memory = make([]byte, r.Size)
		rng := rand.New(rand.NewPCG(uint64(r.Size), 7))
		for i := 0; i+8 <= len(v.state.Memory); i += 8 {
			binary.LittleEndian.PutUint64(v.state.Memory[i:], rng.Uint64())
		}
	}
	h.server[r.Endpoint] = v
	o := dvs.BindOptions{Standby: r.Standby, Snapshot: v.snapshot, Restore: v.restore}
	if r.Paged {
		p := newPaged(v)
		v.touched = p.touched
		o = dvs.BindOptions{Standby: r.Standby, Pieces: p}
		if r.Rate > 0 {
			h.wg.Go(func() { p.scribble(h.ctx, r.Rate) })
		}
	}
	bound := make(chan error, 1)
	h.wg.Go(func() {
		defer s.Close()
		e, err := s.Bind(h.ctx, r.Endpoint, o)
		bound <- err
		if err == nil {
			e.Register("book", book(), dvs.Access{Read: true})
			e.Register("sheet", make([]byte, bookSize), dvs.Access{Write: true})
			err = v.run(h.ctx, e)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.err = err
	})
	if r.Standby {
		return nil
	}
	return <-bound
}

func (v *server) snapshot() ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	memory := v.state.Memory
	v.state.Memory = nil
	head, err := json.Marshal(v.state)
	v.state.Memory = memory
	if err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, len(head)+len(memory)+4), uint32(len(head)))
	return append(append(b, head...), memory...), nil
}

func (v *server) restore(b []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(b) < 4 {
		return errors.New("too short")
	}
	n := int(binary.LittleEndian.Uint32(b))
	v.state = state{}
	if err := json.Unmarshal(b[4:4+n], &v.state); err != nil {
		return err
	}
	v.state.Memory = slices.Clone(b[4+n:])
	return nil
}

func (v *server) run(ctx context.Context, e *dvs.Endpoint) error {
	for {
		m, err := e.Receive(ctx, dvs.Any)
		if err != nil {
			return err
		}
		reply := v.handle(m)
		if reply != nil {
			if err := e.Reply(m, reply); err != nil && !errors.Is(err, dvs.ErrNotWaiting) {
				return err
			}
		}
	}
}

func (v *server) handle(m dvs.Message) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(m.Payload) == 0 {
		v.state.Notified[m.From]++
		return nil
	}
	var client string
	var count uint64
	if _, err := fmt.Sscan(string(m.Payload), &client, &count); err != nil {
		return m.Payload // of a benchmark
	}
	if last := v.state.Last[client]; count != last+1 {
		v.state.Faults = append(v.state.Faults, fmt.Sprintf("%s: %d after %d", client, count, last))
	}
	v.state.Last[client] = count
	v.state.Total++
	if len(v.state.Memory) > 0 {
		at := v.state.Total * 7919 * pageSize % uint64(len(v.state.Memory))
		v.state.Memory[at]++
		if v.touched != nil {
			v.touched(at)
		}
	}
	return fmt.Append(nil, client, " ", count)
}

// show returns the state for the test, with the memory's checksum in its place.
func (v *server) show() (answer, error) {
	if v == nil {
		return answer{}, errors.New("no such server")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.state
	sum := sha256.Sum256(s.Memory)
	s.Memory = sum[:]
	b, err := json.Marshal(s)
	return answer{Text: string(b)}, errors.Join(err)
}

// tally is what clients have seen.
type tally struct {
	Requests uint64
	Wrong    uint64
	Errors   []string
	Longest  time.Duration
}

// load is a set of closed-loop clients, each a session of its own.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	sum    tally
}

// clients starts Count clients of an endpoint. Odd ones use Send now and then, all notify.
func (h *helper) clients(r request) error {
	ctx, cancel := context.WithCancel(h.ctx)
	l := &load{cancel: cancel}
	h.load = l
	for i := range r.Count {
		s, err := dvs.Connect(ctx, r.Socket, dvs.Options{Container: r.Container, NodeOnly: r.NodeOnly && i%2 == 1})
		if err != nil {
			cancel()
			return err
		}
		name := fmt.Sprintf("%s-%d", r.Name, i)
		var copier *dvs.Endpoint
		if r.Copies {
			if copier, err = s.Bind(ctx, name, dvs.BindOptions{}); err != nil {
				cancel()
				return err
			}
		}
		l.wg.Go(func() {
			defer s.Close()
			l.run(ctx, s, copier, r, name)
		})
	}
	return nil
}

// book is what a server's buffer contains: everybody knows it.
func book() []byte {
	b := make([]byte, bookSize)
	for i := range b {
		b[i] = byte(i ^ i>>8)
	}
	return b
}

const bookSize = 100_000

// copyBook copies the server's buffer to the client's own, and back to another one of the server.
func copyBook(ctx context.Context, e *dvs.Endpoint, server string) error {
	room := make([]byte, bookSize)
	e.Register("room", room, dvs.Access{})
	own := dvs.Place{Endpoint: e.Name(), Buffer: "room"}
	if err := e.Copy(ctx, own, dvs.Place{Endpoint: server, Buffer: "book"}, bookSize); err != nil {
		return err
	}
	if !bytes.Equal(room, book()) {
		return errors.New("the copy differs")
	}
	return e.Copy(ctx, dvs.Place{Endpoint: server, Buffer: "sheet"}, own, bookSize)
}

func (l *load) run(ctx context.Context, s *dvs.Session, copier *dvs.Endpoint, r request, name string) {
	for count := uint64(1); ctx.Err() == nil; count++ {
		began := time.Now()
		call, cancel := context.WithTimeout(context.Background(), r.Timeout)
		want := fmt.Sprint(name, " ", count)
		got, err := want, error(nil)
		if count%3 == 0 {
			err = s.Send(call, r.Endpoint, []byte(want))
		} else {
			var b []byte
			b, err = s.SendRec(call, r.Endpoint, []byte(want))
			got = string(b)
		}
		if copier != nil && count%4 == 0 && err == nil {
			err = copyBook(call, copier, r.Endpoint)
		}
		cancel()
		if count%5 == 0 && err == nil {
			err = s.Notify(r.Endpoint)
		}
		l.mu.Lock()
		l.sum.Requests++
		l.sum.Longest = max(l.sum.Longest, time.Since(began))
		if err != nil {
			l.sum.Errors = append(l.sum.Errors, name+": "+err.Error())
		} else if got != want {
			l.sum.Wrong++
		}
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (l *load) stop() tally {
	l.cancel()
	l.wg.Wait()
	return l.tally()
}

func (l *load) tally() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.sum
	t.Errors = slices.Clone(t.Errors)
	return t
}
