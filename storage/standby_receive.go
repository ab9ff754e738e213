package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/wire"
)

// standbyLink is one connection from a source.
type standbyLink struct {
	b       *Standby
	epoch   uint64
	session uint64
	conn    net.Conn
	enc     *wire.Encoder
	write   sync.Mutex // one answer at a time
	done    chan struct{}
	sealed  chan struct{} // something is to be made durable
	seq     atomic.Uint64 // frames taken
	busy    atomic.Bool
	number  uint64 // the epoch under way, 0 for none
	frames  uint64
	content uint64
	buf     []byte
}

func (in *standbyLink) cut() { _ = in.conn.Close() }

// Serve takes a connection that a source's dial has made, already authenticated, and journals what comes over it until it ends; it
// owns conn and closes it. A connection of another epoch is refused, a newer connection replaces the one before.
func (b *Standby) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	b.mu.Lock()
	name := b.meta.Name
	if b.closed {
		b.mu.Unlock()
		return fmt.Errorf("receive group %s: %w", name, ErrClosed)
	}
	b.wg.Add(1)
	b.mu.Unlock()
	defer b.wg.Done()
	for _, over := range []context.Context{ctx, b.life} {
		stop := context.AfterFunc(over, func() { _ = conn.Close() })
		defer stop()
	}
	if err := b.receive(conn); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("receive group %s: %w", name, err)
	}
	return nil
}

func (b *Standby) receive(conn net.Conn) error {
	enc, err := wire.NewEncoder()
	if err != nil {
		return err
	}
	in := &standbyLink{b: b, conn: conn, enc: enc, done: make(chan struct{}), sealed: make(chan struct{}, 1)}
	r, err := wire.NewReader(conn)
	if err != nil {
		return err
	}
	defer r.Close()
	_ = conn.SetDeadline(time.Now().Add(b.store.opts.LinkTimeout))
	h, content, err := r.Next()
	if err != nil {
		return err
	}
	if h.Type != wire.TypeOpen {
		return fmt.Errorf("%w: type %d instead of an open", wire.ErrCorrupt, h.Type)
	}
	open, err := wire.ParseOpen(content)
	if err != nil {
		return err
	}
	in.epoch, in.session = h.Epoch, open.Session
	err = b.admit(in, &open)
	if errors.Is(err, ErrClosed) {
		return err // no refusal: the source finds the standby again when the agent is back
	}
	if err != nil {
		reject := []byte(err.Error())
		return errors.Join(err, in.answer(wire.Header{Type: wire.TypeReject}, reject[:min(len(reject), 1024)]))
	}
	defer b.dismiss(in)
	if err := b.journal.Sync(); err != nil {
		return err
	}
	p := b.journal.Point()
	opened := wire.Opened{Lineage: p.Lineage, Committed: p.Epoch}
	if p.Complete {
		opened.Flags |= wire.OpenedComplete
		opened.Time = uint64(p.Time.UnixNano())
	}
	if !p.Touched && !b.onDevices() {
		opened.Flags |= wire.OpenedFresh
	}
	if err := in.answer(wire.Header{Type: wire.TypeOpened}, opened.Append(nil)); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	over := make(chan struct{})
	wg.Go(func() { in.beat(over) })
	wg.Go(func() { in.confirm(over, p.Epoch) })
	err = in.takeAll(r)
	close(over)
	wg.Wait()
	b.journal.Discard()
	return err
}

// admit lets a source in: alone, when nothing of its predecessor touches the journal any more.
func (b *Standby) admit(in *standbyLink, open *wire.Open) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if err := b.admissibleLocked(in, open); err != nil {
			return err
		}
		old := b.incoming
		if old == nil {
			break
		}
		old.cut()
		b.mu.Unlock()
		<-old.done
		b.mu.Lock()
	}
	b.incoming = in
	b.last = incomingID{open.Session, open.Connection}
	return nil
}

