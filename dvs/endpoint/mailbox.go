package endpoint

import (
	"errors"
	"slices"
)

// ErrNotDrained is returned by Snapshot while a request is being worked on.
var ErrNotDrained = errors.New("a request is being worked on")

// Status is a mailbox's state.
//
//	Standby ──Restore+Activate──▶ Active ──Hold──▶ Holding ──Leave──▶ Left
//	                                ◀────Resume────
type Status uint8

// The states of a mailbox.
const (
	Standby Status = 1 // waits for a state to take over
	Active  Status = 2
	Holding Status = 3 // nothing comes in, nothing is taken
	Left    Status = 4 // another has taken over
)

// Outcome is what a mailbox made of a request.
type Outcome uint8

// The outcomes of Offer and Probe.
const (
	Queued  Outcome = 1 // something can be taken now
	Ignored Outcome = 2 // known already, or older than known
	Answer  Outcome = 3 // send the reply that comes with it
	Bounce  Outcome = 4 // a notification that has to find another way
)

// stage of the latest request of one caller.
type stage uint8

const (
	waiting stage = 1
	taken   stage = 2
	done    stage = 3
)

type entry struct {
	seq   uint64
	stage stage
	reads bool  // a copy from here: its data are not kept, for it can be made again
	reply Reply // of code Unknown if it was not kept
}

// Note is a pending notification.
type Note struct {
	From   string
	Caller uint64
	Seq    uint64
}

type key struct{ caller, seq uint64 }

// Mailbox holds what has arrived at one endpoint, and remembers what was answered. It is not safe for concurrent use.
type Mailbox struct {
	id      ID
	version Version
	line    uint64
	status  Status
	limit   int       // of the queue; 0 is none
	shared  bool      // a Send is answered like a SendRec
	queue   []Request // SendRec and Send, in order of arrival
	copies  []Request
	notes   []Note
	noted   map[uint64]uint64 // by caller: the highest notification seen
	table   map[uint64]*entry // by caller: its latest request
	taken   map[key]struct{}  // handed to the program and not replied
}

// NewMailbox returns an active mailbox, which begins a line, or a standby.
func NewMailbox(id ID, version Version, status Status) *Mailbox {
	return &Mailbox{
		id: id, version: version, line: version.Epoch, status: status,
		noted: map[uint64]uint64{}, table: map[uint64]*entry{}, taken: map[key]struct{}{},
	}
}

// Limit bounds how many requests wait to be taken; 0 is no bound. What is there already stays.
func (m *Mailbox) Limit(most int) { m.limit = most }

// Share makes it the mailbox of an endpoint whose state is with several: it takes the version and the line that they have agreed upon, and
// answers a Send not when it is taken but by Reply, when all have its effect.
func (m *Mailbox) Share(v Version, line uint64) { m.shared, m.version, m.line = true, v, line }

// Early tells whether a request is for a line that the mailbox has not heard of yet: its owner is about to be told. The request has to wait
// until then.
func (m *Mailbox) Early(r Request) bool {
	return m.status == Active && !m.shared && r.Kind != Notify && r.Line > m.line
}

// Version returns the mailbox's own version.
func (m *Mailbox) Version() Version { return m.version }

// Line returns the line of the state that the mailbox is part of.
func (m *Mailbox) Line() uint64 { return m.line }

// Status returns the mailbox's state.
func (m *Mailbox) Status() Status { return m.status }

// Drained tells whether no request is being worked on.
func (m *Mailbox) Drained() bool { return len(m.taken) == 0 }

// Len returns how many messages wait to be taken.
func (m *Mailbox) Len() int { return len(m.queue) + len(m.notes) }

// Next returns the caller of the request that has waited longest.
func (m *Mailbox) Next() (caller uint64, ok bool) {
	if len(m.queue) == 0 {
		return 0, false
	}
	return m.queue[0].Caller, true
}

