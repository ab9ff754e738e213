package wire

import "github.com/godwit-project/godwit/dvs/endpoint"

// LinkHello opens a connection between nodes; both sides send it first.
type LinkHello struct {
	Version         uint16
	Incarnation     uint64 // of the sender
	PeerIncarnation uint64 // of the receiver, as the sender knows it, or 0
	Received        uint64 // packets received of that incarnation
	Node            string
}

// Append encodes the frame.
func (m LinkHello) Append(b []byte) []byte {
	start := len(b)
	return end(str(u64(u16(begin(b, KindLinkHello), m.Version), m.Incarnation, m.PeerIncarnation, m.Received), m.Node), start)
}

// ParseLinkHello decodes a LinkHello.
func ParseLinkHello(body []byte) (LinkHello, error) {
	f := fields{b: body}
	m := LinkHello{Version: f.u16(), Incarnation: f.u64(), PeerIncarnation: f.u64(), Received: f.u64()}
	m.Node = f.str(MaxName)
	return m, f.done(KindLinkHello)
}

// LinkAck tells how many packets have arrived.
type LinkAck struct{ Received uint64 }

// Append encodes the frame.
func (m LinkAck) Append(b []byte) []byte {
	start := len(b)
	return end(u64(begin(b, KindLinkAck), m.Received), start)
}

// ParseLinkAck decodes a LinkAck.
func ParseLinkAck(body []byte) (LinkAck, error) {
	f := fields{b: body}
	m := LinkAck{Received: f.u64()}
	return m, f.done(KindLinkAck)
}

// LinkStart says what number the next packet has; those after it count on.
type LinkStart struct{ Number uint64 }

// Append encodes the frame.
func (m LinkStart) Append(b []byte) []byte {
	start := len(b)
	return end(u64(begin(b, KindLinkStart), m.Number), start)
}

// ParseLinkStart decodes a LinkStart.
func ParseLinkStart(body []byte) (LinkStart, error) {
	f := fields{b: body}
	m := LinkStart{Number: f.u64()}
	f.bad = f.bad || m.Number == 0
	return m, f.done(KindLinkStart)
}

// Pressed carries frames that were compressed together, in the block format of S2 (an extension of Snappy).
type Pressed struct {
	Size  uint32 // of the frames
	Block []byte
}

// MaxPressed bounds the frames in one Pressed, in bytes.
const MaxPressed = 1 << 20

// Append encodes the frame.
func (m Pressed) Append(b []byte) []byte {
	start := len(b)
	return end(append(u32(begin(b, KindPressed), m.Size), m.Block...), start)
}

// ParsePressed decodes a Pressed. The block shares memory with the body.
func ParsePressed(body []byte) (Pressed, error) {
	f := fields{b: body}
	m := Pressed{Size: f.u32()}
	m.Block = f.rest(MaxFrame)
	f.bad = f.bad || m.Size > MaxPressed
	return m, f.done(KindPressed)
}

// Forward carries a frame of one container: a message as a packet of kind Forward, a part of a move as one of kind State.
type Forward struct {
	Container string
	Frame     Encoded
}

// Append encodes the packet.
func (m Forward) Append(b []byte, k Kind) []byte {
	start := len(b)
	return end(append(str(begin(b, k), m.Container), m.Frame...), start)
}

// ParseForward decodes the body of a Forward or a State. The frame shares memory with it.
func ParseForward(body []byte) (Forward, error) {
	f := fields{b: body}
	m := Forward{Container: f.str(MaxName)}
	m.Frame = f.rest(MaxFrame)
	if !f.bad && Complete(m.Frame) != nil {
		f.bad, m.Frame = true, nil
	}
	return m, f.done(KindForward)
}

// Announce tells another node of an endpoint.
type Announce struct {
	Container, Name string
	Version         endpoint.Version
	Line            uint64
	State           endpoint.RouteState
	Replicated      bool // when its owner ends, another goes on with the same state
}

// Append encodes the packet.
func (m Announce) Append(b []byte) []byte {
	start := len(b)
	b = version(str(str(begin(b, KindAnnounce), m.Container), m.Name), m.Version)
	return end(append(u64(b, m.Line), byte(m.State), flags(m.Replicated)), start)
}

// ParseAnnounce decodes the body of an Announce.
func ParseAnnounce(body []byte) (Announce, error) {
	f := fields{b: body}
	m := Announce{Container: f.str(MaxName), Name: f.str(MaxName)}
	m.Version, m.Line, m.State = f.version(), f.u64(), endpoint.RouteState(f.u8())
	m.Replicated = f.u8()&1 != 0
	f.bad = f.bad || !m.State.Valid()
	return m, f.done(KindAnnounce)
}
