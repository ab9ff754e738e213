package dvshost_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
)

// trap waits for a word on the way from a node to another, or for a state that passes.
type trap struct {
	mu     sync.Mutex
	armed  bool
	word   string // "": it waits for so many bytes as nothing else has
	passed int
	then   verdict
	fell   chan struct{}
}

// set waits for a word, and says what becomes of it. The channel is closed when it was said.
func (p *trap) set(word string, then verdict) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed, p.word, p.passed, p.then, p.fell = true, word, 0, then, make(chan struct{})
	return p.fell
}

func (p *trap) seen(said []byte) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.passed += len(said); !p.armed || !bytes.Contains(said, []byte(p.word)) || p.word == "" && p.passed < 200<<10 {
		return pass
	}
	p.armed = false
	close(p.fell)
	return p.then
}

// accident is a move of a counter from a to b, in a container of its own, with clients at a and at c.
type accident struct {
	*testing.T
	nodes     map[string]*killable
	container string
	atA, atC  *load
	cancel    context.CancelFunc // of who asked for the move
	moved     chan error
	err       error  // of the move
	owner     string // where the counter is in the end, or ""
	died      bool   // the new owner may have, and the counter with it
}

// begin starts the counter and its clients, and the move.
func (x *accident) begin(frozen bool) {
	x.Helper()
	a := x.nodes["a"]
	a.run(x, x.container, "counter", module(x.T, built.counter))
	size := 1_000_000
	if frozen {
		size = 20_000_000 // much of it does not cross the link, which compresses
	}
	a.ask(x, x.container, "counter", fmt.Sprint("fill ", size))
	a.ask(x, x.container, "counter", "40")
	spec := loadSpec{Container: x.container, To: "counter", Name: "client", Count: 2, Request: "1", Limit: 10 * time.Second}
	x.atA, x.atC = startLoadHere(x.T, a, spec), startLoadHere(x.T, x.nodes["c"], spec)
	ctx, cancel := context.WithCancel(patient(x))
	x.cancel, x.moved = cancel, make(chan error, 1)
	go func() {
		_, err := a.Move(ctx, dvshost.MoveRequest{Container: x.container, Name: "counter", To: "b", Frozen: frozen})
		x.moved <- err
	}()
}

// at returns the nodes that have the counter, each with its state, and what else is to be known.
func (x *accident) at() (at []string, state string) {
	x.Helper()
	moves, err := x.nodes["a"].Moves(patient(x))
	state = fmt.Sprint(moves, err)
	for _, name := range []string{"a", "b"} {
		all, err := x.nodes[name].List(patient(x))
		for _, p := range all {
			if p.Container == x.container {
				at = append(at, name+" "+p.State)
			}
		}
		if err != nil {
			state += err.Error()
		}
	}
	if len(moves) > 0 {
		at = append(at, "on its way")
	}
	return at, fmt.Sprint(at, state, x.err)
}

// reach waits until a node owns the counter.
func (x *accident) reach(node string) {
	x.Helper()
	eventually(x.T, "the counter to be at "+node, func() string {
		at, state := x.at()
		if slices.Contains(at, node+" running") {
			return ""
		}
		return state
	})
}

// settle waits until the move is over and one node has the counter, or none where that may be.
func (x *accident) settle() {
	x.Helper()
	x.err = <-x.moved
	x.cancel()
	eventually(x.T, "the counter to be at one node", func() string {
		at, state := x.at()
		x.owner = ""
		if len(at) == 1 && strings.HasSuffix(at[0], " running") {
			x.owner = at[0][:1]
		}
		if x.owner != "" || len(at) == 0 && x.died && (x.err == nil || strings.Contains(x.err.Error(), "the process is lost")) { // nil: it had arrived
			return ""
		}
		return state
	})
}

