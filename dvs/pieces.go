package dvs

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// MaxPiece is the longest piece of a state, in bytes.
const MaxPiece = wire.MaxChunk

const (
	// pieceWindow bounds what is on its way to the destination and not applied, so that a moving state never makes the messages of
	// its program wait for long.
	pieceWindow = 4 << 20
	// creditEvery is after how many bytes a destination says what it has applied.
	creditEvery = 512 << 10
)

// Pieces is a state that moves piece by piece while its program runs: in rounds of what has changed since the round before, the last
// one while the program is frozen. What a piece means is the program's own affair: a page and where it belongs, for instance.
type Pieces interface {
	// Changes gives what has changed since the mark that an earlier call returned, and returns the mark for the next. since is 0 for
	// everything. It is called while the program runs and changes its state: what changes meanwhile may be given now or next time, but
	// must not be missed by both. When the program is frozen it is called once more: then everything that is missing is given. A piece has at
	// most MaxPiece bytes and may be used again when give returns; an error of give is to be returned.
	Changes(ctx context.Context, since uint64, give func(piece []byte) error) (mark uint64, err error)
	// Reset forgets what has been applied: everything comes anew.
	Reset() error
	// Apply takes one piece in, in the order in which they were given. It must not keep it.
	Apply(piece []byte) error
	// Complete says that all pieces have been applied: what they make is the state. The program does not run yet, and may never.
	Complete() error
}

// source is what an owner knows of the pieces that it has given.
type source struct {
	epoch   uint64
	mark    uint64
	first   uint64 // number of the attempt's first piece
	given   uint64 // number of the newest piece
	bytes   uint64 // not applied as far as is known
	sizes   []int  // of the pieces not applied
	err     error  // the destination's
	running bool
	cancel  context.CancelFunc
}

// sink is what a standby does with the pieces that come.
type sink struct {
	epoch  uint64
	number uint64 // of the piece that was taken in last
	since  int    // bytes since the last credit
	err    error
	queue  []func()
	busy   bool
}

func (o BindOptions) movable() bool { return o.Pieces != nil || o.Snapshot != nil }

// roundLocked gives the changes since the last round, without stopping the program.
func (e *Endpoint) roundLocked(o wire.Order) {
	switch status := e.box.Status(); {
	case status != endpoint.Active && status != endpoint.Holding:
		e.s.doneLocked(o, endpoint.Stale, "it is not an owner that runs")
		return
	case status == endpoint.Holding:
		e.s.doneLocked(o, endpoint.OK, "") // since a move whose destination died: all of it goes with what is held
		return
	case e.opts.Pieces == nil:
		e.s.doneLocked(o, endpoint.OK, "") // its state moves at once, when it is held
		return
	}
	e.s.wg.Go(func() {
		err := e.round(o.Epoch, o.Order == wire.OrderBegin, true)
		e.s.mu.Lock()
		defer e.s.mu.Unlock()
		if err != nil {
			e.s.doneLocked(o, endpoint.Failed, err.Error())
			return
		}
		e.s.doneLocked(o, endpoint.OK, "")
	})
}

var errOvertaken = errors.New("the migration was aborted or overtaken")

// round gives what has changed, of everything if anew is set, and waits until it has been applied if applied is set.
func (e *Endpoint) round(epoch uint64, anew, applied bool) error {
	s := e.s
	s.mu.Lock()
	src := &e.move.source
	for src.running && s.err == nil {
		src.cancel() // of an attempt that is over
		s.room.Broadcast()
		s.room.Wait()
	}
	if s.err != nil {
		defer s.mu.Unlock()
		return s.err
	}
	if anew || src.epoch != epoch {
		*src = source{epoch: epoch, first: src.given + 1, given: src.given}
	}
	ctx, cancel := context.WithCancel(context.Background())
	src.running, src.cancel = true, cancel
	since := src.mark
	s.mu.Unlock()
	defer cancel()

	var frame []byte
	mark, err := e.opts.Pieces.Changes(ctx, since, func(piece []byte) (err error) {
		frame, err = e.give(ctx, frame, piece)
		return err
	})

	s.mu.Lock()
	defer s.mu.Unlock()
	for applied && err == nil && src.bytes > 0 {
		if err = e.givingLocked(ctx); err == nil {
			s.room.Wait()
		}
	}
	if err == nil {
		err = e.givingLocked(ctx)
	}
	src.running = false
	s.room.Broadcast()
	if err != nil {
		src.forget() // the next one begins anew
		return err
	}
	src.mark = mark
	return nil
}

// givingLocked tells why no more is to be given.
func (e *Endpoint) givingLocked(ctx context.Context) error {
	switch {
	case e.s.err != nil:
		return e.s.err
	case ctx.Err() != nil:
		return errOvertaken
	default:
		return e.move.source.err
	}
}

