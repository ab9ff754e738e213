package wire

import "github.com/godwit-project/godwit/dvs/endpoint"

// Hello opens a session.
type Hello struct {
	Version   uint16
	Direct    bool // the program can be introduced to others
	Caller    uint64
	Container string
	Program   string // for people
}

// Append encodes the frame.
func (m Hello) Append(b []byte) []byte {
	start := len(b)
	b = append(u16(begin(b, KindHello), m.Version), flags(m.Direct))
	return end(str(str(u64(b, m.Caller), m.Container), m.Program), start)
}

// ParseHello decodes a Hello.
func ParseHello(body []byte) (Hello, error) {
	f := fields{b: body}
	m := Hello{Version: f.u16(), Direct: f.u8()&1 != 0, Caller: f.u64()}
	m.Container, m.Program = f.str(MaxName), f.str(MaxName)
	return m, f.done(KindHello)
}

// Welcome accepts a session.
type Welcome struct {
	Version    uint16
	MaxPayload uint32
	Node       string
}

// Append encodes the frame.
func (m Welcome) Append(b []byte) []byte {
	start := len(b)
	return end(str(u32(u16(begin(b, KindWelcome), m.Version), m.MaxPayload), m.Node), start)
}

// ParseWelcome decodes a Welcome.
func ParseWelcome(body []byte) (Welcome, error) {
	f := fields{b: body}
	m := Welcome{Version: f.u16(), MaxPayload: f.u32(), Node: f.str(MaxName)}
	return m, f.done(KindWelcome)
}

// Bind asks for a name.
type Bind struct {
	Call             uint32
	Standby, Movable bool
	Name             string
	// Replicated takes an epoch and a line that others have agreed upon.
	Replicated  bool
	Epoch, Line uint64
	// Again binds what was bound before the node ended: with the epoch, serial and line that it had, held if it was being moved.
	Again, Held bool
	Serial      uint64
}

// Append encodes the frame.
func (m Bind) Append(b []byte) []byte {
	start := len(b)
	b = str(append(u32(begin(b, KindBind), m.Call), flags(m.Standby, m.Movable, m.Replicated, m.Again, m.Held)), m.Name)
	if m.Replicated || m.Again {
		b = u64(b, m.Epoch, m.Line)
	}
	if m.Again {
		b = u64(b, m.Serial)
	}
	return end(b, start)
}

// ParseBind decodes a Bind.
func ParseBind(body []byte) (Bind, error) {
	f := fields{b: body}
	m := Bind{Call: f.u32()}
	bits := f.u8()
	m.Standby, m.Movable, m.Replicated, m.Name = bits&1 != 0, bits&2 != 0, bits&4 != 0, f.str(MaxName)
	m.Again, m.Held = bits&8 != 0, bits&16 != 0
	if m.Replicated || m.Again {
		m.Epoch, m.Line = f.u64(), f.u64()
	}
	if m.Again {
		m.Serial = f.u64()
	}
	return m, f.done(KindBind)
}

// Unbind gives a name back.
type Unbind struct {
	Call     uint32
	Endpoint endpoint.ID
}

// Append encodes the frame.
func (m Unbind) Append(b []byte) []byte {
	start := len(b)
	return end(u64(u32(begin(b, KindUnbind), m.Call), uint64(m.Endpoint)), start)
}

// ParseUnbind decodes an Unbind.
func ParseUnbind(body []byte) (Unbind, error) {
	f := fields{b: body}
	m := Unbind{Call: f.u32(), Endpoint: endpoint.ID(f.u64())}
	return m, f.done(KindUnbind)
}

// Answer ends a call; call 0 is the Hello.
type Answer struct {
	Call    uint32
	Code    endpoint.Code
	Version endpoint.Version
	Text    string
}

// Append encodes the frame.
func (m Answer) Append(b []byte) []byte {
	start := len(b)
	b = version(u16(u32(begin(b, KindAnswer), m.Call), uint16(m.Code)), m.Version)
	return end(append(b, m.Text...), start)
}

// ParseAnswer decodes an Answer.
func ParseAnswer(body []byte) (Answer, error) {
	f := fields{b: body}
	m := Answer{Call: f.u32(), Code: endpoint.Code(f.u16()), Version: f.version()}
	m.Text = string(f.rest(maxText))
	return m, f.done(KindAnswer)
}

