package dvs

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/ring"
	"github.com/godwit-project/godwit/dvs/socket"
	"github.com/godwit-project/godwit/dvs/wire"
)

// Options of a session.
type Options struct {
	Container string // which names it sees
	Program   string // for people who look at the node; default the program's file name
	// NodeOnly sends everything through the node, as a program does that cannot share memory.
	NodeOnly bool
}

// Session is a program's connection to its node, and a caller without a name. It is safe for concurrent use.
type Session struct {
	container string
	node      string
	maxLen    int
	conn      *socket.Conn
	bell      *os.File // own; nil if NodeOnly
	*caller            // its calls are the session's
	wg        sync.WaitGroup

	mu        sync.Mutex
	err       error      // why nothing works any more
	room      *sync.Cond // of those who give pieces of a state
	page      ring.Memory
	scratch   []byte
	nextCall  uint32
	calls     map[uint32]chan wire.Answer
	binding   map[uint32]*Endpoint // by call
	channels  map[uint32]*ring.Channel
	areas     map[*ring.Channel]bool // whose memory for copies is in use
	routes    map[endpoint.ID]*route
	names     map[string]*route // the same, by name
	endpoints map[endpoint.ID]*Endpoint
	callers   map[uint64]*caller
	paths     map[uint64]uint32 // by caller: the channel of its latest request, 0 the node
	spin
	lead chan struct{} // who has put a token in reads the bell; nil if there is none
}

// route is what a session knows of an endpoint that it talks to.
type route struct {
	endpoint.Route
	name    string
	id      endpoint.ID
	known   bool // the node has told
	channel uint32
	waiting map[*caller]struct{} // with a request to it outstanding
}

// Connect opens a session at the node that listens on the socket. ctx bounds the opening only.
func Connect(ctx context.Context, path string, o Options) (*Session, error) {
	s, err := connect(ctx, path, o)
	if err != nil {
		return nil, fault("connect", o.Container, err)
	}
	return s, nil
}

func connect(ctx context.Context, path string, o Options) (*Session, error) {
	if o.Container == "" || len(o.Container) > wire.MaxName {
		return nil, fmt.Errorf("%w: %w", ErrContainer, ErrName)
	}
	if o.Program == "" {
		o.Program = filepath.Base(os.Args[0])
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w: is the node running? %w", ErrNotConnected, err)
	}
	conn, err := socket.New(raw.(*net.UnixConn))
	if err != nil {
		return nil, err
	}
	s := &Session{
		container: o.Container, conn: conn,
		calls: map[uint32]chan wire.Answer{}, binding: map[uint32]*Endpoint{}, channels: map[uint32]*ring.Channel{}, areas: map[*ring.Channel]bool{}, routes: map[endpoint.ID]*route{}, names: map[string]*route{},
		endpoints: map[endpoint.ID]*Endpoint{}, callers: map[uint64]*caller{}, paths: map[uint64]uint32{},
	}
	s.room = sync.NewCond(&s.mu)
	s.caller = newCaller(s, "", newIncarnation())
	s.callers[s.core.ID()] = s.caller
	stop := context.AfterFunc(ctx, func() { conn.Shut(ctx.Err()) })
	err = s.hello(o)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	s.wg.Go(s.readNode)
	return s, nil
}

// newIncarnation draws a number that no other caller has, ever.
func newIncarnation() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:]) | 1
}

