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

// Packet carries one frame over a link, numbered from 1 in each incarnation.
type Packet struct {
	Number uint64
	Frame  Frame
}

// Append encodes the frame.
func (m Packet) Append(b []byte) []byte {
	start := len(b)
	b = append(u64(begin(b, KindPacket), m.Number), byte(m.Frame.Kind))
	return end(append(b, m.Frame.Body...), start)
}

// ParsePacket decodes a Packet. The frame shares memory with the body.
func ParsePacket(body []byte) (Packet, error) {
	f := fields{b: body}
	m := Packet{Number: f.u64()}
	m.Frame.Kind = Kind(f.u8())
	m.Frame.Body = f.rest(MaxFrame)
	return m, f.done(KindPacket)
}

// Forward carries a frame of one container.
type Forward struct {
	Container string
	Frame     Frame
}

// Body encodes the body: it travels in a Packet.
func (m Forward) Body() []byte {
	b := make([]byte, 0, len(m.Container)+len(m.Frame.Body)+3)
	b = append(str(b, m.Container), byte(m.Frame.Kind))
	return append(b, m.Frame.Body...)
}

// ParseForward decodes the body of a Forward or a State. The frame shares memory with it.
func ParseForward(body []byte) (Forward, error) {
	f := fields{b: body}
	m := Forward{Container: f.str(MaxName)}
	m.Frame.Kind = Kind(f.u8())
	m.Frame.Body = f.rest(MaxFrame)
	return m, f.done(KindForward)
}

// Announce tells another node of an endpoint.
type Announce struct {
	Container, Name string
	Version         endpoint.Version
	Line            uint64
	State           endpoint.RouteState
}

// Body encodes the body: it travels in a Packet.
func (m Announce) Body() []byte {
	return append(u64(version(str(str(nil, m.Container), m.Name), m.Version), m.Line), byte(m.State))
}

// ParseAnnounce decodes the body of an Announce.
func ParseAnnounce(body []byte) (Announce, error) {
	f := fields{b: body}
	m := Announce{Container: f.str(MaxName), Name: f.str(MaxName)}
	m.Version, m.Line, m.State = f.version(), f.u64(), endpoint.RouteState(f.u8())
	f.bad = f.bad || !m.State.Valid()
	return m, f.done(KindAnnounce)
}
