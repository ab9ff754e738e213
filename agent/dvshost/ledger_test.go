package dvshost_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
)

const (
	bookSize = 70_000 // more than a copy takes along at once between nodes
	slotSize = 256    // of each client's part of the sheet
	slots    = 120
)

// theBook is what each ledger's book contains.
var theBook = func() []byte {
	b := make([]byte, bookSize)
	for i := range b {
		b[i] = byte(i ^ i>>8)
	}
	return b
}()

// ledger is a server that remembers who has asked what, and moves with that: what was lost or done twice on the way shows.
type ledger struct {
	mu    sync.Mutex
	state ledgerState
	ended error // why it serves no more
}

type ledgerState struct {
	Total    uint64
	Last     map[string]uint64 // by client: the number of its last request
	Notified map[string]uint64
	Faults   []string
	Memory   []byte // random, and changed by each request
	Sheet    []byte // the clients write there
}

// newLedger has so much random memory.
func newLedger(size int) *ledger {
	l := &ledger{state: ledgerState{Last: map[string]uint64{}, Notified: map[string]uint64{}, Memory: make([]byte, size), Sheet: make([]byte, slots*slotSize)}}
	for i := range l.state.Memory {
		l.state.Memory[i] = byte(rand.Uint32())
	}
	return l
}

// start binds a name, or takes it over, and serves until that ends.
func (l *ledger) start(ctx context.Context, s *dvs.Session, name string, standby bool) error {
	e, err := s.Bind(ctx, name, dvs.BindOptions{Standby: standby, Snapshot: l.snapshot, Restore: l.restore})
	if err != nil {
		return err
	}
	e.Register("book", theBook, dvs.Access{Read: true})
	e.Register("sheet", l.state.Sheet, dvs.Access{Read: true, Write: true})
	go func() {
		err := l.serve(e)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ended = err
	}()
	return nil
}

func (l *ledger) serve(e *dvs.Endpoint) error {
	for {
		m, err := e.Receive(context.Background(), dvs.Any)
		if err != nil {
			return err
		}
		if answer := l.handle(m); m.Kind == endpoint.SendRec {
			if err := e.Reply(m, answer); err != nil && !errors.Is(err, dvs.ErrNotWaiting) {
				return err
			}
		}
	}
}

func (l *ledger) handle(m dvs.Message) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.state
	if m.Kind == endpoint.Notify {
		s.Notified[m.From]++
		return nil
	}
	var client string
	var number uint64
	if _, err := fmt.Sscan(string(m.Payload), &client, &number); err != nil || client != m.From || number != s.Last[client]+1 {
		s.Faults = append(s.Faults, fmt.Sprintf("%s sent %q after %d: %v", m.From, m.Payload, s.Last[client], err))
	}
	s.Last[client] = number
	s.Total++
	if size := uint64(len(s.Memory)); size > 0 {
		s.Memory[s.Total*7919%size]++
	}
	return fmt.Append(nil, client, " ", number, " ", s.Notified[client])
}

func (l *ledger) snapshot() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return json.Marshal(l.state)
}

func (l *ledger) restore(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = ledgerState{}
	return json.Unmarshal(b, &l.state)
}

// show returns the state without what is long, and the memory's checksum.
func (l *ledger) show() (told, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	short := l.state
	short.Memory, short.Sheet = nil, nil
	if l.ended != nil {
		short.Faults = append(short.Faults, "it has ended: "+l.ended.Error())
	}
	b, err := json.Marshal(short)
	return told{Data: string(b), Sum: crc32.ChecksumIEEE(l.state.Memory)}, err
}

// keep has a puppet serve as a ledger.
func (p *puppet) keep(name string, size int) *puppet {
	p.t.Helper()
	p.must(order{Op: "ledger", As: name, Size: size})
	return p
}

// ledgerAt is a ledger's state, and its memory's checksum.
func ledgerAt(t *testing.T, p *puppet, name string) (s ledgerState, sum uint32) {
	t.Helper()
	got := p.must(order{Op: "show", As: name})
	if err := json.Unmarshal([]byte(got.Data), &s); err != nil {
		t.Fatal(err)
	}
	return s, got.Sum
}

// startLoadAt runs closed-loop clients in a process of their own.
func startLoadAt(t *testing.T, n *killable, spec loadSpec) *puppet {
	t.Helper()
	p := newPuppet(t)
	spec.At = n.socket
	p.must(order{Op: "load", Load: &spec})
	return p
}

// least is how many calls of the client that has made the fewest have come back; an error or a wrong answer ends the test.
func least(t *testing.T, p *puppet) int {
	t.Helper()
	y := p.must(order{Op: "tally"}).Tally
	if len(y.Faults)+len(y.Errors) > 0 {
		t.Fatalf("clients were told: %v, %v", y.Faults, y.Errors)
	}
	n := -1
	for _, steps := range y.Steps {
		if n < 0 || steps < n {
			n = steps
		}
	}
	return n
}

// advance waits until each client has made so many further calls.
func advance(t *testing.T, more int, all ...*puppet) {
	t.Helper()
	var was []int
	for _, p := range all {
		was = append(was, least(t, p))
	}
	for i, p := range all {
		eventually(t, "progress of the clients", func() string {
			if n := least(t, p); n < was[i]+more {
				return fmt.Sprintf("one has made %d calls, and %d before", n, was[i])
			}
			return ""
		})
	}
}

// rested ends clients, none of which may have seen an error.
func rested(t *testing.T, all ...*puppet) (sum []tally) {
	t.Helper()
	var longest time.Duration
	for _, p := range all {
		y := p.must(order{Op: "rest"}).Tally
		for _, s := range append(y.Faults, y.Errors...) {
			t.Error(s)
		}
		longest = max(longest, y.Longest)
		sum = append(sum, *y)
	}
	t.Logf("the longest call took %v", longest.Round(time.Millisecond))
	return sum
}

// settleLedger ends the clients of a ledger, and holds what they were told against what it knows.
func settleLedger(t *testing.T, owner *puppet, name string, clients ...*puppet) {
	t.Helper()
	var asked, noted uint64
	all := rested(t, clients...)
	eventually(t, "all notifications", func() string {
		s, _ := ledgerAt(t, owner, name)
		for _, y := range all {
			for c, want := range y.Noted {
				if s.Notified[c] != want {
					return fmt.Sprintf("%d of %d from %s have come", s.Notified[c], want, c)
				}
			}
		}
		return ""
	})
	s, _ := ledgerAt(t, owner, name)
	for _, y := range all {
		for c, want := range y.Asked {
			if s.Last[c] != want {
				t.Errorf("%s made %d requests, the last one that came is %d", c, want, s.Last[c])
			}
			asked += want
			noted += y.Noted[c]
		}
	}
	if s.Total != asked || len(s.Faults) > 0 {
		t.Errorf("of %d requests %d were executed: %v", asked, s.Total, s.Faults)
	}
	t.Logf("%d requests and %d notifications, each once", asked, noted)
}
