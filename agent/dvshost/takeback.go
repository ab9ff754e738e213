package dvshost

import (
	"context"
	"fmt"
	"time"
)

// takeBackTime bounds how long it may take to make the copy that is held here the owner.
const takeBackTime = 30 * time.Second

// takeBack has the copy that is held here go on after a move that was given up, with an epoch above that of the move: the queue and the table of replies are
// with it, callers need not know, and whoever comes back with the old epoch is refused.
func (h *Host) takeBack(k key, p *hosted) error {
	ctx, cancel := context.WithTimeout(h.ctx, takeBackTime)
	defer cancel()
	epoch, err := h.allocate(k)
	if err != nil {
		return err
	}
	if p != nil {
		p.forget()
	}
	if err = h.wake(ctx, k); err == nil {
		c := command(k, StepRequest{Epoch: epoch}, abortOwner)
		c.Raise = true
		err = h.o.Node.Do(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("take %s back with epoch %d: %w", k, epoch, err)
	}
	return nil
}
