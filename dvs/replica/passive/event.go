package passive

import "github.com/godwit-project/godwit/dvs/replica/state"

// Role is what a replica is by the newest record that it knows.
type Role uint8

// The roles.
//
//	Joining ──record lists it──▶ Backup ──record names it──▶ Primary
//	   ▲───record without it──────┘ ◀─(never)─ record names another ─┐
//	   └─────────────────────────────────────────────────────────────┘
const (
	Joining Role = 1 // has no state that counts
	Backup  Role = 2
	Primary Role = 3
)

// String returns the word for people.
func (r Role) String() string {
	return [...]string{"none", "joining", "backup", "primary"}[min(r, Primary)]
}

// Event is what happens to a replica.
type Event interface{ event() }

// The events.
type (
	// Tick tells the time, in nanoseconds since any moment.
	Tick struct{ Now int64 }
	// Receive is a message of another replica.
	Receive struct{ Message Message }
	// Ask is a request of a client.
	Ask struct{ Request state.Request }
	// Forget says that a caller has ended.
	Forget struct{ Caller uint64 }
	// Executed reports Execute.
	Executed struct {
		Reply state.Reply
		Delta state.Delta
	}
	// Imaged reports Snapshot.
	Imaged struct{ Machine []byte }
	// Restored reports Restore.
	Restored struct{}
	// Stored says what the store holds.
	Stored struct{ Record state.Record }
	// Found asks to begin a group that the store does not know.
	Found struct{}
	// Promote asks to take over: the primary is thought dead, and those of Without too.
	Promote struct{ Without []string }
	// Lost says that what was sent to a replica lately may not have arrived.
	Lost struct{ Peer string }
)

func (Tick) event()     {}
func (Receive) event()  {}
func (Ask) event()      {}
func (Forget) event()   {}
func (Executed) event() {}
func (Imaged) event()   {}
func (Restored) event() {}
func (Stored) event()   {}
func (Found) event()    {}
func (Promote) event()  {}
func (Lost) event()     {}

// Action is what a replica wants done.
type Action interface{ action() }

// The actions.
type (
	// Send sends a message. It may be lost, doubled, or come late.
	Send struct {
		To      string
		Message Message
	}
	// Answer gives a client its reply. It may be given again.
	Answer struct{ Reply state.Reply }
	// Refuse tells a client to ask elsewhere: this replica is not the primary, and may have executed the request, with no effect that lasts
	// unless the new primary has it too.
	Refuse struct{ Caller, Seq uint64 }
	// Execute has the machine execute a request.
	Execute struct{ Request state.Request }
	// Apply has the machine take in a change, which is not empty.
	Apply struct{ Delta state.Delta }
	// Snapshot asks for the whole machine.
	Snapshot struct{}
	// Restore gives the machine a whole state.
	Restore struct{ Machine []byte }
	// Swap asks the store to put New where Old is.
	Swap struct{ Old, New state.Record }
	// Load asks what the store holds.
	Load struct{}
	// Become tells of a change of role or record.
	Become struct {
		Role   Role
		Record state.Record
	}
)

func (Send) action()     {}
func (Answer) action()   {}
func (Refuse) action()   {}
func (Execute) action()  {}
func (Apply) action()    {}
func (Snapshot) action() {}
func (Restore) action()  {}
func (Swap) action()     {}
func (Load) action()     {}
func (Become) action()   {}

// MessageKind says what a message is. The values go over the wire: they never change.
type MessageKind uint8

// The kinds of message.
const (
	Ping  MessageKind = 1 // I am here; this is what I have
	Ship  MessageKind = 2 // of the primary: updates after Prev
	Ack   MessageKind = 3 // to the primary: what I have
	Image MessageKind = 4 // of the primary: everything
)

// Valid tells whether the kind is one of those above.
func (k MessageKind) Valid() bool { return k >= Ping && k <= Image }

// Message goes from one replica to another.
type Message struct {
	Kind   MessageKind
	From   state.Member
	Record state.Record // the newest that the sender knows

	Prev      state.Position // Ship: what the updates follow
	Updates   []state.Update // Ship
	Committed uint64         // Ship, Image: the sender's

	OK      bool           // Ack: Last is in the primary's history too
	Valid   bool           // Ping, Ack: the sender has a state that can go on from here
	Last    state.Position // Ping, Ack: the newest update that the sender has
	Applied state.Position // Ping, Ack: what its machine has

	Life  uint64      // Ping, Ack: how many images the sender has taken; Image: of the receiver, when it was found to need one
	Image state.Image // Image
}