func (s *Session) hello(o Options) error {
	m := wire.Hello{Version: wire.Version, Direct: !o.NodeOnly, Caller: s.core.ID(), Container: o.Container, Program: o.Program}
	if err := s.conn.Send(m.Append(nil)); err != nil {
		return err
	}
	f, err := s.conn.Read()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	if f.Kind == wire.KindAnswer {
		a, err := wire.ParseAnswer(f.Body)
		return errors.Join(coded(a.Code, a.Text), err)
	}
	if f.Kind != wire.KindWelcome {
		return fmt.Errorf("%w: %s for a welcome", wire.ErrFrame, f.Kind)
	}
	w, err := wire.ParseWelcome(f.Body)
	if err != nil {
		return err
	}
	s.node, s.maxLen = w.Node, int(w.MaxPayload)
	if o.NodeOnly {
		return nil
	}
	fds, err := s.conn.Files(5)
	if err != nil {
		return err
	}
	defer ring.Close(fds[0])
	if s.page, err = ring.Map(fds[0], ring.PageSize); err != nil {
		ring.Close(fds[1:]...)
		return err
	}
	if s.channels[0], err = ring.Open(0, 0, fds[2:]); err != nil {
		ring.Close(fds[1])
		return err
	}
	if err := s.channels[0].Send(wire.Caller{Caller: s.core.ID()}.Append(nil)); err != nil { // so that the node uses the ring as well
		return err
	}
	s.score, s.linger = scoreTop, scoreTop
	s.bell = os.NewFile(uintptr(fds[1]), "bell")
	s.lead = make(chan struct{}, 1)
	return nil
}

// Node returns the name of the node.
func (s *Session) Node() string { return s.node }

// Close ends the session: its endpoints are unbound, whoever waits for them is told. Calls under way fail with ErrClosed.
func (s *Session) Close() {
	s.fail(ErrClosed)
	s.wg.Wait()
	s.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.waiting > 0 { // they have been woken
		s.room.Wait()
	}
	for i, c := range s.channels {
		s.closeLocked(c)
		delete(s.channels, i)
	}
	if s.page != nil {
		s.page.Unmap()
		s.page = nil
	}
}

// fail wakes everybody with err; the first reason stays.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	for _, c := range s.callers {
		c.endLocked(endpoint.Reply{}, err)
	}
	for _, e := range s.endpoints {
		e.failLocked(err)
	}
	for id, ch := range s.calls {
		close(ch)
		delete(s.calls, id)
	}
	s.room.Broadcast()
	s.conn.Shut(err)
	if s.bell != nil {
		_ = s.bell.Close()
	}
}

// readNode takes in what the node says, until it is gone.
func (s *Session) readNode() {
	for {
		f, err := s.conn.Read()
		if err == nil {
			s.mu.Lock()
			err = s.fromNodeLocked(f)
			s.mu.Unlock()
		}
		if err != nil {
			s.fail(fmt.Errorf("%w: %w", ErrNotConnected, err))
			return
		}
	}
}

func (s *Session) fromNodeLocked(f wire.Frame) error {
	switch f.Kind {
	case wire.KindAnswer:
		m, err := wire.ParseAnswer(f.Body)
		if err == nil {
			s.onAnswerLocked(m)
		}
		return err
	case wire.KindRoute:
		m, err := wire.ParseRoute(f.Body)
		if err == nil {
			s.onRouteLocked(m)
		}
		return err
	case wire.KindIntroduce:
		m, err := wire.ParseIntroduce(f.Body)
		if err != nil {
			return err
		}
		return s.onIntroduceLocked(m)
	case wire.KindRevoke:
		m, err := wire.ParseRevoke(f.Body)
		if err == nil {
			s.onRevokeLocked(m.Channel)
		}
		return err
	case wire.KindGone:
		m, err := wire.ParseGone(f.Body)
		if err == nil {
			s.onGoneLocked(m.Caller)
		}
		return err
	case wire.KindOrder:
		m, err := wire.ParseOrder(f.Body)
		if err == nil {
			s.onOrderLocked(m)
		}
		return err
	case wire.KindChunk:
		m, err := wire.ParseChunk(f.Body)
		if err == nil {
			s.onChunkLocked(m)
		}
		return err
	case wire.KindPiece:
		m, err := wire.ParsePiece(f.Body)
		if err == nil {
			s.onPieceLocked(m)
		}
		return err
	case wire.KindCredit:
		m, err := wire.ParseCredit(f.Body)
		if err == nil {
			s.onCreditLocked(m)
		}
		return err
	default:
		return s.messageLocked(f, 0)
	}
}

