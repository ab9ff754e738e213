package passive

import (
	"slices"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// lead is what only a primary has.
type lead struct {
	era     uint64 // epoch in which it became primary: older acknowledgements count for nothing
	barrier uint64 // what it found when it began: its replies are given when that is committed
	peers   map[string]*peer
	queue   []state.Request
	working *state.Request // the machine has it
	unsent  []reply        // replies that wait for acknowledgements, in order
	imaging *state.Image   // a Snapshot is under way
	imageAt uint64         // committed then
}

// peer is how far another replica is.
type peer struct {
	member state.Member
	life   uint64 // as it says
	valid  bool
	match  uint64 // it has the history up to there
	next   uint64 // what to send next
	heard  int64
	good   int64 // when it was last seen to get on
	moved  int64 // when something was last sent or acknowledged
	again  bool  // the image may have been lost
	wants  bool  // an image, once the machine can give one
	imaged int64 // when one was sent for this life; else 0
}

type reply struct {
	seq   uint64 // of the update that must be committed
	reply state.Reply
}

// begin makes the replica the primary.
func (r *Replica) begin() {
	r.diverged = false
	r.lead = lead{era: r.record.Epoch, peers: map[string]*peer{}, barrier: r.history.last().Seq}
	for i := range r.history.log {
		if u := &r.history.log[i]; u.At.Seq > r.committed {
			for _, p := range u.Replies {
				r.unsent = append(r.unsent, reply{u.At.Seq, p})
			}
		}
	}
	r.apply(r.barrier)
	for _, m := range r.record.Synced {
		if m != r.o.Self {
			r.peers[m.Name] = &peer{member: m, valid: true, next: r.barrier + 1, heard: r.now, good: r.now}
		}
	}
	r.beat()
	r.advance()
}

// deposed gives everything up: the machine has executed what nobody may ever have heard of.
func (r *Replica) deposed() {
	for _, q := range r.queue {
		r.act(Refuse{Caller: q.Caller, Seq: q.Seq})
	}
	if r.working != nil {
		r.act(Refuse{Caller: r.working.Caller, Seq: r.working.Seq})
	}
	for _, p := range r.unsent {
		r.act(Refuse{Caller: p.reply.Caller, Seq: p.reply.Seq})
	}
	r.lead = lead{}
	r.valid = false
}

func (r *Replica) ask(q state.Request) {
	if r.role != Primary {
		r.act(Refuse{Caller: q.Caller, Seq: q.Seq})
		return
	}
	done, known := r.table[q.Caller]
	switch {
	case known && q.Seq < done.Seq:
		r.act(Refuse{Caller: q.Caller, Seq: q.Seq})
	case known && q.Seq == done.Seq:
		waits := slices.ContainsFunc(r.unsent, func(p reply) bool { return p.reply.Caller == q.Caller && p.reply.Seq == q.Seq })
		switch {
		case waits:
		case r.committed < r.barrier:
			r.unsent = append(r.unsent, reply{r.barrier, done})
		default:
			r.act(Answer{Reply: done})
		}
	case r.working != nil && r.working.Caller == q.Caller && r.working.Seq >= q.Seq:
	default:
		i := slices.IndexFunc(r.queue, func(o state.Request) bool { return o.Caller == q.Caller })
		switch {
		case i < 0:
			r.queue = append(r.queue, q)
		case r.queue[i].Seq < q.Seq:
			r.queue[i] = q // the caller has given the former one up
		}
		r.work()
	}
}

// work gives the machine the next request, or has it make an image.
func (r *Replica) work() {
	if r.working != nil {
		return
	}
	if r.imaging == nil && r.wanted() {
		r.imaging, r.imageAt = &state.Image{At: r.history.last(), Table: r.table.Clone()}, r.committed
		r.act(Snapshot{})
	}
	for len(r.queue) > 0 {
		q := r.queue[0]
		r.queue = slices.Delete(r.queue, 0, 1)
		if done, known := r.table[q.Caller]; known && done.Seq >= q.Seq {
			r.act(Refuse{Caller: q.Caller, Seq: q.Seq})
			continue
		}
		r.working = &q
		r.act(Execute{Request: q})
		return
	}
}

func (r *Replica) wanted() bool {
	for _, p := range r.peers {
		if p.wants {
			return true
		}
	}
	return false
}

func (r *Replica) executed(e Executed) {
	if r.working == nil || e.Reply.Caller != r.working.Caller || e.Reply.Seq != r.working.Seq {
		return // it was deposed meanwhile
	}
	r.working = nil
	r.append(state.Update{Replies: []state.Reply{e.Reply}, Delta: e.Delta})
	r.work()
}

// append makes an update the newest, and sends it.
func (r *Replica) append(u state.Update) {
	u.At = state.Position{Epoch: r.record.Epoch, Seq: r.history.last().Seq + 1}
	r.history.push(u)
	r.table.Apply(&u)
	r.applied = u.At.Seq
	for _, p := range u.Replies {
		r.unsent = append(r.unsent, reply{u.At.Seq, p})
	}
	for _, name := range r.o.Peers {
		if p := r.peers[name]; p != nil && p.valid && p.next == u.At.Seq {
			r.feed(p)
		}
	}
	r.advance()
}

// forget takes a caller that has ended out of the table.
func (r *Replica) forget(caller uint64) {
	if _, known := r.table[caller]; !known || r.role != Primary || r.working != nil && r.working.Caller == caller {
		return
	}
	r.queue = slices.DeleteFunc(r.queue, func(q state.Request) bool { return q.Caller == caller })
	r.append(state.Update{Forget: []uint64{caller}})
}

// needed are those without whom nothing is answered.
func (r *Replica) needed(m state.Member) bool {
	return r.record.Has(m) || r.attempt != nil && r.attempt.Has(m)
}

// advance finds what is committed now, and answers.
func (r *Replica) advance() {
	seq := r.history.last().Seq
	all := r.record.Synced
	if r.attempt != nil {
		all = slices.Concat(all, r.attempt.Synced)
	}
	for _, m := range all {
		if m == r.o.Self {
			continue
		}
		p := r.peers[m.Name]
		if p == nil || p.member != m {
			return
		}
		seq = min(seq, p.match)
	}
	r.committed = max(r.committed, seq)
	n := 0
	for _, p := range r.unsent {
		if p.seq > r.committed {
			r.unsent[n] = p
			n++
			continue
		}
		r.act(Answer{Reply: p.reply})
	}
	r.unsent = r.unsent[:n]
	r.history.trim(r.committed, r.o.KeepBytes)
}

// progress takes in how far another replica is.
func (r *Replica) progress(m Message) {
	p := r.peers[m.From.Name]
	if p != nil && p.member != m.From && (r.needed(p.member) || r.needed(m.From)) {
		if r.needed(m.From) && !r.needed(p.member) {
			p = nil
		} else {
			return // the one that is needed is dead: it must leave the record first
		}
	}
	if p == nil || p.member != m.From {
		p = &peer{member: m.From, next: r.history.last().Seq + 1, good: r.now}
		r.peers[m.From.Name] = p
	}
	p.heard = r.now
	if m.Record.Epoch < r.era { // it has not yet heard of this primary
		r.feed(p)
		return
	}
	if p.imaged != 0 && m.Life <= p.life { // it may still take the image: what it says of its present state counts no more
		r.wish(p)
		return
	}
	h := &r.history
	p.valid, p.life, p.imaged = m.Valid, m.Life, 0
	switch {
	case !m.Valid:
		r.wish(p)
		return
	case m.Kind == Ping && p.match > 0:
		return
	case h.has(m.Last):
		if m.Last.Seq > p.match || p.match == 0 {
			p.match, p.moved, p.good = m.Last.Seq, r.now, r.now
		}
		p.wants = false
		if p.next = max(p.next, p.match+1); !m.OK {
			p.next = max(m.Last.Seq, p.match) + 1
		}
	case h.has(m.Applied): // what comes after that it can throw away
		p.next = m.Applied.Seq + 1
	default:
		r.wish(p)
		return
	}
	if p.next <= h.last().Seq || !m.OK && m.Kind == Ack {
		r.feed(p)
	}
	r.advance()
	r.enlist(p)
}

// wish notes that a replica needs an image.
func (r *Replica) wish(p *peer) {
	if p.imaged != 0 && !p.again && r.now-p.imaged < r.o.ImagePatience {
		return
	}
	p.wants = true
	r.work()
}

func (r *Replica) imaged(e Imaged) {
	if r.imaging == nil || r.role != Primary {
		return
	}
	i := *r.imaging
	i.Machine = e.Machine
	r.imaging = nil
	for _, name := range r.o.Peers {
		p := r.peers[name]
		if p == nil || !p.wants {
			continue
		}
		p.wants, p.again, p.imaged, p.match, p.next = false, false, max(r.now, 1), 0, i.At.Seq+1
		r.send(name, Message{Kind: Image, Committed: r.imageAt, Image: i, Life: p.life})
	}
	r.work()
}

// feed sends a replica what it lacks, or nothing as a sign of life.
func (r *Replica) feed(p *peer) {
	h := &r.history
	if p.next <= h.base.Seq || !p.valid {
		if p.match > 0 {
			r.wish(p)
		}
		p.next = h.last().Seq + 1
	}
	prev, _ := h.at(p.next - 1)
	us := h.after(prev.Seq, r.o.ShipBytes)
	if len(us) > 0 {
		p.moved = r.now
	}
	p.next += uint64(len(us))
	r.send(p.member.Name, Message{Kind: Ship, Prev: prev, Updates: us, Committed: r.committed})
}

// enlist asks the store to list a replica that has caught up.
func (r *Replica) enlist(p *peer) {
	if r.attempt != nil || r.record.Has(p.member) || p.match < r.committed || !p.valid || p.imaged != 0 {
		return
	}
	if r.history.last().Seq-p.match > 64 {
		return
	}
	n := state.Record{Epoch: r.record.Epoch + 1, Primary: r.o.Self, Synced: append(slices.Clone(r.record.Synced), p.member)}
	r.propose(n)
}

// beat gives signs of life, sends again what may be lost, and goes on without those who are silent.
func (r *Replica) beat() {
	for _, p := range r.peers {
		if p.match == r.history.last().Seq && r.now-p.heard <= r.o.Patience {
			p.good = r.now
		}
	}
	gone := r.silent(r.o.Patience)
	if left := len(r.record.Synced) - len(gone); 2*left < len(r.o.Peers)+1 {
		gone = r.silent(3 * r.o.Patience) // it may be this one that is cut off: those who are more are first
	}
	if len(gone) > 0 && r.attempt == nil {
		n := state.Record{Epoch: r.record.Epoch + 1, Primary: r.o.Self}
		for _, m := range r.record.Synced {
			if !slices.Contains(gone, m) {
				n.Synced = append(n.Synced, m)
			}
		}
		r.propose(n)
	}
	for _, name := range r.o.Peers {
		p := r.peers[name]
		if p == nil {
			continue
		}
		if !r.needed(p.member) && r.now-p.heard > r.o.Patience && p.imaged == 0 { // else the image may still come, and take it back behind what it says
			delete(r.peers, name)
			continue
		}
		if p.valid && p.match+1 < p.next && r.now-p.moved >= 2*r.o.Every && p.match >= r.history.base.Seq && p.match > 0 {
			p.next = p.match + 1
		}
		r.feed(p)
		r.enlist(p)
	}
}

// silent returns the synced that have not got on for so long.
func (r *Replica) silent(patience int64) (all []state.Member) {
	for _, m := range r.record.Synced {
		if p := r.peers[m.Name]; m != r.o.Self && (p == nil || p.member != m || r.now-p.good > patience) {
			all = append(all, m)
		}
	}
	return all
}

// lost forgets what was sent to a replica and not acknowledged.
func (r *Replica) lost(name string) {
	if p := r.peers[name]; p != nil {
		p.again = true
		if p.match > 0 {
			p.next = p.match + 1
		}
	}
}
