package dvs

import (
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/socket"
	"github.com/godwit-project/godwit/dvs/wire"
)

// fewStreams are looked at one by one; of more, the kernel is asked which have something.
const fewStreams = 2

// What is held until others of the program have said what they are about to say: so long at most, so many bytes.
const (
	holdTime = 50 * time.Microsecond
	holdMost = 64 << 10
)

// onStreamLocked begins to use a connection to a peer on another machine.
func (s *Session) onStreamLocked(m wire.Stream) error {
	fds, err := s.conn.Files(1)
	if err != nil {
		return err
	}
	st, err := socket.NewStream(fds[0], m.Secret, m.Side)
	if err != nil {
		return err
	}
	if s.bell == nil || s.leavingLocked() || s.hearLocked(st, m.Channel) != nil {
		st.Close()
		_ = s.conn.Send(wire.Revoke{Channel: m.Channel}.Append(nil))
		return nil
	}
	s.onRevokeLocked(m.Channel)
	st.Place(func(head wire.Encoded, payload int) []byte {
		_, c, _ := s.copyLocked(head, payload)
		if c == nil {
			return nil
		}
		c.landing = st
		return c.into
	})
	s.streams[m.Channel] = st
	if s.flush == nil {
		s.flush = make(chan struct{}, 1)
		s.wg.Go(s.flusher)
		s.lateFlush = time.AfterFunc(holdTime, s.askFlusher)
	}
	s.pollStreamLocked(m.Channel, st)
	s.restLocked()
	return nil
}

// hearLocked lets the session be woken by a stream.
func (s *Session) hearLocked(st *socket.Stream, index uint32) error {
	if s.ears == nil {
		e, err := newEars(s.bell)
		if err != nil {
			return err
		}
		old := s.post
		p := *old
		p.ears, p.changed = e, make(chan struct{})
		s.post = &p
		close(old.changed)
		_, _ = s.bell.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) // who waits for the bell alone looks up
	}
	return s.ears.add(st.FD(), index)
}

// over tells whether there is another post.
func (p *post) over() bool {
	select {
	case <-p.changed:
		return true
	default:
		return false
	}
}

// hangUpLocked ends a stream because the node says so. What has come is taken in.
func (s *Session) hangUpLocked(index uint32) {
	s.pollStreamLocked(index, s.streams[index])
	s.dropStreamLocked(index)
}

// brokenLocked ends a stream that does not work any more, and tells the node.
func (s *Session) brokenLocked(index uint32) {
	if s.dropStreamLocked(index) {
		_ = s.conn.Send(wire.Revoke{Channel: index}.Append(nil))
	}
}

// dropStreamLocked ends a stream. Whether what was under way has arrived nobody knows: callers ask again, by the node.
func (s *Session) dropStreamLocked(index uint32) bool {
	st := s.streams[index]
	if st == nil {
		return false
	}
	delete(s.streams, index)
	st.Close()
	for caller, via := range s.paths {
		if via == index {
			delete(s.paths, caller)
		}
	}
	for _, r := range s.routes {
		if r.channel != index {
			continue
		}
		r.channel = 0
		for c := range r.waiting {
			c.askedAt = endpoint.Version{}
			c.evaluateLocked()
		}
	}
	return true
}

// streamLocked sends a frame by a stream: at once, or with what follows soon.
func (s *Session) streamLocked(st *socket.Stream, index uint32, frame []byte, more bool) {
	var err error
	if (more || s.spinners > 0 || !s.calmLocked()) && st.Held() < holdMost {
		if st.Held() == 0 {
			s.held = append(s.held, index)
		}
		if err = st.Hold(frame); s.spinners == 0 && !s.late {
			s.late = true
			s.lateFlush.Reset(holdTime)
		}
	} else {
		err = st.Send(frame)
	}
	s.sentLocked(st, index, err)
}

// sentLocked notes how a stream has taken what was sent. What found no room the flusher writes.
func (s *Session) sentLocked(st *socket.Stream, index uint32, err error) {
	switch {
	case err != nil:
		s.brokenLocked(index)
	case st.Waiting() && !slices.Contains(s.held, index):
		s.held = append(s.held, index)
		s.askFlusher()
	}
}

// waveLocked ends a wave: who has not asked by now is not waited for.
func (s *Session) waveLocked() { s.wave, s.expected = s.wave+1, 0 }

// answeredLocked notes that a call has ended. One who asked at once after the answer before probably will again: what others say by a stream
// waits for it, so that one packet carries all.
func (c *caller) answeredLocked() {
	if len(c.s.streams) == 0 {
		return
	}
	c.answered = time.Now()
	if c.keen && c.counted != c.s.wave {
		c.counted = c.s.wave
		c.s.expected++
	}
}

// asksLocked notes that a call begins.
func (c *caller) asksLocked() {
	if c.answered.IsZero() {
		return
	}
	if c.keen && c.counted == c.s.wave {
		c.s.expected--
	}
	c.counted, c.keen = 0, time.Since(c.answered) < holdTime
	c.answered = time.Time{}
}

