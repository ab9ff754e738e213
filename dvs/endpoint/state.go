package endpoint

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ErrState is returned for bytes that are no State.
var ErrState = errors.New("damaged endpoint state")

// formatState is the first byte of an encoded State.
const formatState = 2

// Past is what the table knows of one caller.
type Past struct {
	Caller, Seq uint64
	Done        bool // else it is in the queue
	Reply       Reply
}

// State is everything that moves with an endpoint. Its encoding is deterministic.
type State struct {
	ID      ID
	Line    uint64
	Queue   []Request
	Copies  []Request
	Notes   []Note
	Noted   []Note // From is empty: the highest notification seen of each caller
	Table   []Past
	Caller  CallerState
	Pieces  uint64 // number of the last piece of the program's own state, if it moves in pieces
	Process []byte // the program's own bytes, if it does not
}

// Snapshot returns the state of a held and drained mailbox.
func (m *Mailbox) Snapshot() (State, error) {
	if m.status != Holding {
		return State{}, errors.New("the endpoint is not held")
	}
	if !m.Drained() {
		return State{}, ErrNotDrained
	}
	s := State{ID: m.id, Line: m.line, Queue: slices.Clone(m.queue), Copies: slices.Clone(m.copies), Notes: slices.Clone(m.notes)}
	for c, seq := range m.noted {
		s.Noted = append(s.Noted, Note{Caller: c, Seq: seq})
	}
	for c, e := range m.table {
		if e.stage == taken { // its caller has gone on, and the program has replied to nobody
			continue
		}
		s.Table = append(s.Table, Past{Caller: c, Seq: e.seq, Done: e.stage == done, Reply: e.reply})
	}
	slices.SortFunc(s.Noted, func(a, b Note) int { return cmp.Compare(a.Caller, b.Caller) })
	slices.SortFunc(s.Table, func(a, b Past) int { return cmp.Compare(a.Caller, b.Caller) })
	return s, nil
}

// Restore gives a standby the state of the endpoint that it will take over. It may be given another one later.
func (m *Mailbox) Restore(s State) error {
	if m.status != Standby {
		return errors.New("only a standby can be given a state")
	}
	if s.ID != m.id {
		return fmt.Errorf("the state is endpoint %x's, this is %x", s.ID, m.id)
	}
	fresh := NewMailbox(m.id, m.version, Standby)
	fresh.line, fresh.limit = s.Line, m.limit
	fresh.queue, fresh.copies, fresh.notes = slices.Clone(s.Queue), slices.Clone(s.Copies), slices.Clone(s.Notes)
	for _, n := range s.Noted {
		fresh.noted[n.Caller] = n.Seq
	}
	for _, p := range s.Table {
		e := &entry{seq: p.Seq, stage: waiting, reply: p.Reply}
		if p.Done {
			e.stage = done
		}
		fresh.table[p.Caller] = e
	}
	for _, r := range slices.Concat(s.Queue, s.Copies) {
		if e := fresh.table[r.Caller]; e == nil || e.seq != r.Seq || e.stage != waiting {
			return fmt.Errorf("%w: queue and table differ", ErrState)
		}
	}
	*m = *fresh
	return nil
}

// Append encodes the state.
func (s State) Append(b []byte) []byte {
	b = append(b, formatState)
	b = appendUints(b, uint64(s.ID), s.Line)
	for _, list := range [][]Request{s.Queue, s.Copies} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, r := range list {
			b = append(b, byte(r.Kind))
			b = appendUints(b, r.Caller, r.Seq)
			b = appendBytes(appendBytes(b, []byte(r.From)), r.Payload)
		}
	}
	for _, list := range [][]Note{s.Notes, s.Noted} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, n := range list {
			b = appendBytes(appendUints(b, n.Caller, n.Seq), []byte(n.From))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(s.Table)))
	for _, p := range s.Table {
		isDone := byte(0)
		if p.Done {
			isDone = 1
		}
		b = append(appendUints(b, p.Caller, p.Seq), isDone)
		b = binary.LittleEndian.AppendUint16(b, uint16(p.Reply.Code))
		b = appendBytes(b, p.Reply.Payload)
	}
	b = appendUints(b, s.Caller.ID, s.Caller.Seq, s.Caller.NoteSeq, s.Pieces)
	return appendBytes(b, s.Process)
}

// ParseState decodes what Append wrote. The result shares memory with b.
func ParseState(b []byte) (State, error) {
	d := decoder{b: b}
	if d.byte() != formatState {
		return State{}, fmt.Errorf("%w: unknown format", ErrState)
	}
	s := State{ID: ID(d.uint()), Line: d.uint()}
	for _, list := range []*[]Request{&s.Queue, &s.Copies} {
		for range d.count() {
			r := Request{Kind: Kind(d.byte()), To: s.ID, Line: s.Line, Caller: d.uint(), Seq: d.uint()}
			r.From, r.Payload = string(d.bytes()), d.bytes()
			if !r.Kind.Valid() {
				d.bad = true
			}
			if d.bad {
				break
			}
			*list = append(*list, r)
		}
	}
	for _, list := range []*[]Note{&s.Notes, &s.Noted} {
		for range d.count() {
			n := Note{Caller: d.uint(), Seq: d.uint()}
			n.From = string(d.bytes())
			if d.bad {
				break
			}
			*list = append(*list, n)
		}
	}
	for range d.count() {
		p := Past{Caller: d.uint(), Seq: d.uint(), Done: d.byte() == 1}
		p.Reply = Reply{Caller: p.Caller, Seq: p.Seq, To: s.ID, Code: Code(d.uint16()), Payload: d.bytes()}
		if d.bad {
			break
		}
		s.Table = append(s.Table, p)
	}
	s.Caller = CallerState{ID: d.uint(), Seq: d.uint(), NoteSeq: d.uint()}
	s.Pieces = d.uint()
	s.Process = d.bytes()
	if d.bad || len(d.b) != 0 {
		return State{}, ErrState
	}
	return s, nil
}

func appendUints(b []byte, v ...uint64) []byte {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

func appendBytes(b, p []byte) []byte { return append(binary.AppendUvarint(b, uint64(len(p))), p...) }

// decoder reads fields until something does not fit; then bad stays true and every field is zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) byte() byte {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if p := d.take(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (d *decoder) uint() uint64 {
	if p := d.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// count reads the length of a list: never more than there are bytes left, so that a lie costs nothing.
func (d *decoder) count() uint64 {
	n, size := binary.Uvarint(d.b)
	if d.bad || size <= 0 || n > uint64(len(d.b)) {
		d.bad = true
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) bytes() []byte { return d.take(d.count()) }
