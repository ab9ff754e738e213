package storage

import (
	"fmt"
	"io"
	"time"

	"github.com/godwit-project/godwit/storage/changes"
	"github.com/godwit-project/godwit/storage/wire"
)

const (
	// frameRun is how much data one bulk frame carries, in bytes; a multiple of changes.BlockSize. 128 KiB are 10 ms at 100 Mbit/s.
	frameRun = 128 << 10
	// retryRead is the pause after the local disk failed to deliver.
	retryRead = time.Second
)

// copy is the bulk copier: it ships dirty ranges over the link, bounded by the window, until the link breaks.
func (s *source) copy(l *link) {
	buf := make([]byte, frameRun)
	cursor := int64(0)
	for {
		s.mu.Lock()
		for !l.broken && (s.dirty.Count() == 0 || l.bulk >= l.window) {
			s.changed.Wait()
		}
		if l.broken {
			s.mu.Unlock()
			return
		}
		off, length := s.dirty.Next(cursor, wire.MaxZero)
		s.mu.Unlock()
		n, err := s.ship(l, off, min(length, s.v.size-off), buf)
		if err != nil {
			s.mu.Lock()
			s.trouble = fmt.Errorf("read what is to be replicated: %w", err)
			s.mu.Unlock()
			select {
			case <-s.ctx.Done():
			case <-time.After(retryRead):
			}
			continue
		}
		cursor = off + n
	}
}

// ship puts the beginning of a dirty range on the stream and returns how much of it that was; 0 means try again. It reads
// and reserves the place in the stream under the lock that writers take: what was read cannot be older than what a writer
// puts on the stream before.
func (s *source) ship(l *link, off, length int64, buf []byte) (int64, error) {
	hole, err := s.holeAt(off, length)
	if err != nil {
		return 0, err
	}
	if hole > 0 {
		length = hole
	} else {
		length = min(length, int64(len(buf)))
	}
	held := s.v.ranges.lock(off, length)
	defer s.v.ranges.unlock(held)
	var content []byte
	if hole > 0 {
		if again, err := s.holeAt(off, length); err != nil || again != hole {
			return 0, err // someone wrote there meanwhile
		}
	} else {
		content = buf[:length]
		if _, err := s.v.file.ReadAt(content, off); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		if isZero(content) {
			content = nil
		}
	}
	s.mu.Lock()
	if l.broken {
		s.mu.Unlock()
		return 0, nil
	}
	s.dirty.Clear(off, length)
	f := &flight{off: off, length: length, bulk: true}
	l.reserve(f, false)
	s.mu.Unlock()
	s.publish(l, f, s.encode(f, content, 0))
	return length, nil
}

// holeAt returns the length of the hole at off, at most length and in whole blocks; 0 when there is data.
func (s *source) holeAt(off, length int64) (int64, error) {
	start, _, _, err := nextData(s.v.file, off, s.v.size)
	if err != nil {
		return 0, err
	}
	if start >= off+length {
		return length, nil
	}
	return (start - off) / changes.BlockSize * changes.BlockSize, nil
}

// encode makes the frame of a flight; without content it is zeroes.
func (s *source) encode(f *flight, content []byte, flags uint8) *wire.Frame {
	h := wire.Header{Type: wire.TypeData, Flags: flags, Epoch: s.epoch, Seq: f.seq, Offset: uint64(f.off)}
	if content == nil {
		h.Type, h.Length = wire.TypeZero, uint32(f.length)
	}
	return s.enc.Encode(h, content)
}

// ticket is a mirrored write's place on the stream; link is nil if it was not mirrored.
type ticket struct {
	link *link
	seq  uint64
}

// mirror puts a client's change on the stream, if writes are mirrored at the moment. The caller holds the range and marks it
// dirty when the ticket has no link.
func (s *source) mirror(c *change) ticket {
	var t ticket
	for done := int64(0); done < c.length; {
		n := min(c.length-done, wire.MaxZero)
		var content []byte
		if c.data != nil {
			n = min(n, wire.MaxData)
			content = c.data[done : done+n]
		}
		f := &flight{off: c.off + done, length: n}
		s.mu.Lock()
		if t.link == nil {
			t.link = s.link
		}
		if !s.mirroring || t.link == nil || t.link.broken {
			s.mu.Unlock()
			return ticket{}
		}
		t.link.reserve(f, true)
		s.mu.Unlock()
		t.seq = f.seq
		s.publish(t.link, f, s.encode(f, content, wire.FlagSync))
		done += n
	}
	return t
}

// settled waits until the replica has the change on stable storage, or the link is broken and the change dirty again.
func (s *source) settled(t ticket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !t.link.broken && t.link.durable < t.seq {
		s.changed.Wait()
	}
}
