package dvs

import (
	"errors"
	"fmt"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// stage is how far an endpoint has come in leaving.
type stage uint8

const (
	settled  stage = 0
	holding  stage = 1 // waits for the request in work and for the program to wait
	freezing stage = 2 // the state is being taken and sent
	frozen   stage = 3 // the state has been sent
)

const notMovable = "the program gives neither Snapshot and Restore nor Pieces for this endpoint"

// move is an endpoint's part in a migration.
type move struct {
	stage  stage
	epoch  uint64
	thaw   chan struct{} // not nil while the program may not run on
	source source

	// of a standby
	staging  []byte
	total    uint64
	incoming uint64 // epoch of staging
	staged   uint64 // epoch of the state that has been restored, or 0
	caller   endpoint.CallerState
	sink     sink
}

// settleLocked forgets the migration. What the program is just applying goes on.
func (e *Endpoint) settleLocked() {
	e.move = move{sink: sink{busy: e.move.sink.busy}, source: source{given: e.move.source.given}}
}

// onOrderLocked carries out what the node says. Orders may come again; each is answered.
func (s *Session) onOrderLocked(o wire.Order) {
	e := s.endpoints[o.Endpoint]
	if e == nil {
		s.doneLocked(o, endpoint.NotBound, "")
		return
	}
	switch o.Order {
	case wire.OrderPrepare:
		if e.box.Status() == endpoint.Active && !e.opts.movable() {
			s.doneLocked(o, endpoint.Failed, notMovable)
			return
		}
		s.doneLocked(o, endpoint.OK, "")
	case wire.OrderBegin, wire.OrderRound:
		e.roundLocked(o)
	case wire.OrderHold:
		e.holdLocked(o)
	case wire.OrderResume:
		e.resumeLocked(o)
	case wire.OrderStage:
		e.stageLocked(o)
	case wire.OrderActivate:
		e.activateLocked(o)
	case wire.OrderDiscard:
		if e.box.Status() == endpoint.Standby {
			e.discardLocked()
		}
		s.doneLocked(o, endpoint.OK, "")
	case wire.OrderLeave:
		if !e.opts.Replicated || o.Epoch >= e.opts.Epoch { // else it is meant for the one before
			e.leaveLocked()
		}
		s.doneLocked(o, endpoint.OK, "")
	case wire.OrderVersion:
		e.renewLocked(o.Version)
	}
}

// discardLocked makes a standby forget what has come.
func (e *Endpoint) discardLocked() {
	e.box = endpoint.NewMailbox(e.id, endpoint.Version{}, endpoint.Standby)
	e.box.Limit(e.opts.Queue)
	e.settleLocked()
	if e.opts.Pieces != nil {
		e.sinkLocked(func() { _ = e.opts.Pieces.Reset() }) // frees what it can
	}
}

// leaveLocked ends an owner, because another is it.
func (e *Endpoint) leaveLocked() {
	if e.box.Status() == endpoint.Active || e.box.Status() == endpoint.Holding {
		e.box.Leave()
		e.failLocked(ErrMoved)
		delete(e.s.callers, e.core.ID()) // it goes on elsewhere
		e.endLocked(endpoint.Reply{}, ErrMoved)
	}
}

func (s *Session) doneLocked(o wire.Order, code endpoint.Code, text string) {
	_ = s.conn.Send(wire.Done{Order: o, Code: code, Text: text}.Append(nil))
}

func (e *Endpoint) holdLocked(o wire.Order) {
	st := e.box.Status()
	switch {
	case st != endpoint.Active && st != endpoint.Holding:
		e.s.doneLocked(o, endpoint.Stale, "it is not the owner")
		return
	case !e.opts.movable():
		e.s.doneLocked(o, endpoint.Failed, notMovable)
		return
	case e.move.stage == freezing && e.move.epoch == o.Epoch:
		return // answered when it is done
	}
	e.s.pollLocked() // what has reached this process goes with it
	e.box.Hold(o.Version)
	e.move.stage, e.move.epoch = holding, o.Epoch
	e.freezeLocked()
}

func (e *Endpoint) resumeLocked(o wire.Order) {
	if st := e.box.Status(); st != endpoint.Holding && st != endpoint.Active {
		e.s.doneLocked(o, endpoint.Stale, "it is not the owner")
		return
	}
	e.box.Resume(o.Version)
	e.endRoundsLocked()
	e.move.stage = settled
	e.thawLocked()
	e.copiesLocked()
	e.deliverLocked()
	e.s.doneLocked(o, endpoint.OK, "")
}

// freezeLocked takes the state once no request is in work and the program waits for one.
func (e *Endpoint) freezeLocked() {
	if e.move.stage != holding || !e.box.Drained() || len(e.receivers) == 0 || e.s.err != nil {
		return
	}
	for _, w := range e.receivers {
		if w.got || w.err != nil {
			return // the program is about to run; it comes by here again
		}
	}
	if _, calling := e.core.Outstanding(); calling {
		return
	}
	e.move.stage = freezing
	if e.move.thaw == nil {
		e.move.thaw = make(chan struct{})
	}
	epoch := e.move.epoch
	e.s.wg.Go(func() { e.freeze(epoch) })
}

func (e *Endpoint) freeze(epoch uint64) {
	process, pieces, err := e.takeState(epoch)
	s := e.s
	s.mu.Lock()
	o := wire.Order{Endpoint: e.id, Epoch: epoch, Order: wire.OrderHold}
	if e.move.stage != freezing || e.move.epoch != epoch {
		s.mu.Unlock()
		return // aborted meanwhile
	}
	var state endpoint.State
	if err == nil {
		state, err = e.box.Snapshot()
	}
	s.mu.Unlock()
	if err == nil {
		state.Caller, state.Process, state.Pieces = e.core.State(), process, pieces
		err = s.sendState(e.id, epoch, state.Append(make([]byte, 0, len(process)+1024)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.move.stage != freezing || e.move.epoch != epoch {
		return
	}
	e.move.stage = frozen
	if err != nil {
		s.doneLocked(o, endpoint.Failed, err.Error())
		return
	}
	s.doneLocked(o, endpoint.OK, "")
}

// takeState takes the program's state: as bytes, or as pieces: then it returns the number of the last one, or 0 if there was none.
func (e *Endpoint) takeState(epoch uint64) (process []byte, pieces uint64, err error) {
	if e.opts.Pieces == nil {
		process, err = e.opts.Snapshot()
		return process, 0, err
	}
	if err = e.round(epoch, false, false); err != nil {
		return nil, 0, err
	}
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	if src := e.move.source; src.given >= src.first {
		pieces = src.given
	}
	return nil, pieces, nil
}

func (s *Session) sendState(id endpoint.ID, epoch uint64, b []byte) error {
	if len(b) > wire.MaxState {
		return fmt.Errorf("a state of %d bytes: at most %d can move", len(b), wire.MaxState)
	}
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	var frame []byte
	for at := 0; at < len(b); at += wire.MaxChunk {
		part := b[at:min(at+wire.MaxChunk, len(b))]
		frame = wire.Chunk{Endpoint: id, Epoch: epoch, Offset: uint64(at), Total: uint64(len(b)), Data: part}.Append(frame[:0])
		if err := conn.Send(frame); err != nil {
			return err
		}
		if err := conn.Wait(8 * wire.MaxChunk); err != nil {
			return err
		}
	}
	return nil
}

// waitThawedLocked keeps a program that is frozen from running on, also when its time is over: what it did then would be lost, or done
// twice. It waits for the end of the migration.
func (e *Endpoint) waitThawedLocked(w *receiver) {
	for e.move.thaw != nil && !w.got && w.err == nil && e.s.err == nil && e.err == nil {
		ch := e.move.thaw
		e.s.mu.Unlock()
		<-ch
		e.s.mu.Lock()
	}
}

func (e *Endpoint) thawLocked() {
	if e.move.thaw != nil {
		close(e.move.thaw)
		e.move.thaw = nil
	}
}

// stagingStep is the memory that is taken at first for a state that comes, in bytes: what it takes grows with what arrives.
const stagingStep = 4 << 20

// onChunkLocked collects the state for a standby.
func (s *Session) onChunkLocked(m wire.Chunk) {
	e := s.endpoints[m.Endpoint]
	if e == nil || e.box.Status() != endpoint.Standby || m.Epoch < e.move.incoming {
		return
	}
	if m.Offset == 0 {
		e.move.staging, e.move.incoming, e.move.total = make([]byte, 0, min(m.Total, stagingStep)), m.Epoch, m.Total
	}
	if m.Epoch != e.move.incoming || m.Offset != uint64(len(e.move.staging)) || m.Total != e.move.total {
		e.move.staging = nil
		return
	}
	if b := e.move.staging; len(b)+len(m.Data) > cap(b) {
		e.move.staging = append(make([]byte, 0, min(m.Total, 4*uint64(cap(b)))), b...)
	}
	e.move.staging = append(e.move.staging, m.Data...)
}

// stageLocked restores the state that has come, without running.
func (e *Endpoint) stageLocked(o wire.Order) {
	s := e.s
	if e.box.Status() != endpoint.Standby || s.err != nil {
		s.doneLocked(o, endpoint.NoStandby, "")
		return
	}
	if e.move.incoming != o.Epoch || uint64(len(e.move.staging)) != e.move.total {
		s.doneLocked(o, endpoint.Failed, "the state has not come in full")
		return
	}
	b := e.move.staging
	e.sinkLocked(func() { e.stage(o, b) })
}

// stage makes the state of what has come.
func (e *Endpoint) stage(o wire.Order, b []byte) {
	state, err := endpoint.ParseState(b)
	switch {
	case err != nil:
	case e.opts.Pieces != nil:
		err = e.completeSink(o.Epoch, state.Pieces)
	default:
		err = e.opts.Restore(state.Process)
	}
	s := e.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && e.move.incoming != o.Epoch {
		err = errors.New("a newer migration has begun")
	}
	if err == nil {
		state.Process = nil
		err = e.box.Restore(state)
	}
	if err != nil {
		s.doneLocked(o, endpoint.Failed, err.Error())
		return
	}
	e.move.staged, e.move.caller = o.Epoch, state.Caller
	s.doneLocked(o, endpoint.OK, "")
}

func (e *Endpoint) activateLocked(o wire.Order) {
	st := e.box.Status()
	switch {
	case st == endpoint.Active && e.box.Version().Epoch == o.Version.Epoch:
	case st != endpoint.Standby || e.move.staged != o.Epoch:
		e.s.doneLocked(o, endpoint.Stale, "no state of this epoch was restored")
		return
	default:
		e.box.Activate(o.Version)
		delete(e.s.callers, e.core.ID())
		e.core.Restore(e.move.caller)
		e.s.callers[e.core.ID()] = e.caller
		e.settleLocked()
		e.s.sendLocked(wire.Caller{Endpoint: e.id, Caller: e.core.ID()}.Append(nil), 0) // the way of its requests
		e.openLocked()
	}
	e.s.doneLocked(o, endpoint.OK, "")
	e.copiesLocked()
	e.deliverLocked()
}
