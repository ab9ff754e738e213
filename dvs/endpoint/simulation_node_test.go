package endpoint_test

import (
	"fmt"

	"github.com/godwit-project/godwit/dvs/endpoint"
)

// This file is what nodes, programs and the coordinator of the simulation do with messages.

func (w *world) deliver() {
	if len(w.bag) == 0 {
		return
	}
	i := w.rng.IntN(len(w.bag))
	m := w.bag[i]
	if m.from >= 0 && m.to >= 0 && w.cut[m.from][m.to] {
		return
	}
	w.bag[i] = w.bag[len(w.bag)-1]
	w.bag = w.bag[:len(w.bag)-1]
	switch {
	case m.req != nil:
		w.request(m)
	case m.rep != nil:
		w.reply(m)
	case m.route != nil:
		w.announced(m)
	case m.state != nil:
		w.stage(m)
	case m.ack:
		if w.now != nil && w.now.epoch == m.epoch {
			if w.now.acks[m.cmd] = m.ok; !m.ok && (m.cmd == "source/quiesce" || m.cmd == "destination/prepare") {
				w.now.gaveUp = true
			}
		}
	default:
		w.command(m)
	}
}

func (w *world) announced(m message) {
	n := w.nodes[m.to]
	if p := n.proc; p != nil && m.at != m.to && m.route.Version.Compare(n.route.Version) > 0 {
		if st := p.box.Status(); st == endpoint.Active || st == endpoint.Holding {
			p.box.Leave()
		}
	}
	n.learn(w, *m.route, m.at)
}

func (w *world) request(m message) {
	n := w.nodes[m.to]
	if n.proc == nil {
		return
	}
	var outcome endpoint.Outcome
	var reply endpoint.Reply
	if m.req.Kind == 0 {
		outcome, reply = n.proc.box.Probe(m.req.Caller, m.req.Seq)
	} else {
		outcome, reply = n.proc.box.Offer(*m.req, true)
	}
	if outcome == endpoint.Answer {
		w.send(message{from: m.to, to: m.from, rep: &reply})
	}
}

func (w *world) reply(m message) {
	c := w.calls[m.rep.Caller-1]
	out, ok := c.Outstanding()
	n := w.nodes[c.home]
	switch {
	case !ok || out.Seq != m.rep.Seq:
	case m.rep.Code == endpoint.Held:
		n.learn(w, endpoint.Route{Version: m.rep.Version, Line: n.route.Line, State: endpoint.Moving}, n.at)
		w.evaluate(c)
	case m.rep.Code == endpoint.Unknown:
		c.at = endpoint.Version{}
		w.evaluate(c)
	case m.rep.Code == endpoint.OtherLine:
		c.Abandon()
		w.unknown++
	case c.End(*m.rep):
		w.answered++
		if w.executed[[2]uint64{c.ID(), out.Seq}] != 1 {
			w.failf("caller %d has an answer to %d, which was executed %d times", c.ID(), out.Seq, w.executed[[2]uint64{c.ID(), out.Seq}])
		}
	}
}

// run lets the program take a request or answer the one in work, and freezes it when it may be.
func (w *world) run(n *simNode) {
	p := n.proc
	if p == nil {
		return
	}
	at := 0
	for i := range w.nodes {
		if w.nodes[i] == n {
			at = i
		}
	}
	if p.work == nil {
		if r, _, ok := p.box.Take(nil, true); ok {
			p.work = &r
			k := [2]uint64{r.Caller, r.Seq}
			if w.executed[k]++; w.executed[k] > 1 {
				w.failf("request %d of caller %d was executed %d times", r.Seq, r.Caller, w.executed[k])
			}
			w.lines[k] = r.Line
			if r.Seq <= p.app[r.Caller] {
				w.failf("request %d of caller %d came after %d", r.Seq, r.Caller, p.app[r.Caller])
			}
			p.app[r.Caller] = r.Seq
			p.count++
			return
		}
		w.freeze(p, at)
		return
	}
	r := *p.work
	p.work = nil
	if reply, ok := p.box.Reply(r.Caller, r.Seq, endpoint.OK, nil); ok {
		w.send(message{from: at, to: w.calls[r.Caller-1].home, rep: &reply})
	}
}

// freeze sends the state once nothing is in work.
func (w *world) freeze(p *process, at int) {
	if p.hold == 0 || p.box.Status() != endpoint.Holding || !p.box.Drained() {
		return
	}
	s, err := p.box.Snapshot()
	if err != nil {
		w.failf("snapshot: %v", err)
		return
	}
	for c, seq := range p.app {
		s.Notes = append(s.Notes, endpoint.Note{Caller: c, Seq: seq, From: "app"})
	}
	s.Process = fmt.Append(nil, p.count)
	w.send(message{from: at, to: p.peer, state: s.Append(nil), epoch: p.hold})
	p.hold = 0
}

