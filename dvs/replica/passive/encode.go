package passive

import (
	"fmt"

	"github.com/godwit-project/godwit/dvs/replica/coding"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

// Append encodes the message.
func (m *Message) Append(b []byte) []byte {
	w := coding.Writer{B: append(b, byte(m.Kind))}
	m.From.Encode(&w)
	m.Record.Encode(&w)
	switch m.Kind {
	case Ship:
		m.Prev.Encode(&w)
		w.Uint(m.Committed, uint64(len(m.Updates)))
		for i := range m.Updates {
			m.Updates[i].Encode(&w)
		}
	case Ping, Ack:
		w.Bool(m.OK)
		w.Bool(m.Valid)
		m.Last.Encode(&w)
		m.Applied.Encode(&w)
		w.Uint(m.Life)
	case Image:
		w.Uint(m.Committed, m.Life)
		m.Image.Encode(&w)
	}
	return w.B
}

// Parse decodes what Append wrote. The message shares memory with b. What does not fit together, as a replica would never send it, is refused too.
func Parse(b []byte) (Message, error) {
	if len(b) == 0 || !MessageKind(b[0]).Valid() {
		return Message{}, fmt.Errorf("%w: unknown kind of message", state.ErrEncoding)
	}
	r := coding.Reader{B: b[1:]}
	m := Message{Kind: MessageKind(b[0]), From: state.DecodeMember(&r), Record: state.DecodeRecord(&r)}
	switch m.Kind {
	case Ship:
		m.Prev = state.DecodePosition(&r)
		m.Committed = r.Uint()
		seq := m.Prev.Seq
		for range r.Count() {
			u := state.DecodeUpdate(&r)
			if seq++; u.At.Seq != seq {
				r.Bad = true
			}
			if r.Bad {
				break
			}
			m.Updates = append(m.Updates, u)
		}
	case Ping, Ack:
		m.OK, m.Valid = r.Bool(), r.Bool()
		m.Last, m.Applied = state.DecodePosition(&r), state.DecodePosition(&r)
		m.Life = r.Uint()
	case Image:
		m.Committed, m.Life = r.Uint(), r.Uint()
		m.Image = state.DecodeImage(&r)
	}
	if !r.Done() {
		return Message{}, state.ErrEncoding
	}
	return m, nil
}
