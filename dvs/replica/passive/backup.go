package passive

import "github.com/godwit-project/godwit/dvs/replica/state"

// ship takes in updates of the primary.
func (r *Replica) ship(m Message) {
	h := &r.history
	switch {
	case !r.valid || r.diverged || m.Prev.Seq > h.last().Seq: // or something is missing between
		r.ack()
		return
	case m.Prev.Seq >= h.base.Seq && !h.has(m.Prev):
		r.cutBack(m.Prev.Seq)
		r.ack()
		return
	case m.Prev.Seq < h.base.Seq && (len(m.Updates) == 0 || m.Updates[len(m.Updates)-1].At.Seq < h.base.Seq):
		r.ack() // all older than can be compared
		return
	}
	for _, u := range m.Updates {
		p, known := h.at(u.At.Seq)
		switch {
		case u.At.Seq < h.base.Seq, known && p == u.At:
			continue
		case known:
			if !r.cutBack(u.At.Seq) {
				r.ack()
				return
			}
		}
		h.push(u)
	}
	matched := m.Prev
	if n := len(m.Updates); n > 0 {
		matched = m.Updates[n-1].At
	}
	r.commit(min(m.Committed, matched.Seq))
	r.ackTo(matched)
}

// ackTo acknowledges the history up to p.
func (r *Replica) ackTo(p state.Position) {
	m := Message{Kind: Ack, OK: true, Valid: true, Last: p, Life: r.life}
	m.Applied, _ = r.history.at(r.applied)
	r.send(r.record.Primary.Name, m)
}

// cutBack throws away what the primary does not have, from seq on. If the machine has it already, it must be rebuilt; false then.
func (r *Replica) cutBack(seq uint64) bool {
	if seq > r.applied {
		r.history.truncate(seq - 1)
		return true
	}
	r.diverged = true
	return false
}

// ack says what this replica has; it does not know whether the primary has that too.
func (r *Replica) ack() { r.report(r.record.Primary.Name, Message{Kind: Ack}) }

// commit applies what is known to be with all who are needed.
func (r *Replica) commit(seq uint64) {
	r.committed = max(r.committed, seq)
	r.apply(r.committed)
	r.history.trim(r.committed, r.o.KeepBytes)
}

// apply gives the machine the updates up to seq.
func (r *Replica) apply(seq uint64) {
	for ; r.applied < seq; r.applied++ {
		u := &r.history.log[r.applied-r.history.base.Seq]
		r.table.Apply(u)
		if !u.Delta.Empty() {
			r.act(Apply{Delta: u.Delta})
		}
	}
}

// take restores an image. A synced replica that can go on from its own state takes none; and none is taken that was meant for an earlier state.
func (r *Replica) take(m Message) {
	needed := r.role == Joining || !r.valid || r.diverged
	if !needed || m.Life != r.life || r.restoring || r.attempt != nil { // an attempt: this state may be about to become the primary's
		r.leave(m)
		return
	}
	r.valid, r.restoring, r.image, r.committed = false, true, m.Image, m.Committed
	r.act(Restore{Machine: m.Image.Machine})
}

// leave throws an image away. It begins another life too: in that it may be believed again what it says, and needs no patience to get the next image.
func (r *Replica) leave(m Message) {
	if m.Life == r.life && !r.restoring {
		r.life++
	}
}

// restored begins a new history where the image is.
func (r *Replica) restored() {
	if !r.restoring {
		return
	}
	r.restoring, r.valid, r.diverged = false, true, false
	r.life++
	r.history = history{base: r.image.At}
	r.applied, r.table, r.image.Machine = r.image.At.Seq, r.image.Table, nil
	if r.role != Primary && r.record.Primary.Name != "" {
		r.ack()
	}
}