// give sends one piece, when there is room for it.
func (e *Endpoint) give(ctx context.Context, frame, piece []byte) ([]byte, error) {
	if len(piece) > MaxPiece {
		return frame, fmt.Errorf("a piece of %d bytes: at most %d are allowed", len(piece), MaxPiece)
	}
	s := e.s
	s.mu.Lock()
	defer s.mu.Unlock()
	src := &e.move.source
	for src.bytes >= pieceWindow && e.givingLocked(ctx) == nil {
		s.room.Wait()
	}
	if err := e.givingLocked(ctx); err != nil {
		return frame, err
	}
	src.given++
	src.bytes += uint64(len(piece))
	src.sizes = append(src.sizes, len(piece))
	frame = wire.Piece{Endpoint: e.id, Epoch: src.epoch, Number: src.given, First: src.given == src.first, Data: piece}.Append(frame[:0])
	return frame, s.conn.Send(frame)
}

// onCreditLocked learns what the destination has applied.
func (s *Session) onCreditLocked(m wire.Credit) {
	e := s.endpoints[m.Endpoint]
	if e == nil {
		return
	}
	src := &e.move.source
	if src.epoch != m.Epoch || m.Number != 0 && m.Number < src.first {
		return // of an attempt that is over
	}
	first := src.given - uint64(len(src.sizes)) + 1
	for ; first <= m.Number && len(src.sizes) > 0; first++ {
		src.bytes -= uint64(src.sizes[0])
		src.sizes = src.sizes[1:]
	}
	if m.Code != endpoint.OK && src.err == nil {
		src.err = fmt.Errorf("the destination: %w", coded(m.Code, m.Text))
	}
	s.room.Broadcast()
}

// endRoundsLocked stops what is given to a migration that is over, and forgets what its destination has.
func (e *Endpoint) endRoundsLocked() {
	src := &e.move.source
	if src.running {
		src.cancel()
		e.s.room.Broadcast()
		return
	}
	src.forget()
}

// forget makes the next round begin anew.
func (src *source) forget() { *src = source{given: src.given} }

// onPieceLocked takes in a piece, in a goroutine of the endpoint, one after the other.
func (s *Session) onPieceLocked(m wire.Piece) {
	e := s.endpoints[m.Endpoint]
	if e == nil || e.box.Status() != endpoint.Standby || m.Epoch < e.move.sink.epoch {
		return
	}
	e.sinkLocked(func() { e.apply(m) })
}

// sinkLocked lets f run after what was given before.
func (e *Endpoint) sinkLocked(f func()) {
	k := &e.move.sink
	k.queue = append(k.queue, f)
	if k.busy {
		return
	}
	k.busy = true
	e.s.wg.Go(func() {
		s := e.s
		s.mu.Lock()
		defer s.mu.Unlock()
		for len(k.queue) > 0 && s.err == nil {
			f := k.queue[0]
			k.queue = k.queue[1:]
			s.mu.Unlock()
			f()
			s.mu.Lock()
		}
		k.busy = false
	})
}

// apply gives the program one piece, and the source credit.
func (e *Endpoint) apply(m wire.Piece) {
	s := e.s
	s.mu.Lock()
	k := &e.move.sink
	if m.First {
		k.epoch, k.number, k.since, k.err = m.Epoch, m.Number-1, 0, nil
	}
	switch {
	case e.opts.Pieces == nil:
		k.err = errors.New("the program takes no pieces")
	case m.Epoch != k.epoch || m.Number != k.number+1:
		k.err = fmt.Errorf("piece %d of epoch %d came after %d of %d", m.Number, m.Epoch, k.number, k.epoch)
	}
	err := k.err
	s.mu.Unlock()
	if err == nil && m.First {
		err = e.opts.Pieces.Reset()
	}
	if err == nil {
		err = e.opts.Pieces.Apply(m.Data)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k.err = err
	if err != nil {
		c := wire.Credit{Endpoint: e.id, Epoch: m.Epoch, Number: m.Number, Code: endpoint.Failed, Text: err.Error()}
		_ = s.conn.Send(c.Append(nil))
		return
	}
	k.number = m.Number
	if k.since += len(m.Data); k.since >= creditEvery || len(k.queue) == 0 {
		k.since = 0
		_ = s.conn.Send(wire.Credit{Endpoint: e.id, Epoch: m.Epoch, Number: m.Number}.Append(nil))
	}
}

// completeSink checks that all pieces up to that number are there, and lets the program make its state of them.
func (e *Endpoint) completeSink(epoch, pieces uint64) error {
	e.s.mu.Lock()
	k := &e.move.sink
	err := k.err
	if pieces == 0 {
		err = nil // an empty state
	} else if err == nil && (k.epoch != epoch || k.number != pieces) {
		err = fmt.Errorf("the pieces of epoch %d have come up to %d, of %d of epoch %d", k.epoch, k.number, pieces, epoch)
	}
	e.s.mu.Unlock()
	if err == nil && pieces == 0 {
		err = e.opts.Pieces.Reset()
	}
	if err != nil {
		return err
	}
	return e.opts.Pieces.Complete()
}