func (b *Standby) admissibleLocked(in *standbyLink, open *wire.Open) error {
	m := &b.meta
	switch {
	case b.closed:
		return ErrClosed
	case open.Version != wire.Version:
		return fmt.Errorf("protocol version %d, this agent speaks %d: run the same release at both ends", open.Version, wire.Version)
	case open.Name != m.Name || len(open.Volumes) != len(m.Volumes):
		return fmt.Errorf("group %s of %d volumes came to standby %s of %d", open.Name, len(open.Volumes), m.Name, len(m.Volumes))
	case in.epoch != m.Epoch:
		return fmt.Errorf("%w: group of epoch %d, the standby is at %d", ErrStale, in.epoch, m.Epoch)
	case b.journal.Err() != nil:
		return fmt.Errorf("%w: delete the standby and create it again: %w", ErrRole, b.journal.Err())
	case b.last.session == open.Session && open.Connection <= b.last.connection:
		return fmt.Errorf("%w: connection %d after %d", ErrStale, open.Connection, b.last.connection)
	}
	for i, v := range open.Volumes {
		if v.Name != m.Volumes[i].Name || v.Size != uint64(m.Volumes[i].Size) {
			return fmt.Errorf("volume %d of the group is %s of %d bytes, the standby has %s of %d: make them alike",
				i, v.Name, v.Size, m.Volumes[i].Name, m.Volumes[i].Size)
		}
	}
	return nil
}

func (b *Standby) dismiss(in *standbyLink) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.incoming = nil
	b.changed.Broadcast()
	close(in.done)
}

func (in *standbyLink) answer(h wire.Header, content []byte) error {
	h.Epoch = in.epoch
	f := in.enc.Encode(h, content)
	defer f.Release()
	in.write.Lock()
	defer in.write.Unlock()
	_, err := in.conn.Write(f.B)
	return err
}

// beat tells the source that this end is alive, how many frames it has, and whether it is busy with one.
func (in *standbyLink) beat(over <-chan struct{}) {
	tick := time.NewTicker(in.b.store.opts.LinkTimeout / 5)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
			h := wire.Header{Type: wire.TypeAck, Seq: in.seq.Load()}
			if in.busy.Load() {
				h.Offset = 1
			}
			if in.answer(h, nil) != nil {
				in.cut()
				return
			}
		}
	}
}

func (in *standbyLink) takeAll(r *wire.Reader) error {
	for {
		h, content, err := r.Next()
		if err != nil {
			return err
		}
		if want := in.seq.Load() + 1; h.Epoch != in.epoch || h.Seq != want {
			return fmt.Errorf("%w: frame %d of epoch %d instead of %d of %d", wire.ErrCorrupt, h.Seq, h.Epoch, want, in.epoch)
		}
		in.busy.Store(true)
		if err := in.take(&h, content); err != nil {
			return err
		}
		in.seq.Store(h.Seq)
		in.busy.Store(false)
		if h.Type == wire.TypeKeep { // someone waits for it
			if err := in.answer(wire.Header{Type: wire.TypeAck, Seq: h.Seq}, nil); err != nil {
				return err
			}
		}
	}
}

// take carries out one frame.
func (in *standbyLink) take(h *wire.Header, content []byte) error {
	j := in.b.journal
	switch h.Type {
	case wire.TypeBegin:
		in.number, in.frames, in.content = h.Offset, 0, 0
		if err := in.b.room(); err != nil {
			return err
		}
		return j.Begin(h.Offset)
	case wire.TypeData, wire.TypeZero, wire.TypeLost:
		in.frames++
		in.content += uint64(h.Length)
		if h.Type == wire.TypeLost {
			return j.Lose(int(h.Volume), int64(h.Offset), int64(h.Length))
		}
		if h.Type == wire.TypeZero {
			content = nil
		}
		return j.Put(int(h.Volume), int64(h.Offset), int64(h.Length), content)
	case wire.TypeCommit:
		return in.commit(h, content)
	case wire.TypeAsk:
		return in.hash(h)
	case wire.TypeFetch:
		return in.fetch(h)
	case wire.TypeKeep:
		seconds, name, err := wire.ParseKeep(content)
		if err == nil {
			err = j.Sync()
		}
		if err == nil {
			_, err = in.b.keep(name, time.Duration(min(seconds, 1<<32))*time.Second)
		}
		return err
	default:
		return fmt.Errorf("%w: type %d from a source", wire.ErrCorrupt, h.Type)
	}
}

// room waits until the disks have not too much to catch up.
func (b *Standby) room() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.journal.Backlog() > maxBacklog && !b.closed {
		if b.trouble != nil {
			return b.trouble
		}
		b.changed.Wait()
	}
	return nil
}

