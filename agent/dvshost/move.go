package dvshost

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/godwit-project/godwit/dvs/node"
)

// attempts is how many epochs a move may take: one may have been used up before, or an earlier process of that name was about to end.
const attempts = 5

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

// Move moves a process to another node; or the endpoint of a program outside of this one, to one that waits there as a standby. frozen sends the whole state while nobody is served; otherwise most of it is sent before. An error
// means that it runs here as before, unless it says otherwise.
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
	if errors.Is(err, ErrNoProcess) && h.serves(k) {
		p, err = nil, nil // a program outside
	}
	if err != nil {
		return err
	}
	peer, err := h.peerOf(to)
	if err == nil {
		err = h.shares(k.container, to)
	}
	if err != nil {
		return err
	}
	ctx, t := h.claim(ctx, k, to)
	if t == nil {
		return errors.New("it is moving already")
	}
	err = h.try(ctx, k, p, peer, frozen, t, done)
	h.release(k, t, err)
	return err
}

// try makes attempts until one has come to an end that lasts.
func (h *Host) try(ctx context.Context, k key, p *hosted, peer *Peer, frozen bool, t *task, done *MoveInfo) error {
	for done.Attempts = 1; ; done.Attempts++ {
		m, err := h.begin(ctx, k, p, peer, frozen)
		if err != nil {
			return errors.Join(err, h.resume(k, done.Epoch+1))
		}
		h.mu.Lock()
		t.mover = m
		h.mu.Unlock()
		err = m.wait(ctx)
		done.Epoch = m.epoch
		m.tell(done)
		switch {
		case errors.Is(err, errUnborn): // it is held here: another attempt moves it or has it go on
			if done.Attempts >= attempts {
				gone, cancel := context.WithCancelCause(ctx)
				cancel(err)
				ctx = gone
			}
		case errors.Is(err, errGivenUp):
			return errors.Join(err, h.takeBack(k, p))
		case errors.Is(err, node.ErrOver), errors.Is(err, node.ErrNotHere) && h.serves(k):
			if done.Attempts >= attempts {
				return err
			}
		default:
			return err
		}
	}
}

// resume has a process go on here that an attempt which is over may have left held.
func (h *Host) resume(k key, epoch uint64) error {
	if epoch == 1 {
		return nil // there was no attempt
	}
	if err := h.wake(h.ctx, k); err != nil {
		return err
	}
	return h.o.Node.Do(h.ctx, command(k, StepRequest{Epoch: epoch}, abortOwner))
}

// serves tells whether a process or a program of this node owns the endpoint.
func (h *Host) serves(k key) bool {
	return slices.ContainsFunc(h.o.Node.Endpoints(), func(e node.EndpointInfo) bool {
		return e.Container == k.container && e.Name == k.name && e.Node == h.o.Name
	})
}

// task is somebody's wish that an endpoint moves, for as long as it takes.
type task struct {
	to     string
	cancel context.CancelCauseFunc
	over   chan struct{} // closed when it has come to its end
	err    error         // then: what became of it

	mover *mover // its newest attempt, or nil; guarded by the host's lock
}

// claim has nobody else move the endpoint until release. The task is nil if somebody does already.
func (h *Host) claim(ctx context.Context, k key, to string) (context.Context, *task) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.moving[k] != nil {
		return ctx, nil
	}
	t := &task{to: to, over: make(chan struct{})}
	ctx, t.cancel = context.WithCancelCause(ctx)
	h.moving[k] = t
	return ctx, t
}

func (h *Host) release(k key, t *task, err error) {
	t.cancel(nil)
	t.err = err
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.moving, k)
	close(t.over)
}

// forget ends what was sent beforehand: the next state is whole.
func (p *hosted) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.base = base{}
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