func (s *Session) askFlusher() {
	select {
	case s.flush <- struct{}{}:
	default:
	}
}

// flushLocked writes what is held. What finds no room stays, and the flusher is asked.
func (s *Session) flushLocked() (waiting []unix.PollFd) {
	if len(s.held) == 0 {
		return nil
	}
	left := 0
	for _, i := range s.held {
		st := s.streams[i]
		if st == nil {
			continue
		}
		if err := st.Flush(); err != nil {
			s.brokenLocked(i)
		} else if st.Waiting() {
			waiting = append(waiting, unix.PollFd{Fd: int32(st.FD()), Events: unix.POLLOUT})
			s.held[left] = i
			left++
		}
	}
	if s.held = s.held[:left]; left > 0 {
		s.askFlusher()
	}
	return waiting
}

// flusher writes what nobody else does: what is held while the program computes, and what found no room.
func (s *Session) flusher() {
	const most = 2 // milliseconds: others may have something to be written meanwhile
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.flush:
		}
		runtime.Gosched() // others are about to send
		s.mu.Lock()
		s.late = false
		s.waveLocked()
		waiting := s.flushLocked()
		s.mu.Unlock()
		if len(waiting) > 0 {
			if _, err := unix.Poll(waiting, most); err != nil {
				time.Sleep(time.Millisecond)
			}
		}
	}
}

// pollStreamsLocked takes in what has come by streams, and writes what is held.
func (s *Session) pollStreamsLocked() {
	if len(s.streams) <= fewStreams {
		for i, st := range s.streams {
			s.pollStreamLocked(i, st)
		}
		return
	}
	for _, e := range s.ears.ready(make([]unix.EpollEvent, 64)) {
		if st := s.streams[uint32(e.Fd)]; st != nil {
			s.pollStreamLocked(uint32(e.Fd), st)
		}
	}
}

// pollStreamLocked takes in what has come by one stream.
func (s *Session) pollStreamLocked(index uint32, st *socket.Stream) {
	for {
		e, err := st.Receive()
		if e == nil && err == nil {
			if st.Partial() {
				s.pieces++
			}
			return
		}
		if err == nil {
			s.visits++
			if landed, bad := s.landLocked(st, e); !landed && bad == nil {
				err = s.messageLocked(s.kept(e), index)
			} else {
				err = bad
			}
		}
		if err != nil {
			s.brokenLocked(index)
			return
		}
		if s.streams[index] != st {
			return
		}
	}
}

// copyLocked returns the reply to a copy, and the caller that waits for it with memory for so many bytes; no caller if it is something else.
func (s *Session) copyLocked(e wire.Encoded, payload int) (m endpoint.Reply, c *caller, err error) {
	if e.Kind() != wire.KindReply || len(s.callers) == 0 {
		return m, nil, nil
	}
	if m, err = wire.ParseReply(e.Body()); err != nil {
		return m, nil, err
	}
	c = s.callers[m.Caller]
	if c == nil || c.into == nil || m.Code != endpoint.OK || payload != len(c.into) {
		return m, nil, nil
	}
	if out, ok := c.core.Outstanding(); !ok || out.Seq != m.Seq || out.To != m.To {
		return m, nil, nil
	}
	return m, c, nil
}

// landLocked takes in the reply to a copy: its data go where they belong, or are there already.
func (s *Session) landLocked(st *socket.Stream, e wire.Encoded) (landed bool, err error) {
	if st.Landed() {
		m, err := wire.ParseReply(e.Body())
		if c := s.callers[m.Caller]; err == nil && c != nil && c.landing == st { // else it has given up
			c.landed, c.landing = true, nil
			s.onReplyLocked(m)
		}
		return true, err
	}
	m, c, err := s.copyLocked(e, len(e)-wire.ReplyHead)
	if c == nil {
		return false, err
	}
	copy(c.into, m.Payload)
	c.landed, m.Payload = true, nil
	s.onReplyLocked(m)
	return true, nil
}

// streamReplyLocked sends a reply by a stream.
func (s *Session) streamReplyLocked(st *socket.Stream, index uint32, r endpoint.Reply, more bool) {
	const long = 4096 // bytes that are better not copied first
	if len(r.Payload) < long || more || s.spinners > 0 && len(r.Payload) < 8*long {
		b := wire.AppendReply(s.scratch[:0], r)
		s.streamLocked(st, index, b, more)
		s.keepScratch(b)
		return
	}
	b := wire.AppendReplyHead(s.scratch[:0], r)
	err := st.SendParts(b, r.Payload)
	s.keepScratch(b)
	s.sentLocked(st, index, err)
}

// kept returns a frame whose memory is its own.
func (s *Session) kept(e wire.Encoded) wire.Frame { return slices.Clone(e).Frame() }

// endStreamsLocked closes all streams.
func (s *Session) endStreamsLocked() {
	for i, st := range s.streams {
		delete(s.streams, i)
		st.Close()
	}
	s.ears.close()
}
