package wire

import "github.com/godwit-project/godwit/dvs/endpoint"

// Orders is what a node tells a process in a migration. The values never change.
type Orders uint8

// The orders.
const (
	OrderHold     Orders = 1  // finish the request in work, then send the state
	OrderResume   Orders = 2  // the migration was aborted
	OrderStage    Orders = 3  // the state is complete: restore it, do not run
	OrderActivate Orders = 4  // you are the owner
	OrderDiscard  Orders = 5  // forget the state
	OrderLeave    Orders = 6  // another is the owner
	OrderPrepare  Orders = 7  // can you move, or take over?
	OrderVersion  Orders = 8  // your version has changed, nothing else
	OrderBegin    Orders = 9  // give the whole state in pieces, and run on
	OrderRound    Orders = 10 // give what has changed since the last pieces, and run on
)

// Order is one order, of one epoch.
type Order struct {
	Endpoint endpoint.ID
	Epoch    uint64
	Order    Orders
	Version  endpoint.Version // that the mailbox has from now on
}

// Append encodes the frame.
func (m Order) Append(b []byte) []byte {
	start := len(b)
	return end(version(append(u64(begin(b, KindOrder), uint64(m.Endpoint), m.Epoch), byte(m.Order)), m.Version), start)
}

// ParseOrder decodes an Order.
func ParseOrder(body []byte) (Order, error) {
	f := fields{b: body}
	m := Order{Endpoint: endpoint.ID(f.u64()), Epoch: f.u64(), Order: Orders(f.u8()), Version: f.version()}
	return m, f.done(KindOrder)
}

// Done answers an order, from a process to its node, and a staged state, from node to node.
type Done struct {
	Order
	Code endpoint.Code
	Text string
}

// Append encodes the frame.
func (m Done) Append(b []byte) []byte {
	start := len(b)
	b = append(u64(begin(b, KindDone), uint64(m.Endpoint), m.Epoch), byte(m.Order.Order))
	b = version(u16(b, uint16(m.Code)), m.Version)
	return end(append(b, m.Text[:min(len(m.Text), maxText)]...), start)
}

// ParseDone decodes a Done.
func ParseDone(body []byte) (Done, error) {
	f := fields{b: body}
	var m Done
	m.Order = Order{Endpoint: endpoint.ID(f.u64()), Epoch: f.u64(), Order: Orders(f.u8())}
	m.Code = endpoint.Code(f.u16())
	m.Version = f.version()
	m.Text = string(f.rest(maxText))
	return m, f.done(KindDone)
}

// Chunk is a piece of a moving endpoint's state. The pieces come in order.
type Chunk struct {
	Endpoint      endpoint.ID
	Epoch         uint64
	Offset, Total uint64
	Data          []byte
}

// MaxChunk is the longest piece of a state.
const MaxChunk = 256 << 10

// MaxState bounds the state of an endpoint that moves.
const MaxState = 4 << 30

// Append encodes the frame.
func (m Chunk) Append(b []byte) []byte {
	start := len(b)
	b = u64(begin(b, KindChunk), uint64(m.Endpoint), m.Epoch, m.Offset, m.Total)
	return end(append(b, m.Data...), start)
}

// ParseChunk decodes a Chunk. The data shares memory with the body.
func ParseChunk(body []byte) (Chunk, error) {
	f := fields{b: body}
	m := Chunk{Endpoint: endpoint.ID(f.u64()), Epoch: f.u64(), Offset: f.u64(), Total: f.u64()}
	m.Data = f.rest(MaxChunk)
	f.bad = f.bad || m.Total > MaxState || m.Offset > m.Total || uint64(len(m.Data)) > m.Total-m.Offset
	return m, f.done(KindChunk)
}

// Piece is a part of a state that moves while its program runs. The first of an attempt makes those before worthless.
type Piece struct {
	Endpoint endpoint.ID
	Epoch    uint64
	Number   uint64 // counts on from attempt to attempt
	First    bool
	Data     []byte
}

// Append encodes the frame.
func (m Piece) Append(b []byte) []byte {
	start := len(b)
	b = append(u64(begin(b, KindPiece), uint64(m.Endpoint), m.Epoch, m.Number), flags(m.First))
	return end(append(b, m.Data...), start)
}

// ParsePiece decodes a Piece. The data shares memory with the body.
func ParsePiece(body []byte) (Piece, error) {
	f := fields{b: body}
	m := Piece{Endpoint: endpoint.ID(f.u64()), Epoch: f.u64(), Number: f.u64(), First: f.u8()&1 != 0}
	m.Data = f.rest(MaxChunk)
	f.bad = f.bad || m.Number == 0
	return m, f.done(KindPiece)
}

// Credit says that pieces up to a number have been applied, or why that one was not. Number 0 with a code is for whatever is on its way.
type Credit struct {
	Endpoint endpoint.ID
	Epoch    uint64
	Number   uint64
	Code     endpoint.Code
	Text     string
}

// Append encodes the frame.
func (m Credit) Append(b []byte) []byte {
	start := len(b)
	b = u16(u64(begin(b, KindCredit), uint64(m.Endpoint), m.Epoch, m.Number), uint16(m.Code))
	return end(append(b, m.Text[:min(len(m.Text), maxText)]...), start)
}

// ParseCredit decodes a Credit.
func ParseCredit(body []byte) (Credit, error) {
	f := fields{b: body}
	m := Credit{Endpoint: endpoint.ID(f.u64()), Epoch: f.u64(), Number: f.u64(), Code: endpoint.Code(f.u16())}
	m.Text = string(f.rest(maxText))
	return m, f.done(KindCredit)
}