func (w *world) stage(m message) {
	n := w.nodes[m.to]
	ok := n.proc != nil && n.proc.box.Status() == endpoint.Standby && m.epoch >= n.fence.Epoch && !(m.epoch == n.fence.Epoch && n.fence.Aborted)
	if ok {
		s, err := endpoint.ParseState(m.state)
		if err != nil {
			w.failf("state: %v", err)
			return
		}
		app := map[uint64]uint64{}
		for _, note := range s.Notes {
			app[note.Caller] = note.Seq
		}
		s.Notes = nil
		if err := n.proc.box.Restore(s); err != nil {
			w.failf("restore: %v", err)
			return
		}
		n.proc.app, n.proc.staged = app, m.epoch
		_, _ = fmt.Sscan(string(s.Process), &n.proc.count)
	}
	w.send(message{from: m.to, to: -1, ack: true, ok: ok, epoch: m.epoch, cmd: "source/quiesce"})
}

// command is what a node does with a step.
func (w *world) command(m message) {
	n := w.nodes[m.to]
	verb := m.cmd[len("destination/"):]
	if m.cmd[0] == 's' {
		verb = m.cmd[len("source/"):]
	}
	run, err := n.fence.Admit(m.epoch, m.cmd, verb)
	answer := func(ok bool) {
		w.send(message{from: m.to, to: -1, ack: true, ok: ok, epoch: m.epoch, cmd: m.cmd})
	}
	if err != nil || !run {
		answer(err == nil)
		return
	}
	if w.carryOut(n, m) {
		answer(n.fence.Record(m.epoch, m.cmd, verb) == nil)
	}
}

// carryOut returns whether the step is done; if not, either it is on the way or it failed, which is told.
func (w *world) carryOut(n *simNode, m message) bool {
	p := n.proc
	owns := p != nil && (p.box.Status() == endpoint.Active || p.box.Status() == endpoint.Holding)
	bump := func(state endpoint.RouteState) endpoint.Route {
		v := n.route.Version
		v.Serial++
		return endpoint.Route{Version: v, Line: n.route.Line, State: state}
	}
	fail := func() bool {
		w.send(message{from: m.to, to: -1, ack: true, epoch: m.epoch, cmd: m.cmd})
		return false
	}
	switch m.cmd {
	case "destination/prepare":
		if p == nil || p.box.Status() != endpoint.Standby {
			return fail()
		}
	case "source/quiesce":
		if !owns {
			return fail()
		}
		r := n.route
		if r.State == endpoint.Open {
			r = bump(endpoint.Moving)
		}
		p.box.Hold(r.Version)
		p.hold, p.peer = m.epoch, m.peer
		n.learn(w, r, m.to)
		w.publish(m.to)
		return false // answered by the destination
	case "destination/commit":
		if p == nil || p.box.Status() != endpoint.Standby || p.staged != m.epoch {
			return fail()
		}
		p.box.Activate(endpoint.Version{Epoch: m.epoch})
		n.learn(w, endpoint.Route{Version: p.box.Version(), Line: n.route.Line, State: endpoint.Open}, m.to)
		w.publish(m.to)
	case "source/commit":
		if owns && p.box.Version().Epoch < m.epoch {
			p.box.Leave()
			n.learn(w, bump(endpoint.Moving), m.peer)
		}
	case "source/abort":
		if owns && p.box.Version().Epoch < m.epoch && p.box.Status() == endpoint.Holding {
			r := bump(endpoint.Open)
			p.hold = 0
			p.box.Resume(r.Version)
			n.learn(w, r, m.to)
			w.publish(m.to)
		}
	case "destination/abort":
		if p != nil && p.box.Status() == endpoint.Standby {
			n.proc = &process{box: endpoint.NewMailbox(simID, endpoint.Version{}, endpoint.Standby), app: map[uint64]uint64{}}
		}
	}
	return true
}

// coordinate does the coordinator's next thing: the store decides, and what is not answered is asked again.
func (w *world) coordinate() {
	a := w.now
	if a == nil {
		to := w.rng.IntN(simNodes)
		if to == w.owner || w.calm {
			return
		}
		w.epoch++
		w.now = &attempt{epoch: w.epoch, from: w.owner, to: to, acks: map[string]bool{}}
		return
	}
	ask := func(cmd string) {
		m := message{from: -1, to: a.to, cmd: cmd, epoch: a.epoch, peer: a.from}
		if cmd[0] == 's' {
			m.to, m.peer = a.from, a.to
		}
		w.send(m)
	}
	switch w.decision[a.epoch] {
	case "":
		switch {
		case a.gaveUp || w.calm || w.chance(2):
			w.decision[a.epoch] = "abort"
		case !a.acks["destination/prepare"]:
			ask("destination/prepare")
		case !a.acks["source/quiesce"]:
			ask("source/quiesce")
		default:
			w.decision[a.epoch], w.owner = "commit", a.to
		}
	case "commit":
		switch {
		case !a.acks["destination/commit"]:
			ask("destination/commit")
		case !a.acks["source/commit"]:
			ask("source/commit")
		default:
			w.now = nil
			w.moves++
		}
	case "abort":
		switch {
		case !a.acks["destination/abort"]:
			ask("destination/abort")
		case !a.acks["source/abort"]:
			ask("source/abort")
		default:
			w.now = nil
			w.aborts++
		}
	}
}
