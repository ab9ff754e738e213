// Package endpoint is the pure core of the DVS: what an endpoint, its callers and the routes to it do, as values without
// I/O, clock or goroutine, so that a test can run thousands of schedules through them.
//
// The parts, and who holds them:
//
//   - Mailbox, in the process that owns the endpoint: queue, pending notifications, and the table of replies already
//     given, which is what makes a replayed request harmless.
//   - Caller, in the process that calls: one outstanding request, kept until it is answered.
//   - Route, in every node and every calling process: where an endpoint is, as far as is known.
//   - Fence, in a node for each endpoint that has moved: which commands of a migration are still worth anything.
//
// The rules, in the order in which they matter:
//
//  1. A request carries (caller, sequence). The caller sends it again whenever its route becomes active; the mailbox
//     executes it once and answers every repetition from its table.
//  2. Queue, notifications and table move with the endpoint, in one State, with the process's own bytes.
//  3. A mailbox is active only by bind or by the commit of an epoch, and a held one stays held until that epoch is
//     aborted or committed: there is never a second active one.
//  4. A request is executed by the line that it was first sent to, or not at all.
//  5. Routes are ordered by Version; what is older than known is ignored.
package endpoint

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
)

// ID is an endpoint's compact name within its container: what frames carry.
type ID uint64

// Resolve returns the ID of a name in a container. It is the same everywhere and never 0.
func Resolve(container, name string) ID {
	sum := sha256.Sum256([]byte(container + "\x00" + name))
	return ID(binary.LittleEndian.Uint64(sum[:8]) | 1)
}

// Version orders what is said of one endpoint. A new owner has a higher Epoch; the owner counts its own changes (held,
// resumed, unbound) in Serial.
type Version struct{ Epoch, Serial uint64 }

// Compare is -1, 0 or 1 as v is older than, the same as, or newer than o.
func (v Version) Compare(o Version) int {
	return cmp.Or(cmp.Compare(v.Epoch, o.Epoch), cmp.Compare(v.Serial, o.Serial))
}

// A line is the life of one state: it begins with a bind, whose epoch names it, goes through any number of moves, and ends with the death of the
// process that has the state. A request belongs to the line to which it was first sent; another one, which has never
// heard of it, must not execute it, for the former may have.

// Kind says what a request wants. The values go over the wire: they never change.
type Kind uint8

// The kinds of request.
const (
	Send      Kind = 1 // answered when it is received
	SendRec   Kind = 2 // answered by Reply
	Notify    Kind = 3 // not answered; repetitions coalesce
	CopyRead  Kind = 4 // served by the library while the owner is blocked
	CopyWrite Kind = 5
)

// Valid tells whether the kind is one of those above.
func (k Kind) Valid() bool { return k >= Send && k <= CopyWrite }

// Copies tells whether the library serves the request without the program.
func (k Kind) Copies() bool { return k == CopyRead || k == CopyWrite }

// Code says how a request ended. The values go over the wire: they never change.
type Code uint16

// The codes.
const (
	OK          Code = 0
	Held        Code = 1  // the endpoint is moving: wait for a newer route
	Again       Code = 2  // asked not to wait, and nobody was waiting for it
	NotBound    Code = 3  // no process has the name
	Died        Code = 4  // the owner died
	NodeGone    Code = 5  // the owner's node is gone
	Range       Code = 6  // a copy outside a buffer
	NoBuffer    Code = 7  // no buffer of that name
	Denied      Code = 8  // not permitted
	NameUsed    Code = 9  // another process has the name
	BadName     Code = 10 // not a name
	NoContainer Code = 11 // the node does not serve the container
	Busy        Code = 12 // it did not become idle in time
	NoStandby   Code = 13 // no process waits to take over
	Stale       Code = 14 // an epoch that is over
	TooLong     Code = 15 // over the limit
	Failed      Code = 16 // the program's own function failed; the text says why
	OtherLine   Code = 19 // meant for a state that is lost
	Unknown     Code = 17 // the mailbox does not know the request: send it again
	Overrun     Code = 18 // too much is waiting
	Inline      Code = 20 // the owner has not the memory that a copy was to pass through: send the data along
)

// Request is one message on its way to an endpoint.
type Request struct {
	Kind    Kind
	NoWait  bool
	Repeat  bool   // sent before, perhaps by another way and to another owner
	From    string // name of the calling endpoint; "" for a session without one
	To      ID
	Caller  uint64 // incarnation of the caller
	Seq     uint64 // of this caller; notifications have a sequence of their own
	Line    uint64 // of the route by which it was sent
	Payload []byte
}

// Reply answers the request of a caller with that sequence.
type Reply struct {
	Caller, Seq uint64
	To          ID // the endpoint that was asked
	Code        Code
	Version     Version // of the endpoint, where Code is Held
	Payload     []byte
}
