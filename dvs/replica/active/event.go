package active

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// Role is what a replica is.
type Role uint8

// The roles.
const (
	Joining  Role = 1 // has no part in decisions, or its machine is being rebuilt
	Follower Role = 2 // executes, and answers if asked
	Leader   Role = 3 // the store knows it as the one to ask
)

// String returns the word for people.
func (r Role) String() string {
	return [...]string{"none", "joining", "follower", "leader"}[min(r, Leader)]
}

// Event is what happens to a replica.
type Event interface{ event() }

// The events.
type (
	// Tick is one unit of time.
	Tick struct{}
	// Receive is a message of another replica.
	Receive struct{ Message Message }
	// Ask is a request of a client, with the time and random bits that it is to be executed with.
	Ask struct {
		Request       state.Request
		Clock, Random uint64
	}
	// Forget says that a caller has ended.
	Forget struct{ Caller uint64 }
	// Executed reports Execute.
	Executed struct{ Reply state.Reply }
	// Hashed reports Hash.
	Hashed struct{ Sum uint64 }
	// Imaged reports Snapshot.
	Imaged struct{ Machine []byte }
	// Restored reports Restore.
	Restored struct{}
	// Stored says what the store holds.
	Stored struct{ Record state.Record }
	// Lost says that a peer has a new connection: what was on the way to it may not have arrived.
	Lost struct{ Peer string }
	// Found asks to begin a group that the store does not know.
	Found struct{}
)

func (Tick) event()     {}
func (Receive) event()  {}
func (Ask) event()      {}
func (Forget) event()   {}
func (Lost) event()     {}
func (Executed) event() {}
func (Hashed) event()   {}
func (Imaged) event()   {}
func (Restored) event() {}
func (Stored) event()   {}
func (Found) event()    {}

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
	// Refuse tells a client to ask elsewhere, or not at all if it has asked for more since.
	Refuse struct{ Caller, Seq uint64 }
	// Execute has the machine execute a request, with that clock (nanoseconds since 1970) and random seed.
	Execute struct {
		Request       state.Request
		Clock, Random uint64
	}
	// Hash asks for the machine's hash.
	Hash struct{}
	// Snapshot asks for the whole machine.
	Snapshot struct{}
	// Restore gives the machine a whole state.
	Restore struct{ Machine []byte }
	// Swap asks the store to put New where Old is.
	Swap struct{ Old, New state.Record }
	// Load asks what the store holds.
	Load struct{}
	// Become tells of a change of role.
	Become struct {
		Role   Role
		Record state.Record
	}
	// Differ says that replicas have come to different states. Odd: this one alone, and it is rebuilt; else no majority agrees, and nothing is
	// answered until an operator ends those that are wrong.
	Differ struct {
		Index uint64
		Odd   bool
	}
)

func (Send) action()     {}
func (Answer) action()   {}
func (Refuse) action()   {}
func (Execute) action()  {}
func (Hash) action()     {}
func (Snapshot) action() {}
func (Restore) action()  {}
func (Swap) action()     {}
func (Load) action()     {}
func (Become) action()   {}
func (Differ) action()   {}

// MessageKind says what a message is. The values go over the wire: they never change.
type MessageKind uint8

// The kinds of message.
const (
	Ping  MessageKind = 1 // I am here
	Raft  MessageKind = 2
	Sum   MessageKind = 3 // the hash after a Check
	Fetch MessageKind = 4 // an image is wanted, of Index at least
	Image MessageKind = 5
)

// Valid tells whether the kind is one of those above.
func (k MessageKind) Valid() bool { return k >= Ping && k <= Image }

// Message goes from one replica to another.
type Message struct {
	Kind   MessageKind
	From   state.Member
	Joined bool            // Ping: the sender is in a configuration
	Raft   *raftpb.Message // Raft
	Index  uint64          // Sum, Fetch, Image
	Sum    uint64          // Sum
	Data   []byte          // Image: an encoded image
}
