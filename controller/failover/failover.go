// Package failover is what is decided of a failover, and what follows from that, as pure functions: who may take over, what the one
// transaction of the decision stores, what is asked of which agent next, and what an answer means. No I/O, no clock, no goroutines.
//
// The caller, package controller, has these duties.
//
//  1. A State is read from the store. What Decide makes of it is stored in one transaction, on condition that nothing of the State
//     has changed since it was read.
//  2. Each epoch is given out for that one purpose, after the State was read, and never again.
//  3. Next is asked anew, with a State read anew, after each command. A Turn may be lost at any time, with the controller: the next
//     one begins with the zero Turn.
//  4. Only what Answered says becomes of a leftover is done with it, on condition that it is still the one that was asked about.
//  5. What Ended makes of a State is stored on condition that the owner has not changed since.
package failover

// Place is a host of a site; the zero value is none.
type Place struct{ Site, Host string }

// Owner is where the service may run.
type Owner struct {
	Place
	Epoch uint64
}

// The phases of a service, as far as they matter here; these values are stored.
const (
	Starting = "starting"
	Running  = "running"
	Failed   = "failed"
	Deleting = "deleting"
)

// What an agent that was out of reach has still to do for a service; these values are stored.
const (
	// EndStandby: remove the standing replica.
	EndStandby = "end-standby"
	// RemoveAll: remove whatever there is of the service.
	RemoveAll = "remove-all"
	// LeaveRoute: an edge leads nobody to it any more.
	LeaveRoute = "leave-route"
	// Demote: what was the owner becomes the standing replica of the new one.
	Demote = "demote"
)

// Leftover is what an agent has still to do. There is at most one of each agent.
type Leftover struct {
	Agent, Site, What string
	// Epoch is given out for it alone: an agent that has seen a newer wish refuses it.
	Epoch uint64
}

// Remembered is how many failovers of a service are remembered: who asks again for one of them, because the answer was lost, is told what
// was decided, also when somebody else has decided another one since.
const Remembered = 8

// State is what the store has of a service.
type State struct {
	Service string
	Owner   Owner
	Phase   string
	Message string
	Replica Place // where its standing replica is, or may be
	// Promote says that the owner's volumes are there as a standing replica, Restore to which snapshot they go back first.
	Promote bool
	Restore string
	// Requests are the names of the last failovers that were decided, at most Remembered, the newest last. Whoever stores something of
	// each stores it of as many as Decide leaves here: nowhere else is one forgotten.
	Requests []string
	// External says that it has external disks: two hosts that write to them ruin them.
	External bool
	Left     []Leftover
}
