package dvshost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-project/godwit/migration"
)

// takeBackTime bounds how long it may take to make the copy that is held here the owner.
const takeBackTime = 30 * time.Second

// errNotRaised says that what goes on here has the epoch that it had before the move.
var errNotRaised = errors.New("it goes on here with the epoch that it had: if the destination comes back as the owner, that one is believed")

// takeBack has the copy that is held here go on after a move that was given up, with an epoch above that of the move. That is a move of its own, from
// this node to itself: the queue and the table of replies come along, callers need not know, and whoever comes back with the old epoch is refused.
func (h *Host) takeBack(k key, p *hosted) error {
	ctx, cancel := context.WithTimeout(h.ctx, takeBackTime)
	defer cancel()
	epoch, err := h.allocate(k)
	if err != nil {
		return err
	}
	if p == nil {
		return errors.Join(errNotRaised, h.resume(k, epoch))
	}
	err = h.toItself(ctx, k, p, epoch)
	if err == nil {
		return nil
	}
	h.forget(k)
	again, err2 := h.allocate(k)
	if err2 == nil {
		err2 = h.resume(k, again)
	}
	return errors.Join(errNotRaised, err, err2)
}

func (h *Host) toItself(ctx context.Context, k key, p *hosted, epoch uint64) error {
	p.forget()
	module := p.machine.Module()
	r := StepRequest{
		Container: k.container, Name: k.name, From: h.o.Name, Epoch: epoch, Memory: h.o.book.id,
		Module: module.ID().String(), Limit: p.limits.Memory, Time: p.limits.Time, Message: p.limits.Message,
	}
	for _, step := range []migration.StepID{prepareProcess, prepareStandby, prepareOwner, quiesceEndpoint, commitStandby} {
		var err error
		if r.Step = step; step.Role() == migration.Source {
			err = h.o.Node.Do(ctx, command(k, r, step))
		} else if a := h.Step(ctx, r); a.Failed != "" {
			err = &stepError{a}
		}
		if err != nil {
			return fmt.Errorf("take %s back with epoch %d: %w", k, epoch, err)
		}
	}
	return nil
}
