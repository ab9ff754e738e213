package process

import (
	"context"
	"errors"
)

// PageSize is the size of the pieces in which memory is compared and moved, in bytes. It is not the unit of WebAssembly, which is 64 KiB.
const PageSize = 4096

// Errors of a Machine. After ErrTrapped, ErrTime and ErrTooLong the state is what it was before the call.
var (
	// ErrTrapped says that the program failed: it ended itself, or did what the machine forbids. The same message fails again.
	ErrTrapped = errors.New("the program failed, and its state before the message is restored")
	// ErrTime says that a call took longer than the limit, or than its context allows.
	ErrTime = errors.New("the program took too long, and its state before the message is restored")
	// ErrTooLong says that a message does not fit into the program.
	ErrTooLong = errors.New("the message is longer than the program takes")
	// ErrBlank says that the process has been given no state yet.
	ErrBlank = errors.New("the process has no state yet: restore or apply one")
	// ErrClosed says that the process has been closed.
	ErrClosed = errors.New("the process is closed")
	// ErrBroken says that the state before a failed call could not be restored. It should not happen; a new process has to be made of a copy.
	ErrBroken = errors.New("the process is broken")
	// ErrState refuses a state that is not one of this module, or damaged.
	ErrState = errors.New("not a state of this process")
)

// Kind says what a message is. The values are part of the ABI.
type Kind uint32

// The kinds of message.
const (
	KindSend    Kind = 1 // wants no answer
	KindRequest Kind = 2 // is answered by what the program replies
	KindNotify  Kind = 3 // has no payload; repetitions may have become one
)

// Input is one message, with all that the program can learn of the world while it handles it. The same inputs, in the same order, make the
// same state, on any machine.
type Input struct {
	Kind    Kind
	From    string   // who sent it; "" for one without a name
	Payload []byte   // belongs to the machine from now on
	Now     int64    // the program's clock, nanoseconds since 1970; it never goes back, whatever is given here
	Seed    [32]byte // of the program's random numbers
}

// Sending is a message that the program wants to be sent.
type Sending struct {
	Kind    Kind // KindSend or KindNotify
	To      string
	Payload []byte
}

// Output is what a program did with a message.
type Output struct {
	Reply   []byte
	Replied bool
	Sends   []Sending // in their order
	Log     []byte    // what it wrote for people: lines
}

// Page is one piece of memory. Its bytes are never changed: they may be kept without copying.
type Page struct {
	Number uint32 // its offset is that many times PageSize
	Data   []byte // PageSize bytes; none means that all are 0
}

// State is all that there is of a process between two messages.
type State struct {
	Module  ID
	Globals []byte // see Machine.Globals
	Pages   []Page // in ascending order; those that are not there are 0
}

// Machine is a process that is called once for each message, and whose state can be taken and put between two. It is safe for
// concurrent use; a call and everything else wait for each other.
type Machine interface {
	// Call has the program handle a message. If it fails, the state is as before, and of the output only Log is there.
	Call(ctx context.Context, in Input) (Output, error)
	// DirtySince returns the pages that have changed since the call that returned mark, and a new mark; 0 asks for all that
	// are not 0. Together with Globals of the same moment they bring a copy up to date: see Changes.
	DirtySince(mark uint64) (pages []Page, next uint64)
	// Globals returns what there is besides memory, as bytes: its size, the clock, the mutable globals.
	Globals() []byte
	// Changes is DirtySince and Globals of one moment.
	Changes(mark uint64) (pages []Page, globals []byte, next uint64)
	// Apply brings a copy up to date. Without globals (nil) only pages are put: they are part of a state that is not whole yet.
	Apply(pages []Page, globals []byte) error
	// Snapshot returns the whole state. It stays valid and costs memory only for what changes afterwards.
	Snapshot() (State, error)
	// Restore puts a state of the same module.
	Restore(s State) error
	// Hash returns a number that is equal for equal states, and for different ones with a probability of 2^-64.
	Hash() uint64
}

var _ Machine = (*Process)(nil)
