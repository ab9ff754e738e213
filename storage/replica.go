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

	"github.com/godwit-project/godwit/storage/wire"
)

const (
	// ackEvery is how much is applied before it is confirmed although more is waiting to be read, in bytes.
	ackEvery = 256 << 10
	// backlog is how much may be applied before fdatasync runs in the background, in bytes, so that little is left for the
	// moment when the guest stands still.
	backlog = 32 << 20
)

// incomingID orders the connections of one session.
type incomingID struct{ session, connection uint64 }

// incoming is the receiving half of a replication session: one connection from a source. One goroutine reads and applies,
// another makes durable and says so.
type incoming struct {
	v     *Volume
	epoch uint64
	conn  net.Conn
	enc   *wire.Encoder
	done  chan struct{} // closed when nothing of it touches the volume any more

	applied  atomic.Int64 // bytes of content
	received atomic.Int64 // bytes on the wire

	write sync.Mutex // one answer at a time on the connection

	mu      sync.Mutex
	changed sync.Cond
	seq     uint64 // applied up to
	durable uint64 // on stable storage up to
	wanted  uint64 // someone waits for stable storage up to
	unsaved int64  // bytes applied since the last fdatasync began
	ended   bool
	frames  uint64
	content uint64
}

// cut ends the connection without waiting.
func (in *incoming) cut() { _ = in.conn.Close() }

// Read counts what arrives.
func (in *incoming) Read(p []byte) (int, error) {
	n, err := in.conn.Read(p)
	in.received.Add(int64(n))
	return n, err
}

// ServeReplica takes a connection that a source's Replicate has dialled, already authenticated, and applies what comes over
// it until it ends; it owns conn and closes it. A connection of an older epoch is refused, a newer connection of the same
// epoch replaces the one before.
func (v *Volume) ServeReplica(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return fmt.Errorf("receive replication of volume %s: %w", v.name, ErrClosed)
	}
	v.wg.Add(1)
	v.mu.Unlock()
	defer v.wg.Done()
	for _, over := range []context.Context{ctx, v.life} {
		stop := context.AfterFunc(over, func() { _ = conn.Close() })
		defer stop()
	}
	if err := v.receive(conn); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("receive replication of volume %s: %w", v.name, err)
	}
	return nil
}

func (v *Volume) receive(conn net.Conn) error {
	enc, err := wire.NewEncoder()
	if err != nil {
		return err
	}
	in := &incoming{v: v, conn: conn, enc: enc, done: make(chan struct{})}
	in.changed.L = &in.mu
	r, err := wire.NewReader(in)
	if err != nil {
		return err
	}
	defer r.Close()
	_ = conn.SetDeadline(time.Now().Add(v.opts.LinkTimeout))
	h, content, err := r.Next()
	if err != nil {
		return err
	}
	if h.Type != wire.TypeHello {
		return fmt.Errorf("%w: type %d instead of a hello", wire.ErrCorrupt, h.Type)
	}
	hello, err := wire.ParseHello(content)
	if err != nil {
		return err
	}
	in.epoch = h.Epoch
	welcome, err := v.admit(in, hello)
	if errors.Is(err, ErrClosed) {
		return err // no refusal: the source finds the volume again when the agent is back
	}
	if err != nil {
		reject := []byte(err.Error())
		return errors.Join(err, in.answer(wire.Header{Type: wire.TypeReject}, reject[:min(len(reject), 1024)]))
	}
	defer v.dismiss(in)
	if err := in.answer(welcome, nil); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(in.commit)
	err = in.applyAll(r)
	in.mu.Lock()
	in.ended = true
	in.changed.Broadcast()
	in.mu.Unlock()
	wg.Wait()
	return err
}

// admit lets a source in: alone, when nothing of its predecessor touches the volume any more.
func (v *Volume) admit(in *incoming, hello wire.Hello) (wire.Header, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for {
		if err := v.admissibleLocked(in, hello); err != nil {
			return wire.Header{}, err
		}
		old := v.incoming
		if old == nil {
			break
		}
		old.cut()
		v.mu.Unlock()
		<-old.done
		v.mu.Lock()
	}
	welcome := wire.Header{Type: wire.TypeWelcome, Offset: v.bootID}
	if !v.meta.Touched && v.meta.Device == "" { // whatever is on a device, it need not be zeroes
		welcome.Seq |= wire.WelcomeFresh
	}
	if v.meta.Complete {
		welcome.Seq |= wire.WelcomeComplete
	}
	if err := v.updateLocked(func(m *metadata) { m.Touched = true }); err != nil {
		return wire.Header{}, err
	}
	v.incoming = in
	v.last = incomingID{hello.Session, hello.Connection}
	return welcome, nil
}

func (v *Volume) admissibleLocked(in *incoming, hello wire.Hello) error {
	switch m := &v.meta; {
	case v.closed:
		return ErrClosed
	case hello.Version != wire.Version:
		return fmt.Errorf("protocol version %d, this agent speaks %d: run the same release at both ends", hello.Version, wire.Version)
	case hello.Name != m.Name || hello.Size != uint64(m.Size):
		return fmt.Errorf("replication of %s (%d bytes) came to volume %s (%d bytes)", hello.Name, hello.Size, m.Name, m.Size)
	case m.Role != RoleReplica:
		return fmt.Errorf("%w: volume %s is %s at epoch %d", ErrRole, m.Name, m.Role, m.Epoch)
	case m.Group != "":
		return fmt.Errorf("%w: volume %s belongs to standby %s", ErrRole, m.Name, m.Group)
	case in.epoch != m.Epoch:
		return fmt.Errorf("%w: session of epoch %d, the replica is at %d", ErrStale, in.epoch, m.Epoch)
	case v.promoting:
		return fmt.Errorf("%w: replica %s is being promoted", ErrRole, m.Name)
	case m.Spoiled:
		return fmt.Errorf("%w: the disk of replica %s has failed, delete it and prepare again: %s", ErrRole, m.Name, v.trouble)
	case v.last.session == hello.Session && hello.Connection <= v.last.connection:
		return fmt.Errorf("%w: connection %d after %d", ErrStale, hello.Connection, v.last.connection)
	}
	return nil
}