// check holds what the clients were told against what the counter is.
func (x *accident) check() {
	x.Helper()
	if x.owner == "" {
		eventually(x.T, "a free name", func() string { // once a has heard of the end
			if err := x.nodes["a"].Run(patient(x), x.container, "counter", module(x.T, built.counter), "", "1m"); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	atA, atC := comeBack(x.T, x.atA), comeBack(x.T, x.atC)
	if len(atA.Errors) > 0 && !x.died {
		x.Errorf("clients at a were told %v", atA.Errors)
	}
	if x.owner == "" {
		x.Logf("%s: lost; the move: %v", x.container, x.err)
		return
	}
	told := slices.Sorted(slices.Values(append(atA.Answers, atC.Answers...)))
	if len(told) != len(slices.Compact(slices.Clone(told))) {
		x.Errorf("an answer was given twice: %v", told)
	}
	var now int
	if _, err := fmt.Sscan(x.nodes["a"].ask(x, x.container, "counter", "0"), &now); err != nil {
		x.Fatal(err)
	}
	unknown := len(atA.Errors) + len(atC.Errors)
	if had := now - 40; had < len(told) || had > len(told)+unknown {
		x.Errorf("%d requests were answered, the outcome of %d is unknown, %d were executed", len(told), unknown, had)
	}
	x.Logf("%s: at %s, %d requests, %d of unknown outcome; the move: %v", x.container, x.owner, len(told), unknown, x.err)
}

// Line 18: the destination of a move, the node of clients and who asks for it end at each of its steps. In the end one node has the process, with all that
// was acknowledged, or, where the new owner itself has died, none, and the name is free. No client waits beyond its time.
func TestLine18OtherPartsOfAMoveAreKilledProcesses(t *testing.T) {
	step := func(name string) string { return `"step":"` + name + `"` }
	steps := []struct {
		name, word                    string
		frozen, arrives, commit, done bool
	}{
		{name: "it asks for a process", word: step("process/destination/prepare")},
		{name: "the process waits", word: step("endpoint/destination/prepare")},
		{name: "the standby waits", word: step("endpoint/destination/prepare"), arrives: true},
		{name: "pages are sent", word: "PUT /v1/pages"},
		{name: "the state is sent", frozen: true},
		{name: "the commit is sent", word: step("endpoint/destination/commit"), commit: true},
		{name: "the commit has arrived", word: step("endpoint/destination/commit"), commit: true, arrives: true},
		{name: "the commit is done", word: step("endpoint/destination/commit"), commit: true, arrives: true, done: true},
	}
	t.Parallel()
	for _, victim := range []string{"the destination", "the clients' node", "who asks"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			var p trap
			nodes := startProcesses(t, true, threeNames, fromAToB(t, p.seen))
			for i, s := range steps {
				x := &accident{T: t, nodes: nodes, container: fmt.Sprint("shop", i)}
				then := pass
				if victim == "the destination" {
					x.died = s.commit && s.arrives
					if then = stop; s.arrives {
						then = strand
					}
				}
				fell := p.set(s.word, then)
				x.begin(s.frozen)
				select {
				case <-fell:
				case err := <-x.moved:
					t.Fatalf("%s: the move ended: %v", s.name, err)
				}
				if s.done {
					x.reach("b")
				}
				switch victim {
				case "the destination":
					nodes["b"].kill()
					nodes["b"].begin(t)
					x.settle()
					if s.done && x.owner != "" {
						t.Errorf("the owner has died, and it is at %s", x.owner)
					}
				case "the clients' node":
					nodes["c"].kill()
					x.settle()
					if x.err != nil || x.owner != "b" {
						t.Errorf("%s: it is at %q, the move: %v", s.name, x.owner, x.err)
					}
					nodes["c"].begin(t)
				case "who asks":
					x.cancel()
					x.settle()
				}
				x.check()
				if t.Failed() {
					t.Fatalf("%s, when %s\na:\n%s\nb:\n%s", victim, s.name, &nodes["a"].log, &nodes["b"].log)
				}
			}
		})
	}
}