// Offer takes in a request. idle tells whether the program is waiting for one: that is what NoWait asks for.
func (m *Mailbox) Offer(r Request, idle bool) (Outcome, Reply) {
	if r.Kind == Notify {
		return m.notify(r), Reply{}
	}
	e := m.table[r.Caller]
	if e != nil && r.Seq <= e.seq && !m.rereads(e, r) {
		return m.known(e, r)
	}
	if m.status != Active {
		return Answer, m.reply(r, Held)
	}
	if r.Line != m.line {
		return Answer, m.reply(r, OtherLine)
	}
	if e != nil && e.stage == waiting { // the caller has given the former one up
		m.remove(r.Caller)
	}
	if r.NoWait && !idle { // remembered, so that a repetition is not taken after all
		return Answer, m.refuse(r, Again)
	}
	if m.limit > 0 && !r.Kind.Copies() && len(m.queue) >= m.limit {
		return Answer, m.refuse(r, Overrun)
	}
	m.table[r.Caller] = &entry{seq: r.Seq, stage: waiting}
	if r.Kind.Copies() {
		m.copies = append(m.copies, r)
	} else {
		m.queue = append(m.queue, r)
	}
	return Queued, Reply{}
}

// Probe answers a caller that has waited long: from the table if there is an answer, with Unknown if the request never
// came.
func (m *Mailbox) Probe(caller, seq uint64) (Outcome, Reply) {
	if e := m.table[caller]; e != nil && seq <= e.seq {
		return m.known(e, Request{Caller: caller, Seq: seq})
	}
	code := Unknown
	if m.status != Active {
		code = Held
	}
	return Answer, m.reply(Request{Caller: caller, Seq: seq}, code)
}

// Take hands the program the next message: a notification if notes are wanted and there are any, else the first of the
// queue that fits. from is the name of the only sender wanted, or nil. A Send is answered by being taken: then a reply comes with it.
func (m *Mailbox) Take(from *string, requestsOnly bool) (r Request, receipt *Reply, ok bool) {
	if m.status != Active {
		return Request{}, nil, false
	}
	if !requestsOnly {
		for i, n := range m.notes {
			if from == nil || *from == n.From {
				m.notes = slices.Delete(m.notes, i, i+1)
				return Request{Kind: Notify, From: n.From, To: m.id, Caller: n.Caller, Seq: n.Seq}, nil, true
			}
		}
	}
	for i, q := range m.queue {
		if (from != nil && *from != q.From) || (requestsOnly && q.Kind != SendRec) {
			continue
		}
		m.queue = slices.Delete(m.queue, i, i+1)
		e := m.table[q.Caller]
		if q.Kind == Send && !m.shared {
			*e = entry{seq: q.Seq, stage: done, reply: m.reply(q, OK)}
			return q, &e.reply, true
		}
		e.stage = taken
		m.taken[key{q.Caller, q.Seq}] = struct{}{}
		return q, nil, true
	}
	return Request{}, nil, false
}

// TakeCopy hands the library the next copy. It must be answered with Reply before anything else is done.
func (m *Mailbox) TakeCopy() (Request, bool) {
	if m.status != Active || len(m.copies) == 0 {
		return Request{}, false
	}
	r := m.copies[0]
	m.copies = slices.Delete(m.copies, 0, 1)
	e := m.table[r.Caller]
	e.stage, e.reads = taken, r.Kind == CopyRead
	m.taken[key{r.Caller, r.Seq}] = struct{}{}
	return r, true
}

// Reply records the answer to a request that was taken, and returns it to be sent. It reports false when the caller
// does not wait for it (any more): there is nothing to send then.
func (m *Mailbox) Reply(caller, seq uint64, code Code, payload []byte) (Reply, bool) {
	k := key{caller, seq}
	if _, ok := m.taken[k]; !ok || m.status == Left || m.status == Standby {
		return Reply{}, false
	}
	delete(m.taken, k)
	e := m.table[caller]
	if e == nil || e.seq != seq || e.stage != taken {
		return Reply{}, false
	}
	reply := Reply{Caller: caller, Seq: seq, To: m.id, Code: code, Payload: payload}
	e.stage, e.reply = done, reply
	if e.reads && code == OK {
		e.reply.Code, e.reply.Payload = Unknown, nil
	}
	return reply, true
}

