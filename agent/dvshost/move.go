package dvshost

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/server/process"
)

const (
	// few is how many pages may be left for the time when nobody is served; rounds bounds how often that is tried.
	few    = 128
	rounds = 12
	// batch is how many pages are sent at once.
	batch = 1024
	// attempts is how many epochs a move may take: one may have been used up before, or an earlier process of that name was about to end.
	attempts = 5
	// moveTime bounds a move until its commit.
	moveTime = 2 * time.Minute
	// holdTime bounds how long callers wait for a move that does not get on.
	holdTime = 30 * time.Second
	// checkEvery is how often the destination is asked meanwhile whether it is there, and checkTime how long it may take to say so.
	checkEvery = 200 * time.Millisecond
	checkTime  = 3 * time.Second
	// againAfter is how long a decided commit waits before it is tried again.
	againAfter = 50 * time.Millisecond
)

// MoveInfo says what a move was.
type MoveInfo struct {
	Container string  `json:"container"`
	Name      string  `json:"name"`
	From      string  `json:"from"`
	To        string  `json:"to"`
	Epoch     uint64  `json:"epoch"`
	Rounds    int     `json:"rounds"`    // of pages sent while it ran; 0 for a frozen move
	PagesSent int     `json:"pagesSent"` // while it ran
	TotalMs   float64 `json:"totalMs"`   // all of it
	HeldMs    float64 `json:"heldMs"`    // while nobody was served, as the source saw it
	Attempts  int     `json:"attempts"`  // how many epochs it took
}

// Move moves a process to another node. frozen sends the whole state while nobody is served; otherwise most of it is sent before. An error
// means that it runs here as before, unless it says that it is undecided.
func (h *Host) Move(ctx context.Context, container, name, to string, frozen bool) (MoveInfo, error) {
	k := key{container, name}
	done := MoveInfo{Container: container, Name: name, From: h.o.Name, To: to}
	begin := time.Now()
	err := h.move(ctx, k, to, frozen, &done)
	done.TotalMs = ms(time.Since(begin))
	if err != nil {
		return done, fmt.Errorf("move %s to %s: %w", k, to, err)
	}
	h.o.Log.Info("DVS process moved", "endpoint", k, "to", to, "rounds", done.Rounds, "heldMs", done.HeldMs, "totalMs", done.TotalMs)
	return done, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (h *Host) move(ctx context.Context, k key, to string, frozen bool, done *MoveInfo) error {
	p, err := h.find(k)
	if err != nil {
		return err
	}
	peer := h.o.Peers[to]
	if peer == nil {
		return fmt.Errorf("%q: %w", to, ErrNoPeer)
	}
	if !p.moving.TryLock() {
		return errors.New("it is moving already")
	}
	defer p.moving.Unlock()
	ctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	defer p.forget()
	if done.Epoch, err = h.epoch(k); err != nil {
		return err
	}
	for done.Attempts = 1; ; done.Attempts++ {
		a := attempt{h: h, p: p, peer: peer, to: to, epoch: done.Epoch, done: done}
		err = a.run(ctx, frozen)
		again := errors.Is(err, node.ErrOver) || errors.Is(err, node.ErrNotHere) && p.serving()
		if err == nil || !again || done.Attempts == attempts {
			return err
		}
		done.Epoch++ // this one is used up
	}
}

// epoch returns one above all that this node knows of an endpoint's.
func (h *Host) epoch(k key) (uint64, error) {
	for _, e := range h.o.Node.Endpoints() {
		if e.Container == k.container && e.Name == k.name && e.Node == h.o.Name {
			return e.Version.Epoch + 1, nil
		}
	}
	return 0, ErrNoProcess
}

// attempt is one epoch of a move.
type attempt struct {
	h     *Host
	p     *hosted
	peer  *Peer
	to    string
	epoch uint64
	done  *MoveInfo
}

func (a *attempt) command(participant, role, verb string) node.Command {
	c := node.Command{Container: a.p.key.container, Endpoint: a.p.key.name, Participant: participant, Role: role, Verb: verb, Epoch: a.epoch, Peer: a.to}
	if role == "destination" {
		c.Peer = a.h.o.Name
	}
	return c
}

func (a *attempt) run(ctx context.Context, frozen bool) error {
	if err := a.prepare(ctx, frozen); err != nil {
		return errors.Join(err, a.rollBack())
	}
	held := time.Now()
	holding, cancel := context.WithTimeout(ctx, holdTime)
	defer cancel()
	err := a.quiesce(holding)
	if err != nil {
		return errors.Join(err, a.rollBack())
	}
	err = a.decide()
	a.done.HeldMs = ms(time.Since(held))
	return err
}

// quiesce holds the endpoint and sends the rest. It ends when the destination no longer answers: callers are waiting.
func (a *attempt) quiesce(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watch sync.WaitGroup
	defer watch.Wait()
	ended := make(chan struct{})
	defer close(ended)
	watch.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(checkEvery):
			}
			asking, stop := context.WithTimeout(ctx, checkTime)
			err := a.peer.check(asking)
			stop()
			if err != nil {
				cancel(fmt.Errorf("the destination does not answer: %w", err))
				return
			}
		}
	})
	return a.h.o.Node.Do(ctx, a.command("endpoint", "source", endpoint.VerbQuiesce))
}

