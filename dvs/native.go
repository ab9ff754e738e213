package dvs

import (
	"cmp"
	"os"
	"time"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// The environment of a program that a node has started (godwit dvs run --native).
const (
	// EnvSocket is where its node is: Connect takes it for the path "".
	EnvSocket = "GODWIT_DVS"
	// EnvContainer is the container: Connect takes it for the container "".
	EnvContainer = "GODWIT_CONTAINER"
	// EnvName is the name that it is to bind: Bind takes it for the name "".
	EnvName = "GODWIT_NAME"
	// EnvMoves is how it moves: MovesWhole or MovesState.
	EnvMoves = "GODWIT_MOVES"
)

// Values of EnvMoves.
const (
	// MovesWhole: the whole process moves, by CRIU. What it binds can move without Snapshot and Restore, and those are not called. When the process
	// finds itself at another node it waits to take the endpoint over there, and goes on in the Receive in which it was.
	MovesWhole = "whole"
	// MovesState: the program was started to take an endpoint over: the first Bind of its name is a Standby. Elsewhere it binds the
	// name as it says.
	MovesState = "state"
)

// wholeReconnect is how long a process that moves as a whole tries to find its node, if its program says nothing else.
const wholeReconnect = 30 * time.Second

// started fills in what the node that has started the program says.
func started(path string, o Options) (string, Options) {
	o.whole = os.Getenv(EnvMoves) == MovesWhole
	o.Container = cmp.Or(o.Container, os.Getenv(EnvContainer))
	if o.whole {
		o.Reconnect = cmp.Or(o.Reconnect, wholeReconnect)
	}
	return cmp.Or(path, os.Getenv(EnvSocket)), o
}

// startedAs fills in what the node that has started the program says of a name.
func (s *Session) startedAs(name string, b BindOptions) (string, BindOptions) {
	if name == "" {
		name = os.Getenv(EnvName)
	}
	if name == os.Getenv(EnvName) && os.Getenv(EnvMoves) == MovesState {
		b.Standby = true
	}
	if s.o.whole && !b.Replicated {
		b.Pieces = nil
		b.Snapshot = s.leaveStreams // the state is the process
		b.Restore = func([]byte) error { return nil }
	}
	return name, b
}

// leaveStreams gives up the connections to programs of other nodes, before an image of the process is taken: not every CRIU takes TCP in on every kernel,
// and where the process goes they lead nowhere.
func (s *Session) leaveStreams() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.streams {
		s.hangUpLocked(i)
		_ = s.conn.Send(wire.Revoke{Channel: i}.Append(nil))
	}
	return nil, nil
}

// leavingLocked tells whether the process is about to be stopped for its image.
func (s *Session) leavingLocked() bool {
	if !s.o.whole {
		return false
	}
	for _, e := range s.endpoints {
		if e.move.stage >= freezing {
			return true
		}
	}
	return false
}

// arriveLocked is called when the session has found a node again. A process that was moved as a whole was frozen at another one: what its
// endpoints held comes by the endpoint's own way, newer than what this copy remembers, and until then they wait for it.
func (s *Session) arriveLocked(node string) {
	if !s.o.whole || node == s.node {
		return
	}
	for _, e := range s.endpoints {
		if e.box.Status() != endpoint.Holding || e.opts.Replicated {
			continue
		}
		thaw := e.move.thaw
		e.active = make(chan struct{})
		e.discardLocked()
		e.move.stage, e.move.thaw = frozen, thaw // it makes no calls, and does not run on
		s.wg.Go(func() { s.thawActive(e.active, thaw) })
	}
}

// thawActive lets a program run on when its endpoint is the owner again.
func (s *Session) thawActive(active <-chan struct{}, thaw chan struct{}) {
	select {
	case <-active:
	case <-s.ctx.Done():
	}
	if thaw == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-thaw: // its end has done it
	default:
		close(thaw)
	}
}
