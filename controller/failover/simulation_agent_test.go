package failover_test

import (
	"errors"
	"fmt"
	"slices"

	"github.com/godwit-project/godwit/controller/failover"
)

// The model of an agent, with what outlives it: its book, the machine, the volume. What it refuses is what package agent refuses.

const (
	primary = "primary"
	standby = "replica"
)

type volume struct {
	role     string // "" is none
	epoch    uint64
	source   bool // is shipped to the other end
	complete bool
	content  int // the last write that it has; every one before, too, but for lost ones
	lacks    []int
}

func (v volume) has(write int) bool { return write <= v.content && !slices.Contains(v.lacks, write) }

type agent struct {
	name, site string
	edge       bool
	session    *session
	told       volume // as the controller knows it

	home, seen, serial uint64 // of the book: what runs here; the highest epoch; the newest wish
	runs               bool   // a host's machine
	routes             bool   // an edge's
	volume             volume
	kept               []volume // snapshots of what was demoted
	attended           *session // with which it answered when it ceased to be the owner
}

// session belongs to one life of a controller; a session that is no longer its agent's is broken.
type session struct{ life int }

type kind string

const (
	startTask   kind = "start"
	standbyTask kind = "standby"
	sourceTask  kind = "source"
	stopTask    kind = "stop"
)

// call is a task on its way to an agent, or there, and what became of it.
type call struct {
	agent         *agent
	session       *session
	kind          kind
	epoch, serial uint64
	promote       bool
	answered      bool
	err           error
}

func (c *call) String() string {
	return fmt.Sprintf("%s %s, epoch %d, serial %d", c.agent.name, c.kind, c.epoch, c.serial)
}

var (
	errRefused = errors.New("refused")
	errDown    = errors.New("down")
)

// deliver has an agent do what is on its way to it. What its session did not survive may be lost, or be done all the same, later.
func (w *world) deliver() {
	if len(w.bag) == 0 {
		return
	}
	i := w.rng.IntN(len(w.bag))
	c := w.bag[i]
	doubled := !w.calm && w.rng.IntN(30) == 0
	if !doubled {
		w.bag = slices.Delete(w.bag, i, i+1)
	}
	if c.session != c.agent.session && w.rng.IntN(2) == 0 {
		return
	}
	err := w.perform(c)
	w.moved = true
	w.note("%v: %v", c, err)
	w.hot = err == nil && c.kind != sourceTask
	if c.session == c.agent.session && !c.answered {
		c.answered, c.err = true, err
	}
}

func (w *world) perform(c *call) error {
	a := c.agent
	switch c.kind {
	case startTask:
		if c.epoch < a.seen {
			return errRefused
		}
		a.seen = c.epoch
		if a.edge {
			a.routes, a.home = true, c.epoch
			return nil
		}
		return w.startAt(a, c)
	case stopTask:
		if c.epoch < a.home {
			return errRefused
		}
		a.runs, a.routes, a.home, a.seen, a.serial = false, false, 0, max(a.seen, c.epoch), max(a.serial, c.epoch)
		if a.volume.role != "" {
			a.volume = volume{}
		}
		return nil
	case standbyTask, sourceTask:
		if c.serial < a.serial {
			return errRefused
		}
		a.serial = c.serial
		if c.kind == sourceTask {
			return a.protect(c.epoch)
		}
		return w.standBy(a, c.epoch)
	}
	return nil
}

func (w *world) startAt(a *agent, c *call) error {
	v := &a.volume
	switch {
	case w.external:
	case c.promote && v.role == standby:
		if v.epoch = max(v.epoch, c.epoch-1); v.epoch >= c.epoch {
			return fmt.Errorf("promote to epoch %d: it is at epoch %d", c.epoch, v.epoch)
		}
		if !v.complete {
			return errors.New("incomplete")
		}
		*v = volume{role: primary, epoch: c.epoch, content: v.content, lacks: v.lacks}
	case v.role != primary || c.promote && v.epoch != c.epoch || v.epoch > c.epoch:
		return fmt.Errorf("the volume is %s at epoch %d", v.role, v.epoch)
	}
	if other := w.agents[1]; w.external {
		if a == other {
			other = w.agents[0]
		}
		w.sharing(a, other, c.epoch)
	}
	a.runs, a.home = true, c.epoch
	return nil
}

// standBy makes a standby of what is here. What was a primary of an older epoch is fenced, and all that it has is kept.
func (w *world) standBy(a *agent, epoch uint64) error {
	v := &a.volume
	switch {
	case v.role == primary && v.epoch < epoch:
		a.runs, a.home, a.seen = false, 0, max(a.seen, epoch)
		a.kept = append(a.kept, *v)
		v.role, v.epoch, v.source, v.complete = standby, epoch, false, false
		w.count.fenced++
	case v.role == primary:
		return errors.New("it has primaries")
	case v.role == standby && v.epoch > epoch:
		return fmt.Errorf("it is at epoch %d", v.epoch)
	default:
		v.role, v.epoch = standby, epoch
	}
	return nil
}

func (a *agent) protect(epoch uint64) error {
	if a.volume.role != primary || a.volume.epoch != epoch {
		return errors.New("no primary of that epoch")
	}
	a.volume.source = true
	return nil
}

// write: every copy that runs acknowledges one, clients inside a site that is cut off included.
func (w *world) write() {
	for _, a := range w.agents[:2] {
		if !a.runs || w.external {
			continue
		}
		w.writes++
		w.moved = true
		for n := a.volume.content + 1; n < w.writes; n++ {
			a.volume.lacks = append(slices.Clip(a.volume.lacks), n)
		}
		a.volume.content = w.writes
	}
}

// ship carries what a primary has to the standby of its epoch.
func (w *world) ship() {
	for i, a := range w.agents[:2] {
		far := &w.agents[1-i].volume
		if a.volume.role == primary && a.volume.source && far.role == standby && far.epoch == a.volume.epoch {
			w.moved = true
			far.content, far.lacks, far.complete = a.volume.content, a.volume.lacks, true
		}
	}
}

// place is where the agent is.
func (a *agent) place() failover.Place { return failover.Place{Site: a.site, Host: a.name} }