// prepare does what is done while the process serves on.
func (a *attempt) prepare(ctx context.Context, frozen bool) error {
	m := a.p.machine.Module()
	want := PrepareRequest{
		Container: a.p.key.container, Name: a.p.key.name, Epoch: a.epoch, Module: m.ID().String(),
		From: a.h.o.Name, Memory: a.p.limits.Memory, Time: a.p.limits.Time, Message: a.p.limits.Message,
	}
	err := a.peer.Prepare(ctx, want)
	if errors.Is(err, ErrModule) {
		if err = a.peer.SendModule(ctx, m.Bytes()); err == nil {
			err = a.peer.Prepare(ctx, want)
		}
	}
	if err == nil {
		err = a.h.o.Node.Do(ctx, a.command("endpoint", "source", endpoint.VerbPrepare))
	}
	if err == nil && !frozen {
		err = a.converge(ctx)
	}
	return err
}

// converge sends pages until few are left, or as many change as are sent.
func (a *attempt) converge(ctx context.Context) error {
	var b base
	_, _ = rand.Read(b.id[:]) // never fails
	last := 0
	for round := 1; round <= rounds; round++ {
		pages, _, mark := a.p.machine.Changes(b.mark)
		if round > 1 && (len(pages) <= few || round > 3 && len(pages) > last*9/10) {
			break // the rest goes with the final state
		}
		if err := a.sendPages(ctx, b.id, pages); err != nil {
			return err
		}
		b.mark, last = mark, len(pages)
		a.done.Rounds, a.done.PagesSent = round, a.done.PagesSent+len(pages)
	}
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	a.p.base = b
	return nil
}

func (a *attempt) sendPages(ctx context.Context, id baseID, pages []process.Page) error {
	for {
		part := pages[:min(batch, len(pages))]
		pages = pages[len(part):]
		if err := a.peer.SendPages(ctx, a.p.key, a.epoch, id, part); err != nil {
			return err
		}
		if len(pages) == 0 {
			return nil
		}
	}
}

// decide commits. Once the commit may have reached the destination, only that can say what is true: it is asked until it answers.
func (a *attempt) decide() error {
	ctx := a.h.ctx
	reached := false
	for {
		err := a.peer.Do(ctx, a.command("endpoint", "destination", endpoint.VerbCommit))
		reached = reached || !notReached(err)
		switch {
		case err == nil:
			return a.h.o.Node.Do(ctx, a.command("endpoint", "source", endpoint.VerbCommit))
		case errors.As(err, new(*answerError)) || !reached:
			return errors.Join(err, a.rollBack())
		}
		a.h.o.Log.Warn("DVS move undecided: the destination does not answer", "endpoint", a.p.key, "to", a.to, "err", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("undecided, the endpoint stays held: %w", err)
		case <-time.After(againAfter):
		}
	}
}

// notReached tells whether a request has certainly not been sent: there was no connection.
func notReached(err error) bool {
	var fault *net.OpError
	return errors.As(err, &fault) && fault.Op == "dial"
}

// rollBack has the process go on here. The destination is told if it can be; otherwise the epoch is over anyway.
func (a *attempt) rollBack() error {
	ctx, cancel := context.WithTimeout(a.h.ctx, 5*time.Second)
	defer cancel()
	err := a.h.o.Node.Do(ctx, a.command("endpoint", "source", endpoint.VerbAbort))
	if other := a.peer.Drop(ctx, a.p.key, a.epoch); other != nil {
		a.h.o.Log.Warn("DVS move: the destination was not told of the abort", "endpoint", a.p.key, "to", a.to, "err", other)
	}
	a.p.forget()
	return err
}

// serving tells whether the process still owns its endpoint here.
func (p *hosted) serving() bool {
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	return p.h.running[p.key] == p
}

// forget ends what was sent beforehand: the next state is whole.
func (p *hosted) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.base = base{}
}

// Drain moves all processes of this node to others, in turn; to names them, nobody means all peers.
func (h *Host) Drain(ctx context.Context, to []string, frozen bool) ([]MoveInfo, error) {
	if len(to) == 0 {
		to = h.peerNames()
	}
	if len(to) == 0 {
		return nil, fmt.Errorf("drain: %w", ErrNoPeer)
	}
	var (
		moved []MoveInfo
		errs  []error
	)
	for i, p := range h.List() {
		if p.State != "running" {
			continue
		}
		var err error
		for try := range to { // the next one if this one cannot
			var one MoveInfo
			if one, err = h.Move(ctx, p.Container, p.Name, to[(i+try)%len(to)], frozen); err == nil {
				moved = append(moved, one)
				break
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return moved, errors.Join(errs...)
}

// answerError is an error that another host has answered: it has decided.
type answerError struct {
	status int
	text   string
}

// Error returns the text.
func (e *answerError) Error() string { return e.text }

// Unwrap returns the error that stands for the status.
func (e *answerError) Unwrap() error {
	switch {
	case e.status == http.StatusFailedDependency:
		return ErrModule
	case e.status == http.StatusGone:
		return node.ErrOver
	default:
		return nil
	}
}