// maxText bounds a text for people.
const maxText = 4096

// Watch asks for the routes of an endpoint.
type Watch struct{ Name string }

// Append encodes the frame.
func (m Watch) Append(b []byte) []byte {
	start := len(b)
	return end(str(begin(b, KindWatch), m.Name), start)
}

// ParseWatch decodes a Watch.
func ParseWatch(body []byte) (Watch, error) {
	f := fields{b: body}
	m := Watch{Name: f.str(MaxName)}
	return m, f.done(KindWatch)
}

// Route tells a session where an endpoint is.
type Route struct {
	Endpoint endpoint.ID
	Version  endpoint.Version
	Line     uint64 // to be put into requests
	State    endpoint.RouteState
	Channel  uint32 // 0: through the node
}

// Append encodes the frame.
func (m Route) Append(b []byte) []byte {
	start := len(b)
	b = append(u64(version(u64(begin(b, KindRoute), uint64(m.Endpoint)), m.Version), m.Line), byte(m.State))
	return end(u32(b, m.Channel), start)
}

// ParseRoute decodes a Route.
func ParseRoute(body []byte) (Route, error) {
	f := fields{b: body}
	m := Route{Endpoint: endpoint.ID(f.u64()), Version: f.version(), Line: f.u64(), State: endpoint.RouteState(f.u8()), Channel: f.u32()}
	f.bad = f.bad || !m.State.Valid()
	return m, f.done(KindRoute)
}

// Introduce connects a session with a peer on the same machine. Three descriptors come with it.
type Introduce struct {
	Channel, PeerChannel uint32
	Side                 uint8 // 0 writes the first ring, 1 the second
	Peer                 uint64
}

// Append encodes the frame.
func (m Introduce) Append(b []byte) []byte {
	start := len(b)
	return end(u64(append(u32(u32(begin(b, KindIntroduce), m.Channel), m.PeerChannel), m.Side), m.Peer), start)
}

// ParseIntroduce decodes an Introduce.
func ParseIntroduce(body []byte) (Introduce, error) {
	f := fields{b: body}
	m := Introduce{Channel: f.u32(), PeerChannel: f.u32(), Side: f.u8(), Peer: f.u64()}
	f.bad = f.bad || m.Side > 1 || m.Channel >= MaxChannels || m.PeerChannel >= MaxChannels
	return m, f.done(KindIntroduce)
}

// MaxChannels bounds the introductions of one session.
const MaxChannels = 16384

// Revoke ends an introduction.
type Revoke struct{ Channel uint32 }

// Append encodes the frame.
func (m Revoke) Append(b []byte) []byte {
	start := len(b)
	return end(u32(begin(b, KindRevoke), m.Channel), start)
}

// ParseRevoke decodes a Revoke.
func ParseRevoke(body []byte) (Revoke, error) {
	f := fields{b: body}
	m := Revoke{Channel: f.u32()}
	return m, f.done(KindRevoke)
}

// Gone says that a caller has ended.
type Gone struct{ Caller uint64 }

// Append encodes the frame.
func (m Gone) Append(b []byte) []byte {
	start := len(b)
	return end(u64(begin(b, KindGone), m.Caller), start)
}

// ParseGone decodes a Gone.
func ParseGone(body []byte) (Gone, error) {
	f := fields{b: body}
	m := Gone{Caller: f.u64()}
	return m, f.done(KindGone)
}

// Caller says that the session makes the requests of a caller, on behalf of an endpoint of its own.
type Caller struct {
	Endpoint endpoint.ID
	Caller   uint64
}

// Append encodes the frame.
func (m Caller) Append(b []byte) []byte {
	start := len(b)
	return end(u64(begin(b, KindCaller), uint64(m.Endpoint), m.Caller), start)
}

// ParseCaller decodes a Caller.
func ParseCaller(body []byte) (Caller, error) {
	f := fields{b: body}
	m := Caller{Endpoint: endpoint.ID(f.u64()), Caller: f.u64()}
	return m, f.done(KindCaller)
}