// Drop forgets a request that was taken, without an answer: the caller sends it again, here or elsewhere. Only whoever has a table of its
// own of what was executed may do that.
func (m *Mailbox) Drop(caller, seq uint64) {
	delete(m.taken, key{caller, seq})
	if e := m.table[caller]; e != nil && e.seq == seq && e.stage == taken {
		delete(m.table, caller)
	}
}

// Cancel forgets a request that its caller has given up, unless the program has it already.
func (m *Mailbox) Cancel(caller, seq uint64) {
	if e := m.table[caller]; e != nil && e.seq == seq && e.stage == waiting && m.status == Active {
		m.remove(caller)
		*e = entry{seq: seq, stage: done, reply: Reply{Caller: caller, Seq: seq, To: m.id, Code: Again}}
	}
}

// Gone forgets a caller that has ended: it will never ask again.
func (m *Mailbox) Gone(caller uint64) {
	m.remove(caller)
	delete(m.table, caller)
	delete(m.noted, caller)
}

// Renew gives a fresh mailbox its version, which begins a line.
func (m *Mailbox) Renew(v Version) {
	if m.status == Active && !m.shared {
		m.version, m.line = v, v.Epoch
	}
}

// Hold closes the mailbox for a migration. Holding again is nothing.
func (m *Mailbox) Hold(v Version) {
	if m.status == Active || m.status == Holding {
		m.status, m.version = Holding, v
	}
}

// Resume opens a held mailbox again, because the migration was aborted.
func (m *Mailbox) Resume(v Version) {
	if m.status == Holding || m.status == Active {
		m.status, m.version = Active, v
	}
}

// Leave closes a held mailbox for good: another owner has epoch.
func (m *Mailbox) Leave() {
	m.status = Left
	m.queue, m.copies, m.notes = nil, nil, nil
}

// Activate opens a standby that has been given a state, with the epoch that was committed.
func (m *Mailbox) Activate(v Version) {
	if m.status == Standby {
		m.status, m.version = Active, v
	}
}

func (m *Mailbox) notify(r Request) Outcome {
	if m.status != Active {
		return Bounce
	}
	if r.Seq <= m.noted[r.Caller] {
		return Ignored
	}
	m.noted[r.Caller] = r.Seq
	for i, n := range m.notes {
		if n.Caller == r.Caller {
			m.notes[i].Seq = r.Seq
			return Ignored
		}
	}
	m.notes = append(m.notes, Note{From: r.From, Caller: r.Caller, Seq: r.Seq})
	return Queued
}

func (m *Mailbox) known(e *entry, r Request) (Outcome, Reply) {
	switch {
	case r.Seq == e.seq && e.stage == done && e.reply.Code != Unknown:
		return Answer, e.reply
	case r.Seq == e.seq && m.status != Active:
		return Answer, m.reply(r, Held)
	case r.Seq == e.seq && e.stage == done:
		return Answer, m.reply(r, Unknown)
	default:
		return Ignored, Reply{}
	}
}

// rereads tells whether the request is a copy from here that has been made, but has to be made again.
func (m *Mailbox) rereads(e *entry, r Request) bool {
	return r.Kind == CopyRead && r.Seq == e.seq && e.stage == done && e.reply.Code == Unknown && m.status == Active
}

// refuse remembers that a request was not executed, and never will be.
func (m *Mailbox) refuse(r Request, code Code) Reply {
	reply := m.reply(r, code)
	m.table[r.Caller] = &entry{seq: r.Seq, stage: done, reply: reply}
	return reply
}

func (m *Mailbox) reply(r Request, code Code) Reply {
	return Reply{Caller: r.Caller, Seq: r.Seq, To: m.id, Code: code, Version: m.version}
}

func (m *Mailbox) remove(caller uint64) {
	other := func(r Request) bool { return r.Caller == caller }
	m.queue = slices.DeleteFunc(m.queue, other)
	m.copies = slices.DeleteFunc(m.copies, other)
}
