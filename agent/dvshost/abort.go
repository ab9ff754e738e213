package dvshost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godwit-project/godwit/migration"
)

// Errors of Abort that a user can do something about.
var (
	ErrNoMove    = errors.New("nothing of that name moves from this node: see godwit dvs ps on the others")
	ErrCommitted = errors.New("the move was committed, and the destination owns the endpoint: wait until it answers; if it never will, give the move up")
)

var (
	errAborted = errors.New("aborted by an operator")
	errGivenUp = errors.New("given up by an operator after its commit, without an answer of the destination")
)

// What may be lost with a move that is given up after its commit.
const (
	lostAnswers = "what the destination has answered since the commit, if it did, is not in the copy that goes on here; a request that it had may be executed twice"
	lostProcess = "the process with its whole state, unless the destination comes back before the name is taken: this node had begun again, and holds no copy"
)

// abortPause is the pause between two looks at a move that is to end.
const abortPause = 5 * time.Millisecond

// UnderWay lists the moves from this node that are not over, by name and epoch.
func (h *Host) UnderWay() []MovingInfo {
	var all []MovingInfo
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, movers := range h.movers {
		for _, m := range movers {
			s := m.seen()
			if s.Terminal() {
				continue // it is about to leave the list
			}
			since, _ := s.Entered(s.Phase)
			all = append(all, MovingInfo{
				Container: k.container, Name: k.name, To: m.to, Epoch: m.epoch, Phase: string(s.Phase), Since: since, Trouble: s.Trouble(),
			})
		}
	}
	for k, t := range h.moving {
		if t.mover == nil {
			all = append(all, MovingInfo{Container: k.container, Name: k.name, To: t.to, Phase: string(migration.Preparing)})
		}
	}
	slices.SortFunc(all, func(a, b MovingInfo) int {
		if c := strings.Compare(a.Container+"/"+a.Name, b.Container+"/"+b.Name); c != 0 {
			return c
		}
		return int(a.Epoch) - int(b.Epoch)
	})
	return all
}

// Abort ends a move from this node. Until its commit that needs nobody else: the process goes on here, and the destination is told when it can
// be reached. After it only a move whose destination does not answer can be ended, if the request says so: the copy that is held here goes on
// with an epoch above that of the move, so that a destination that comes back is refused.
func (h *Host) Abort(ctx context.Context, r AbortRequest) (AbortInfo, error) {
	k := key{r.Container, r.Name}
	info, err := h.abort(ctx, k, r.GiveUp)
	if err != nil {
		return info, fmt.Errorf("abort the move of %s: %w", k, err)
	}
	h.o.Log.Warn("DVS move ended by an operator", "endpoint", k, "to", info.To, "epoch", info.Epoch, "committed", info.Committed, "lost", info.Lost)
	return info, nil
}

func (h *Host) abort(ctx context.Context, k key, giveUp bool) (AbortInfo, error) {
	info := AbortInfo{Container: k.container, Name: k.name}
	h.mu.Lock()
	t := h.moving[k]
	h.mu.Unlock()
	if t == nil {
		return h.abortFound(ctx, k, giveUp, info)
	}
	t.cancel(errAborted)
	info.To = t.to
	for {
		m, committed := h.attemptOf(t)
		if m != nil {
			info.Epoch = m.epoch
		}
		select {
		case <-t.over:
			return t.told(info, k, h)
		case <-ctx.Done():
			return info, ctx.Err()
		case <-h.ctx.Done():
			return info, errUndecided
		case <-time.After(abortPause):
		}
		if !committed {
			continue
		}
		if !giveUp {
			return info, ErrCommitted
		}
		if err := m.away(ctx); err != nil {
			return info, err
		}
		if err := m.giveUpBy(ctx); err != nil {
			return info, err
		}
	}
}

// attemptOf returns the newest attempt, and whether it waits for the destination after its commit.
func (h *Host) attemptOf(t *task) (m *mover, committed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.mover == nil {
		return nil, false
	}
	return t.mover, t.mover.seen().Phase == migration.Committed
}

// told says what became of a task that has come to its end.
func (t *task) told(info AbortInfo, k key, h *Host) (AbortInfo, error) {
	info.Here = h.serves(k)
	switch {
	case t.err == nil:
		return info, fmt.Errorf("it had come to its end: the process is at node %s", t.to)
	case errors.Is(t.err, errGivenUp):
		info.Committed, info.Lost = true, lostAnswers
	case errors.Is(t.err, errLost):
		return info, t.err
	}
	return info, nil
}

// abortFound ends what is left of moves that nobody waits for: those that the book held when this node began again, and those that were
// aborted, and whose destination has not been told.
func (h *Host) abortFound(ctx context.Context, k key, giveUp bool, info AbortInfo) (AbortInfo, error) {
	h.mu.Lock()
	movers := slices.Clone(h.movers[k])
	h.mu.Unlock()
	if len(movers) == 0 {
		return info, ErrNoMove
	}
	for _, m := range movers {
		info.To, info.Epoch = m.to, m.epoch
		committed := m.seen().Phase == migration.Committed
		switch {
		case committed && !giveUp:
			return info, ErrCommitted
		case !giveUp:
			continue // aborted: the destination is told when it is there
		}
		if committed {
			if err := m.away(ctx); err != nil {
				return info, err
			}
			if err := h.raise(k, m.epoch); err != nil {
				return info, err
			}
			info.Committed, info.Lost = true, lostProcess
		}
		if err := m.giveUpBy(ctx); err != nil {
			return info, err
		}
	}
	info.Here = h.serves(k)
	return info, nil
}

// raise has whoever binds the name here next be newer than an owner of that epoch.
func (h *Host) raise(k key, epoch uint64) error {
	return h.o.book.change(k, func(e *entry) bool {
		e.Floor = max(e.Floor, epoch+1)
		e.Epoch = max(e.Epoch, e.Floor)
		return true
	})
}

// Floor returns the least epoch with which a name may be bound at this node; 0 is any. It is the Claim of the node.
func (h *Host) Floor(container, name string) uint64 { return h.o.book.get(key{container, name}).Floor }

// seen returns the newest state of the attempt.
func (m *mover) seen() migration.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shown
}

// away refuses to give up what the destination may be about to answer.
func (m *mover) away(ctx context.Context) error {
	peer := m.h.peer(m.to)
	if peer == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	if err := peer.check(ctx); err != nil {
		return nil
	}
	return fmt.Errorf("node %s answers: what was committed is carried out as soon as it can; if it cannot, end that node first", m.to)
}

// giveUpBy ends the attempt for an operator, and returns when nothing more is asked of the destination. That it is over already is no error.
func (m *mover) giveUpBy(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case m.forced <- answer:
	case <-m.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := <-answer; err != nil {
		return err
	}
	select {
	case <-m.settled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// force ends the attempt, unless the destination has answered: then there is nothing to give up.
func (m *mover) force() error {
	aborted := m.state.Phase == migration.Aborting && m.sourceDone()
	if m.state.Phase != migration.Committed && !aborted || !m.state.Steps[commitStandby].Done.IsZero() {
		return fmt.Errorf("it gets on, and is in phase %s: there is nothing to give up", m.state.Phase)
	}
	m.given = true
	m.cease() // the commit must not reach the destination any more
	if !aborted {
		m.set(func() { m.cause = errGivenUp })
	}
	m.feed(migration.Superseded{At: time.Now(), By: m.epoch + 1})
	return nil
}
