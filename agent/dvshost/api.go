package dvshost

import "time"

// ProcessInfo is one process of this node.
type ProcessInfo struct {
	Container string `json:"container"`
	Name      string `json:"name"`
	State     string `json:"state"`  // running, standby; of a replicated one answering, replica
	Module    string `json:"module"` // SHA-256
	Memory    int64  `json:"memoryBytes"`
	Calls     uint64 `json:"calls"`
	Failures  uint64 `json:"failures"`           // calls that trapped or took too long, and were undone
	Unsent    uint64 `json:"unsent"`             // messages of its own that nobody took in time
	Replicas  int    `json:"replicas,omitempty"` // of a replicated one: how many have its state, as this node knows
}

// EndpointInfo is one endpoint that the node knows.
type EndpointInfo struct {
	Container string `json:"container"`
	Name      string `json:"name"`
	State     string `json:"state"` // nowhere, active, moving, dead, cut off
	Node      string `json:"node"`
	Epoch     uint64 `json:"epoch"`
	Serial    uint64 `json:"serial"`
	Program   string `json:"program"`
	PID       int    `json:"pid"`
	Standby   bool   `json:"standby"`
	Watchers  int    `json:"watchers"`
}

// LinkInfo is another node.
type LinkInfo struct {
	Node        string  `json:"node"`
	Address     string  `json:"address"`
	State       string  `json:"state"` // up, down
	RoundTripMs float64 `json:"roundTripMs"`
	Err         string  `json:"error,omitempty"`
}

// StatsInfo counts what passed through the node itself.
type StatsInfo struct {
	Node          string `json:"node"`
	Processes     int    `json:"processes"`
	Endpoints     int    `json:"endpoints"`
	Introductions uint64 `json:"introductions"`
	Relayed       uint64 `json:"relayed"` // messages between programs here that could not be introduced
	PacketsOut    uint64 `json:"packetsOut"`
	PacketsIn     uint64 `json:"packetsIn"`
	Writes        uint64 `json:"writes"` // to links
	Reconnects    uint64 `json:"reconnects"`
	Streams       uint64 `json:"streams"` // connections of their own that programs here were given
	// Load is the share of the processors' time that the node's processes have taken lately.
	Load    float64      `json:"load"`
	Balance *BalanceInfo `json:"balance,omitempty"` // null: nothing moves by load
}

// MoveRequest asks for a move.
type MoveRequest struct {
	Container string `json:"container"`
	Name      string `json:"name"`
	To        string `json:"to"`
	Frozen    bool   `json:"frozen"`
}

// MovingInfo is one move from this node that is not over.
type MovingInfo struct {
	Container string    `json:"container"`
	Name      string    `json:"name"`
	To        string    `json:"to"`
	Epoch     uint64    `json:"epoch"`
	Phase     string    `json:"phase"` // as package migration names it
	Since     time.Time `json:"since"` // when that phase began
	// Trouble is what stands in the way, as far as is known.
	Trouble []string `json:"trouble,omitempty"`
}

// AbortRequest asks for the end of a move. It may be aborted until its commit, whether the destination answers or not.
type AbortRequest struct {
	Container string `json:"container"`
	Name      string `json:"name"`
	// GiveUp ends it after its commit as well, where the destination does not answer: whoever says so knows that it never will. What it has
	// answered since the commit is lost then; if it does come back it is refused.
	GiveUp bool `json:"giveUp"`
}

// AbortInfo says how a move ended.
type AbortInfo struct {
	Container string `json:"container"`
	Name      string `json:"name"`
	To        string `json:"to"`
	Epoch     uint64 `json:"epoch"` // of the move; 0: it had none yet
	Committed bool   `json:"committed"`
	Here      bool   `json:"here"` // the process goes on at this node
	// Lost says what may be lost; "" is nothing.
	Lost string `json:"lost,omitempty"`
}

// DrainRequest asks for a move of everything.
type DrainRequest struct {
	To     []string `json:"to"`
	Frozen bool     `json:"frozen"`
}

// DrainInfo says what was moved; Err what was not.
type DrainInfo struct {
	Moved []MoveInfo `json:"moved"`
	Err   string     `json:"error,omitempty"`
}

// errorInfo is the body of an answer that is no 200.
type errorInfo struct {
	Error string `json:"error"`
}
