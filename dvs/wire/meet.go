package wire

import "github.com/godwit-project/godwit/dvs/endpoint"

// Sizes of what makes a stream of two programs theirs alone, in bytes.
const (
	TokenSize  = 16 // opens the connection
	SecretSize = 64 // two keys: one for what side 0 says, one for what side 1 says; zeros are none
)

// Stream gives a program a connection to a peer on another machine. One descriptor comes with it.
type Stream struct {
	Channel uint32
	Side    uint8
	Secret  [SecretSize]byte
}

// Append encodes the frame.
func (m Stream) Append(b []byte) []byte {
	start := len(b)
	return end(append(append(u32(begin(b, KindStream), m.Channel), m.Side), m.Secret[:]...), start)
}

// ParseStream decodes a Stream.
func ParseStream(body []byte) (Stream, error) {
	f := fields{b: body}
	m := Stream{Channel: f.u32(), Side: f.u8()}
	f.bad = f.bad || copy(m.Secret[:], f.rest(SecretSize)) != SecretSize || m.Side > 1 || m.Channel == 0 || m.Channel >= MaxChannels
	return m, f.done(KindStream)
}

// Meet asks another node for a stream between a program here and the owner of an endpoint there.
type Meet struct {
	Number    uint64 // of the answer
	Endpoint  endpoint.ID
	Container string
	Token     [TokenSize]byte
	Secret    [SecretSize]byte
}

// Append encodes the packet.
func (m Meet) Append(b []byte) []byte {
	start := len(b)
	b = str(u64(begin(b, KindMeet), m.Number, uint64(m.Endpoint)), m.Container)
	return end(append(append(b, m.Token[:]...), m.Secret[:]...), start)
}

// ParseMeet decodes the body of a Meet.
func ParseMeet(body []byte) (Meet, error) {
	f := fields{b: body}
	m := Meet{Number: f.u64(), Endpoint: endpoint.ID(f.u64()), Container: f.str(MaxName)}
	rest := f.rest(TokenSize + SecretSize)
	if f.bad = f.bad || len(rest) != TokenSize+SecretSize; !f.bad {
		copy(m.Token[:], rest)
		copy(m.Secret[:], rest[TokenSize:])
	}
	return m, f.done(KindMeet)
}

// Met answers a Meet with the address at which the token is expected; "" is no.
type Met struct {
	Number  uint64
	Address string
}

// Append encodes the packet.
func (m Met) Append(b []byte) []byte {
	start := len(b)
	return end(str(u64(begin(b, KindMet), m.Number), m.Address), start)
}

// ParseMet decodes the body of a Met.
func ParseMet(body []byte) (Met, error) {
	f := fields{b: body}
	m := Met{Number: f.u64(), Address: f.str(MaxName)}
	return m, f.done(KindMet)
}
