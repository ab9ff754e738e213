package dvshost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Drain moves everything that has its endpoint at this node to others, in turn; to names them, nobody means all peers. The error names what stays,
// each with the reason.
func (h *Host) Drain(ctx context.Context, to []string, frozen bool) ([]MoveInfo, error) {
	if len(to) == 0 {
		to = h.peerNames()
	}
	if len(to) == 0 {
		return nil, fmt.Errorf("drain: %w", ErrNoPeer)
	}
	for _, name := range to {
		if _, err := h.peerOf(name); err != nil {
			return nil, fmt.Errorf("drain: %w", err)
		}
	}
	var (
		moved []MoveInfo
		errs  []error
	)
	for i, k := range h.leaving() {
		var reasons []error
		for try := range to { // the next one if this one cannot
			one, err := h.Move(ctx, k.container, k.name, to[(i+try)%len(to)], frozen)
			if err == nil {
				moved, reasons = append(moved, one), nil
				break
			}
			reasons = append(reasons, err)
		}
		errs = append(errs, reasons...)
	}
	return moved, errors.Join(errs...)
}

// leaving returns the names that a drain moves, in order: all that somebody has here, but for replicated processes, which are elsewhere too.
func (h *Host) leaving() []key {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []key
	for _, e := range h.o.Node.Endpoints() {
		k := key{e.Container, e.Name}
		if e.Node == h.o.Name && e.PID != 0 && h.groups[k] == nil {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(a, b key) int { return strings.Compare(a.String(), b.String()) })
	return all
}
