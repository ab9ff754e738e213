package wire

import (
	"encoding/binary"

	"github.com/godwit-project/godwit/dvs/endpoint"
)

// AppendRequest encodes a request.
func AppendRequest(b []byte, r endpoint.Request) []byte {
	start := len(b)
	b = append(begin(b, KindRequest), byte(r.Kind), flags(r.NoWait, r.Repeat))
	b = str(u64(b, uint64(r.To), r.Caller, r.Seq, r.Line), r.From)
	return end(append(b, r.Payload...), start)
}

// ParseRequest decodes a request. The payload shares memory with the body.
func ParseRequest(body []byte) (endpoint.Request, error) {
	f := fields{b: body}
	r := endpoint.Request{Kind: endpoint.Kind(f.u8())}
	bits := f.u8()
	r.NoWait, r.Repeat = bits&1 != 0, bits&2 != 0
	r.To, r.Caller, r.Seq, r.Line = endpoint.ID(f.u64()), f.u64(), f.u64(), f.u64()
	r.From = f.str(MaxName)
	r.Payload = f.rest(MaxPayload)
	f.bad = f.bad || !r.Kind.Valid() || r.Caller == 0 || r.Seq == 0
	return r, f.done(KindRequest)
}

// AppendReply encodes a reply.
func AppendReply(b []byte, r endpoint.Reply) []byte {
	start := len(b)
	b = u64(begin(b, KindReply), uint64(r.To), r.Caller, r.Seq)
	b = version(u16(b, uint16(r.Code)), r.Version)
	return end(append(b, r.Payload...), start)
}

// ReplyHead is the length of what AppendReplyHead appends.
const ReplyHead = lengthSize + 1 + 3*8 + 2 + 16

// AppendReplyHead encodes a reply without its payload, which has to follow.
func AppendReplyHead(b []byte, r endpoint.Reply) []byte {
	start, payload := len(b), len(r.Payload)
	r.Payload = nil
	b = AppendReply(b, r)
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-lengthSize+payload))
	return b
}

// ParseReply decodes a reply. The payload shares memory with the body.
func ParseReply(body []byte) (endpoint.Reply, error) {
	f := fields{b: body}
	r := endpoint.Reply{To: endpoint.ID(f.u64()), Caller: f.u64(), Seq: f.u64(), Code: endpoint.Code(f.u16())}
	r.Version = f.version()
	r.Payload = f.rest(MaxPayload)
	return r, f.done(KindReply)
}

// Inquiry is a Probe or a Cancel.
type Inquiry struct {
	To          endpoint.ID
	Caller, Seq uint64
}

// Append encodes the inquiry as a frame of that kind.
func (q Inquiry) Append(b []byte, k Kind) []byte {
	start := len(b)
	return end(u64(begin(b, k), uint64(q.To), q.Caller, q.Seq), start)
}

// ParseInquiry decodes a Probe or a Cancel.
func ParseInquiry(body []byte) (Inquiry, error) {
	f := fields{b: body}
	q := Inquiry{To: endpoint.ID(f.u64()), Caller: f.u64(), Seq: f.u64()}
	return q, f.done(KindProbe)
}

// Range is the payload of a copy: a part of a registered buffer, and what to write there.
type Range struct {
	Buffer string
	Offset uint64
	Length uint32
	Area   bool // the data pass through the area of the introduction
	Data   []byte
}

// Append encodes the payload: str buffer, u64 offset, u32 length, u8 flags (1 area), data.
func (m Range) Append(b []byte) []byte {
	return append(append(u32(u64(str(b, m.Buffer), m.Offset), m.Length), flags(m.Area)), m.Data...)
}

// ParseRange decodes the payload of a copy. The data shares memory with it.
func ParseRange(payload []byte) (Range, error) {
	f := fields{b: payload}
	m := Range{Buffer: f.str(MaxName), Offset: f.u64(), Length: f.u32(), Area: f.flag()}
	m.Data = f.rest(MaxPayload)
	return m, f.done(KindRequest)
}
