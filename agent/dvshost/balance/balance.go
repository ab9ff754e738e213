// Package balance decides which process leaves a node that has too much to do, and for where. It is pure: loads and times come in, at most one move
// comes out. Each node decides for its own processes only, by what the others say of themselves.
//
// Three things keep processes from wandering: a node that has begun to give up processes, above the high water mark, goes on to the low one
// only; a move has to better the fuller of the two nodes by a least gain; and who has moved, or a node that has moved something, rests for a
// time, in which the loads are measured anew.
package balance

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// Limits of a policy. Loads are shares of what a node can do: 1 is all.
type Limits struct {
	High     float64       // above it a node gives up processes
	Low      float64       // until it is at this
	Gain     float64       // by how much the fuller of the two nodes has to have less to do afterwards
	CoolDown time.Duration // for how long a process stays where it came to
	Pause    time.Duration // for how long a node moves nothing after it has moved something, or has got something
}

// Default returns limits that suit many small processes.
func Default() Limits {
	return Limits{High: 0.8, Low: 0.6, Gain: 0.1, CoolDown: time.Minute, Pause: 10 * time.Second}
}

// Validate returns what is wrong with the limits.
func (l Limits) Validate() error {
	switch {
	case l.High <= 0 || l.High > 1:
		return errors.New("the high water mark has to be above 0 and at most 1")
	case l.Low < 0 || l.Low > l.High:
		return errors.New("the low water mark has to be between 0 and the high one")
	case l.Gain <= 0:
		return errors.New("the least gain has to be above 0: without one, processes wander")
	case l.CoolDown < 0 || l.Pause < 0:
		return errors.New("a time of rest is negative")
	default:
		return nil
	}
}

// Process is one that may move.
type Process struct {
	Name string
	Load float64
	Came time.Time // when it came to the node; zero: it began there
}

// Node is another node, as it says itself.
type Node struct {
	Name string
	Load float64
	Came time.Time // when it last got a process; zero: never
}

// Move is what to do.
type Move struct {
	Process, To string
}

// Policy decides for one node. The zero value has nothing to give up.
type Policy struct {
	Limits
	giving bool      // above the high mark lately, and not at the low one since
	moved  time.Time // when the last move was tried
}

// Giving tells whether the node gives up processes.
func (p *Policy) Giving() bool { return p.giving }

// Moved notes that a move was tried.
func (p *Policy) Moved(now time.Time) { p.moved = now }

// Decide returns the move that betters the fuller of two nodes most, if any does enough. load is that of the node itself, which may be more than its
// processes have together.
func (p *Policy) Decide(now time.Time, load float64, processes []Process, others []Node) (Move, bool) {
	switch {
	case load > p.High:
		p.giving = true
	case load <= p.Low:
		p.giving = false
	}
	if !p.giving || !p.moved.IsZero() && now.Sub(p.moved) < p.Pause {
		return Move{}, false
	}
	var best Move
	least := load - p.Gain
	others = slices.SortedFunc(slices.Values(others), func(a, b Node) int { return cmp.Or(cmp.Compare(a.Load, b.Load), cmp.Compare(a.Name, b.Name)) })
	for _, n := range others {
		if !n.Came.IsZero() && now.Sub(n.Came) < p.Pause {
			continue // what it says is of before
		}
		for _, one := range processes {
			fuller := max(load-one.Load, n.Load+one.Load)
			if rests := !one.Came.IsZero() && now.Sub(one.Came) < p.CoolDown; rests || n.Load+one.Load > p.High || fuller > least {
				continue
			}
			if best == (Move{}) || fuller < least {
				best, least = Move{Process: one.Name, To: n.Name}, fuller
			}
		}
	}
	return best, best != Move{}
}