func (v *Volume) dismiss(in *incoming) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.incoming = nil
	v.changed.Broadcast()
	close(in.done)
}

// answer sends a frame to the source.
func (in *incoming) answer(h wire.Header, content []byte) error {
	in.write.Lock()
	defer in.write.Unlock()
	return in.answerLocked(h, content)
}

func (in *incoming) answerLocked(h wire.Header, content []byte) error {
	h.Epoch = in.epoch
	f := in.enc.Encode(h, content)
	defer f.Release()
	_, err := in.conn.Write(f.B)
	return err
}

// ack tells the source how far everything is, in order: a later answer never says less.
func (in *incoming) ack() error {
	in.write.Lock()
	defer in.write.Unlock()
	in.mu.Lock()
	h := wire.Header{Type: wire.TypeAck, Seq: in.seq, Offset: in.durable}
	in.mu.Unlock()
	return in.answerLocked(h, nil)
}

func (in *incoming) applyAll(r *wire.Reader) error {
	unacked := int64(0)
	for {
		h, content, err := r.Next()
		if err != nil {
			return err
		}
		if err := in.apply(&h, content); err != nil {
			return err
		}
		if unacked += int64(h.Length); unacked >= ackEvery || r.Buffered() < wire.HeaderSize {
			if err := in.ack(); err != nil {
				return err
			}
			unacked = 0
		}
	}
}

// apply carries out one frame of the stream.
func (in *incoming) apply(h *wire.Header, content []byte) error {
	in.mu.Lock()
	seq := in.seq
	in.mu.Unlock()
	if h.Epoch != in.epoch || h.Seq != seq+1 {
		return fmt.Errorf("%w: frame %d of epoch %d after frame %d of epoch %d", wire.ErrCorrupt, h.Seq, h.Epoch, seq, in.epoch)
	}
	switch h.Type {
	case wire.TypeData, wire.TypeZero:
		if err := in.store(h, content); err != nil {
			return err
		}
	case wire.TypeBarrier:
	case wire.TypeComplete:
		return in.complete(h, content)
	default:
		return fmt.Errorf("%w: type %d from a source", wire.ErrCorrupt, h.Type)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.seq = h.Seq
	in.unsaved += int64(len(content))
	if h.Flags&wire.FlagSync != 0 || in.unsaved >= backlog {
		in.wanted = h.Seq
		in.changed.Signal()
	}
	return nil
}

func (in *incoming) store(h *wire.Header, content []byte) error {
	v := in.v
	if h.Offset > uint64(v.size) || uint64(h.Length) > uint64(v.size)-h.Offset {
		return fmt.Errorf("%w: frame %d reaches beyond the volume", wire.ErrCorrupt, h.Seq)
	}
	if err := v.reopenReplica(); err != nil {
		return err
	}
	c := change{off: int64(h.Offset), length: int64(h.Length), data: content}
	if h.Type == wire.TypeZero {
		c.data = nil
	}
	if err := v.apply(&c); err != nil {
		return v.spoil(err)
	}
	in.applied.Add(c.length)
	in.frames++
	in.content += uint64(c.length)
	return nil
}

// reopenReplica withdraws the completion marker before anything is written after it.
func (v *Volume) reopenReplica() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.updateLocked(func(m *metadata) { m.Complete = false })
}

// spoil gives the replica up after its disk failed: what is on it is unknown, so nothing may call it complete.
func (v *Volume) spoil(err error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.noteLocked(fmt.Errorf("replica is spoiled, delete it and prepare again: %w", err))
	saved := v.updateLocked(func(m *metadata) { m.Complete, m.Spoiled = false, true })
	v.meta.Complete, v.meta.Spoiled = false, true
	return errors.Join(err, saved)
}

// complete records that the replica has everything, durably, and says so.
func (in *incoming) complete(h *wire.Header, content []byte) error {
	if h.Offset != in.frames || binary.BigEndian.Uint64(content) != in.content {
		return fmt.Errorf("%w: marker for %d frames of %d bytes, %d of %d came", wire.ErrCorrupt,
			h.Offset, binary.BigEndian.Uint64(content), in.frames, in.content)
	}
	if err := in.v.disk.Sync(); err != nil {
		return in.v.spoil(err)
	}
	in.v.mu.Lock()
	err := in.v.updateLocked(func(m *metadata) { m.Complete = true })
	in.v.mu.Unlock()
	if err != nil {
		return err
	}
	if err := in.answer(wire.Header{Type: wire.TypeCompleted, Seq: h.Seq}, nil); err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.seq = h.Seq
	in.durable, in.unsaved = max(in.durable, h.Seq), 0
	return nil
}

// commit makes durable what someone waits for: one fdatasync for all that was applied meanwhile.
func (in *incoming) commit() {
	for {
		in.mu.Lock()
		for !in.ended && in.wanted <= in.durable {
			in.changed.Wait()
		}
		if in.ended {
			in.mu.Unlock()
			return
		}
		target := in.seq
		in.unsaved = 0
		in.mu.Unlock()
		err := in.v.disk.Sync()
		if err != nil {
			err = in.v.spoil(err)
		} else {
			in.mu.Lock()
			in.durable = max(in.durable, target)
			in.mu.Unlock()
			err = in.ack()
		}
		if err != nil {
			in.cut()
			return
		}
	}
}
