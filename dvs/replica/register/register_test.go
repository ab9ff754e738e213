package register_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs/replica/register"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

// world is acceptors that lose questions and answers, and of which one at a time cannot be reached.
type world struct {
	all  map[string]*register.Acceptor
	loss float64

	mu  sync.Mutex
	cut map[string]bool
}

var errLost = errors.New("lost")

func newWorld() (*world, []string) {
	names := []string{"a", "b", "c"}
	w := &world{all: map[string]*register.Acceptor{}, cut: map[string]bool{}}
	for _, n := range names {
		w.all[n] = new(register.Acceptor)
	}
	return w, names
}

func (w *world) ask(_ context.Context, to string, q register.Ask) (register.Answer, error) {
	w.mu.Lock()
	cut := w.cut[to]
	w.mu.Unlock()
	if cut || rand.Float64() < w.loss {
		return register.Answer{}, errLost
	}
	a := w.all[to].Take(q)
	if rand.Float64() < w.loss {
		return register.Answer{}, errLost
	}
	return a, nil
}

// Each epoch is written by one proposer only, and nobody who has read one reads an older one, whoever cannot be reached.
func TestEachEpochIsWrittenOnce(t *testing.T) {
	w, names := newWorld()
	w.loss = 0.1
	var wg sync.WaitGroup
	var mu sync.Mutex
	owner, newest := map[uint64]string{}, uint64(0)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := range 4 {
		name := fmt.Sprint("p", i)
		wg.Go(func() {
			s := register.NewStore(name, names, w.ask)
			for n := range 20 {
				mu.Lock()
				known := newest
				mu.Unlock()
				c, err := s.Load(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				if c.Epoch < known {
					t.Errorf("read epoch %d after %d", c.Epoch, known)
				}
				me := state.Member{Name: name, Incarnation: uint64(n)}
				got, err := s.Swap(ctx, c.Epoch, state.Record{Epoch: c.Epoch + 1, Primary: me})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				writer := fmt.Sprint(got.Primary)
				if was := owner[got.Epoch]; was != "" && was != writer {
					t.Errorf("epoch %d: %s and %s", got.Epoch, was, writer)
				}
				owner[got.Epoch], newest = writer, max(newest, got.Epoch)
				w.mu.Lock()
				clear(w.cut)
				w.cut[names[rand.IntN(len(names))]] = true
				w.mu.Unlock()
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d epochs", newest)
}

// Those who want to write at the same time do not stand in each other's way for ever, however slow the acceptors are.
func TestSlowAcceptorsAreNoDeadlock(t *testing.T) {
	w, names := newWorld()
	slow := func(ctx context.Context, to string, q register.Ask) (register.Answer, error) {
		select {
		case <-time.After(50*time.Millisecond + time.Duration(rand.IntN(100))*time.Millisecond):
			return w.ask(ctx, to, q)
		case <-ctx.Done():
			return register.Answer{}, ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			s := register.NewStore(fmt.Sprint("p", i), names, slow)
			if _, err := s.Swap(ctx, 0, state.Record{Epoch: 1}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// Whoever reads what a majority has accepted promises nothing, and writes nothing.
func TestToReadStandsInNobodysWay(t *testing.T) {
	w, names := newWorld()
	asked := 0
	count := func(ctx context.Context, to string, q register.Ask) (register.Answer, error) {
		w.mu.Lock()
		if !q.Peek {
			asked++
		}
		w.mu.Unlock()
		return w.ask(ctx, to, q)
	}
	s := register.NewStore("p", names, count)
	if _, err := s.Swap(t.Context(), 0, state.Record{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	before := asked
	w.cut["a"] = true
	w.mu.Unlock()
	for range 10 {
		if c, err := s.Load(t.Context()); err != nil || c.Epoch != 1 && asked == before {
			t.Fatalf("%+v, %v", c, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if asked > before+9 { // b or c may have missed the write: then it was written once more; and of that some was still under way
		t.Errorf("ten reads asked %d times for more than a look", asked-before)
	}
}

func TestWithoutAMajorityNothingIsSaid(t *testing.T) {
	w, names := newWorld()
	w.cut["a"], w.cut["b"] = true, true
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s := register.NewStore("p", names, w.ask)
	if _, err := s.Load(ctx); !errors.Is(err, register.ErrNoMajority) {
		t.Error(err)
	}
}
