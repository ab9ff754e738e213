// Package register keeps one small value at several acceptors, changed by compare-and-swap: what a majority has accepted stays, whatever is cut off
// or dies besides. It is the store of a replica group where there is no controller. Each change is a round of single-decree Paxos with the
// value before as its input (CASPaxos): no leader, no log, no clock.
//
// An Acceptor must not forget: one that has, because its process began again without what it Saved, must not answer for that register any more.
package register

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// ErrNoMajority says that too few acceptors answer. What was to be written may yet be there.
var ErrNoMajority = errors.New("most of the nodes that keep the group's record do not answer")

// Ballot orders attempts. No two proposers have the same Name.
type Ballot struct {
	Round uint64
	Name  string
}

func (b Ballot) less(o Ballot) bool {
	return b.Round < o.Round || b.Round == o.Round && b.Name < o.Name
}

// Ask is what a proposer says to an acceptor: first with Accept false, then, with the value, true. Or it only looks (Peek): that promises nothing, and stands
// in nobody's way.
type Ask struct {
	Ballot Ballot
	Accept bool
	Peek   bool
	Value  state.Record
}

// Answer is what the acceptor says. Without OK, Promised is what stands in the way.
type Answer struct {
	OK       bool
	Promised Ballot
	Accepted Ballot // the zero Ballot: nothing
	Value    state.Record
}

// Acceptor is one of those who keep the value. The zero value is ready. It is safe for concurrent use.
type Acceptor struct {
	mu       sync.Mutex
	promised Ballot
	accepted Ballot
	value    state.Record
}

// Saved is what an acceptor must not forget.
type Saved struct {
	Promised Ballot
	Accepted Ballot
	Value    state.Record
}

// Acceptor returns one that has not forgotten.
func (s Saved) Acceptor() *Acceptor {
	return &Acceptor{promised: s.Promised, accepted: s.Accepted, value: s.Value}
}

// Take answers a proposer.
func (a *Acceptor) Take(q Ask) Answer {
	answer, _ := a.TakeSaved(q, func(Saved) error { return nil })
	return answer
}

// TakeSaved answers a proposer when save has kept what may not be forgotten. It is not safe to answer when that failed: then there is an error.
func (a *Acceptor) TakeSaved(q Ask, save func(Saved) error) (Answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if q.Peek {
		return Answer{OK: true, Promised: a.promised, Accepted: a.accepted, Value: a.value}, nil
	}
	if q.Ballot.less(a.promised) || !q.Accept && q.Ballot == a.promised {
		return Answer{Promised: a.promised}, nil
	}
	a.promised = q.Ballot
	if q.Accept {
		a.accepted, a.value = q.Ballot, q.Value
	}
	if err := save(Saved{Promised: a.promised, Accepted: a.accepted, Value: a.value}); err != nil {
		return Answer{}, err
	}
	return Answer{OK: true, Promised: a.promised, Accepted: a.accepted, Value: a.value}, nil
}

// Store proposes changes. It is a replica.Store, for one caller at a time.
type Store struct {
	name  string
	all   []string
	ask   func(ctx context.Context, acceptor string, q Ask) (Answer, error)
	round uint64
}

// patience bounds one question.
const patience = time.Second

// NewStore returns a store that proposes under a name that no other proposer ever has, to acceptors that ask reaches.
func NewStore(name string, acceptors []string, ask func(ctx context.Context, acceptor string, q Ask) (Answer, error)) *Store {
	return &Store{name: name, all: acceptors, ask: ask}
}

// Load returns the value. Where a majority has accepted the same that is the newest; else it is written once more, so that nobody reads an older one
// afterwards.
func (s *Store) Load(ctx context.Context) (state.Record, error) {
	if c, ok := s.peek(ctx); ok {
		return c, nil
	}
	return s.change(ctx, func(c state.Record) state.Record { return c })
}

// peek looks whether a majority has accepted the same.
func (s *Store) peek(ctx context.Context) (v state.Record, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	same := map[Ballot]int{}
	for a := range s.answers(ctx, Ask{Ballot: Ballot{Name: s.name}, Peek: true}) {
		if !a.OK {
			continue
		}
		s.round = max(s.round, a.Promised.Round)
		if same[a.Accepted]++; 2*same[a.Accepted] > len(s.all) {
			return a.Value, true
		}
	}
	return v, false
}

// answers asks all, and yields what they answer, as it comes; an Answer that is not OK for one that does not.
func (s *Store) answers(ctx context.Context, q Ask) iter.Seq[Answer] {
	answers := make(chan Answer, len(s.all))
	for _, name := range s.all {
		go func() { // ends with ctx
			a, err := s.ask(ctx, name, q)
			if err != nil {
				a = Answer{}
			}
			answers <- a
		}()
	}
	return func(yield func(Answer) bool) {
		for range s.all {
			if !yield(<-answers) {
				return
			}
		}
	}
}

// Swap writes next if the value still has that epoch, and returns what is there then.
func (s *Store) Swap(ctx context.Context, epoch uint64, next state.Record) (state.Record, error) {
	return s.change(ctx, func(c state.Record) state.Record {
		if c.Epoch == epoch {
			return next
		}
		return c
	})
}

func (s *Store) change(ctx context.Context, f func(state.Record) state.Record) (state.Record, error) {
	for pause, longest := time.Millisecond, 100*time.Millisecond; ; pause = min(2*pause, longest) {
		began := time.Now()
		s.round++
		b := Ballot{s.round, s.name}
		if v, ok := s.phase(ctx, Ask{Ballot: b}); ok {
			v = f(v)
			if _, ok := s.phase(ctx, Ask{Ballot: b, Accept: true, Value: v}); ok {
				return v, nil
			}
			// Somebody may have taken it up. f looks at what is there then, so it does not happen twice.
		}
		longest = max(longest, 4*time.Since(began)) // where all are slow two would meet again and again
		select {
		case <-ctx.Done():
			return state.Record{}, fmt.Errorf("%w: %w", ErrNoMajority, ctx.Err())
		case <-time.After(time.Duration(rand.Int64N(int64(pause))) + pause/2): // so that two do not stand in each other's way for ever
		}
	}
}

// phase asks all, and returns what the newest of a majority has accepted.
func (s *Store) phase(ctx context.Context, q Ask) (v state.Record, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var newest Ballot
	yes, no := 0, 0
	for a := range s.answers(ctx, q) {
		s.round = max(s.round, a.Promised.Round)
		if !a.OK {
			if no++; 2*no >= len(s.all) {
				return v, false
			}
			continue
		}
		if newest.less(a.Accepted) {
			newest, v = a.Accepted, a.Value
		}
		if yes++; 2*yes > len(s.all) {
			return v, true
		}
	}
	return v, false
}