// messageLocked takes in a message that came by a channel, or by the node (0).
func (s *Session) messageLocked(f wire.Frame, via uint32) error {
	switch f.Kind {
	case wire.KindReply:
		m, err := wire.ParseReply(f.Body)
		if err == nil {
			s.onReplyLocked(m)
		}
		return err
	case wire.KindRequest:
		m, err := wire.ParseRequest(f.Body)
		if err == nil {
			s.onRequestLocked(m, via)
		}
		return err
	case wire.KindProbe, wire.KindCancel:
		m, err := wire.ParseInquiry(f.Body)
		if err == nil {
			s.onInquiryLocked(f.Kind, m, via)
		}
		return err
	default:
		return fmt.Errorf("%w: unexpected %s", wire.ErrFrame, f.Kind)
	}
}

func (s *Session) onAnswerLocked(m wire.Answer) {
	if e := s.binding[m.Call]; e != nil {
		delete(s.binding, m.Call)
		if m.Code == endpoint.OK && !e.opts.Standby {
			e.renewLocked(m.Version)
		}
	}
	if ch := s.calls[m.Call]; ch != nil {
		delete(s.calls, m.Call)
		ch <- m
	}
}

func (s *Session) onIntroduceLocked(m wire.Introduce) error {
	fds, err := s.conn.Files(3)
	if err != nil {
		return err
	}
	c, err := ring.Open(m.PeerChannel, m.Side, fds)
	if err != nil {
		return err
	}
	s.onRevokeLocked(m.Channel)
	s.channels[m.Channel] = c
	s.pollChannelLocked(m.Channel)
	return nil
}

// onRevokeLocked drops a channel. What the peer wrote last is still taken in.
func (s *Session) onRevokeLocked(index uint32) {
	s.pollChannelLocked(index)
	c := s.channels[index]
	if c == nil {
		return
	}
	delete(s.channels, index)
	s.closeLocked(c)
	for _, r := range s.routes {
		if r.channel == index {
			r.channel = 0
		}
	}
	for caller, via := range s.paths {
		if via == index && index != 0 {
			delete(s.paths, caller)
		}
	}
}

func (s *Session) closeLocked(c *ring.Channel) {
	delete(s.areas, c) // whoever was using it sees that it is gone
	c.Close()
}

func (s *Session) onGoneLocked(caller uint64) {
	delete(s.paths, caller)
	for _, e := range s.endpoints {
		e.box.Gone(caller)
		if e.opts.Gone != nil {
			e.opts.Gone(caller)
		}
	}
}

// sendLocked sends a frame by a channel, or by the node when there is none.
func (s *Session) sendLocked(frame []byte, via uint32) {
	if c := s.channels[via]; c != nil && (via != 0 || len(frame) <= ring.Long) {
		if err := c.Send(frame); err == nil {
			return
		}
		s.onRevokeLocked(via)
	}
	_ = s.conn.Send(frame) // when it fails, the reader notices and wakes everybody
}

// keepScratch keeps the buffer for the next frame, unless it is huge.
func (s *Session) keepScratch(b []byte) {
	if cap(b) <= 1<<20 {
		s.scratch = b[:0]
	}
}

// ask makes a call to the node.
func (s *Session) ask(ctx context.Context, frame func(call uint32) []byte) (wire.Answer, error) {
	ch := make(chan wire.Answer, 1)
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return wire.Answer{}, s.err
	}
	s.nextCall++
	call := s.nextCall
	s.calls[call] = ch
	_ = s.conn.Send(frame(call))
	s.mu.Unlock()
	select {
	case a, ok := <-ch:
		if !ok {
			return a, s.reason()
		}
		return a, coded(a.Code, a.Text)
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.calls, call)
		s.mu.Unlock()
		return wire.Answer{}, errors.Join(ErrTimeout, ctx.Err())
	}
}

func (s *Session) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