func (in *standbyLink) commit(h *wire.Header, content []byte) error {
	c, err := wire.ParseCommit(content)
	if err != nil {
		return err
	}
	if c.Frames != in.frames || c.Content != in.content || h.Offset != in.number {
		return fmt.Errorf("%w: commit of epoch %d for %d frames of %d bytes, %d of %d came in epoch %d", wire.ErrCorrupt,
			h.Offset, c.Frames, c.Content, in.frames, in.content, in.number)
	}
	if err := in.b.journal.Seal(h.Offset, time.Unix(0, int64(c.Time))); err != nil {
		return err
	}
	in.number = 0
	select {
	case in.sealed <- struct{}{}:
	default: // it is told already
	}
	return nil
}

// confirm makes durable what is sealed, one sync for all that came meanwhile, and says so.
func (in *standbyLink) confirm(over <-chan struct{}, told uint64) {
	b := in.b
	for {
		select {
		case <-over:
			return
		case <-in.sealed:
		}
		err := b.journal.Sync()
		point := b.journal.Point().Epoch
		if err == nil && point == told {
			continue
		}
		told = point
		if err == nil {
			b.mu.Lock()
			b.changed.Broadcast()
			b.mu.Unlock()
			err = in.answer(wire.Header{Type: wire.TypeCommitted, Offset: point}, nil)
		}
		if err != nil {
			b.note(err)
			in.cut()
			return
		}
	}
}

// read reads a range as it is at the last consistent point, or, in a first copy, as far as that came.
func (in *standbyLink) read(h *wire.Header) ([]byte, error) {
	b := in.b
	if int(h.Volume) >= len(b.volumes) || h.Offset > uint64(b.volumes[h.Volume].size) ||
		uint64(h.Length) > uint64(b.volumes[h.Volume].size)-h.Offset {
		return nil, fmt.Errorf("%w: frame %d reaches beyond volume %d", wire.ErrCorrupt, h.Seq, h.Volume)
	}
	if err := errors.Join(b.journal.Sync(), b.journal.Settle()); err != nil {
		return nil, err
	}
	if cap(in.buf) < int(h.Length) {
		in.buf = make([]byte, h.Length)
	}
	p := in.buf[:h.Length]
	if hole, err := b.volumes[h.Volume].hole(p, int64(h.Offset)); hole || err != nil {
		return p, err
	}
	return p, b.journal.ReadAt(int(h.Volume), p, int64(h.Offset))
}

// hash answers what a range holds. A block that is not what was written here gets a hash that fits nothing, so that it is sent.
func (in *standbyLink) hash(h *wire.Header) error {
	p, err := in.read(h)
	rotten := errors.Is(err, disk.ErrCorrupt)
	if err != nil && !rotten {
		return err
	}
	hashes := make([]byte, 0, len(p)/wire.HashBlock*8+8)
	for at := 0; at < len(p); at += wire.HashBlock {
		block := p[at:min(at+wire.HashBlock, len(p))]
		wrong := uint64(0)
		if rotten {
			if wrong, err = in.salvage(h.Volume, block, int64(h.Offset)+int64(at)); err != nil {
				return err
			}
		}
		hashes = binary.BigEndian.AppendUint64(hashes, xxh3.HashSeed(block, in.session)^wrong)
	}
	return in.answer(wire.Header{Type: wire.TypeHashes, Volume: h.Volume, Offset: h.Offset}, hashes)
}

// salvage reads one block, right or wrong; wrong has all bits set if it is not what was written.
func (in *standbyLink) salvage(volume uint16, p []byte, off int64) (wrong uint64, err error) {
	v := in.b.volumes[volume]
	_, err = v.disk.ReadAt(p, off)
	if errors.Is(err, disk.ErrCorrupt) {
		return ^uint64(0), v.disk.Salvage(p, off)
	}
	return 0, err
}

// fetch answers with a range; without it if it is not right here.
func (in *standbyLink) fetch(h *wire.Header) error {
	p, err := in.read(h)
	if errors.Is(err, disk.ErrCorrupt) {
		return in.answer(wire.Header{Type: wire.TypeMissing, Volume: h.Volume, Offset: h.Offset}, nil)
	}
	if err != nil {
		return err
	}
	return in.answer(wire.Header{Type: wire.TypeData, Volume: h.Volume, Offset: h.Offset}, p)
}
