package dvs

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

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
	// Reconnect is how long the session tries to connect again when its node has gone: its calls wait meanwhile, its endpoints keep what they
	// know and are bound again, and what was asked before is asked again. 0: everything fails with ErrNotConnected at once.
	Reconnect time.Duration
	whole     bool // the whole process moves: see MovesWhole
}

// Session is a program's connection to its node, and a caller without a name. It is safe for concurrent use.
type Session struct {
	container string
	path      string
	o         Options
	maxLen    atomic.Int64 // of a payload
	*caller                // its calls are the session's
	wg        sync.WaitGroup
	ctx       context.Context // ends with the session
	stop      context.CancelFunc

	mu   sync.Mutex
	err  error      // why nothing works any more
	room *sync.Cond // of those who give pieces of a state
	*post
	node      string
	conn      *socket.Conn
	lost      *time.Timer   // ends what waits for endpoints that do not come back
	away      bool          // there is no node: it is tried again
	old       []ring.Memory // pages of earlier connections: somebody may still look
	scratch   []byte
	nextCall  uint32
	calls     map[uint32]chan wire.Answer
	binding   map[uint32]*Endpoint // by call
	channels  map[uint32]*ring.Channel
	areas     map[*ring.Channel]bool // whose memory for copies is in use
	streams   map[uint32]*socket.Stream
	held      []uint32      // streams that have something that is to be written soon
	late      bool          // lateFlush runs
	flush     chan struct{} // asks the flusher; nil while there is none
	lateFlush *time.Timer   // asks it as well
	routes    map[endpoint.ID]*route
	names     map[string]*route // the same, by name
	endpoints map[endpoint.ID]*Endpoint
	callers   map[uint64]*caller
	reminder  *time.Timer // runs while calls wait
	reminding bool
	ticks     uint64
	paths     map[uint64]uint32 // by caller: the channel of its latest request, 0 the node
	spin
}

// post is where a session hears of its peers. Another connection has another one.
type post struct {
	page    ring.Memory   // nil if NodeOnly
	bell    *os.File      // likewise
	ears    *ears         // nil while there is no stream
	lead    chan struct{} // who has put a token in reads the bell; nil if there is none
	changed chan struct{} // closed when there is another post
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
	path, o = started(path, o)
	if o.Container == "" || len(o.Container) > wire.MaxName {
		return nil, fmt.Errorf("%w: %w", ErrContainer, ErrName)
	}
	if o.Program == "" {
		o.Program = filepath.Base(os.Args[0])
	}
	s := &Session{
		container: o.Container, path: path, o: o,
		calls: map[uint32]chan wire.Answer{}, binding: map[uint32]*Endpoint{}, channels: map[uint32]*ring.Channel{}, areas: map[*ring.Channel]bool{}, streams: map[uint32]*socket.Stream{}, routes: map[endpoint.ID]*route{}, names: map[string]*route{},
		endpoints: map[endpoint.ID]*Endpoint{}, callers: map[uint64]*caller{}, paths: map[uint64]uint32{},
	}
	s.room, s.wave = sync.NewCond(&s.mu), 1
	s.reminder = time.AfterFunc(time.Hour, s.remind)
	s.reminder.Stop()
	s.caller = newCaller(s, "", newIncarnation())
	s.callers[s.core.ID()] = s.caller
	n, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	s.adoptLocked(n)
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.wg.Go(s.readNode)
	return s, nil
}

// opened is a connection that the node has accepted.
type opened struct {
	conn   *socket.Conn
	node   string
	maxLen int
	post   post
	desk   *ring.Channel
}

// open connects to the node.
func (s *Session) open(ctx context.Context) (*opened, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: this user may not: run as the node's, or have the node started with a group of yours (--group) %w", ErrNotConnected, err)
	case err != nil:
		return nil, fmt.Errorf("%w: is the node running? %w", ErrNotConnected, err)
	}
	conn, err := socket.New(raw.(*net.UnixConn))
	if err != nil {
		return nil, err
	}
	n := &opened{conn: conn, post: post{changed: make(chan struct{})}}
	stop := context.AfterFunc(ctx, func() { conn.Shut(ctx.Err()) })
	err = n.hello(s.core.ID(), s.o)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		n.post.page.Unmap()
		return nil, err
	}
	return n, nil
}

// adoptLocked makes a connection the session's.
func (s *Session) adoptLocked(n *opened) {
	s.conn, s.node, s.post = n.conn, n.node, &n.post
	s.maxLen.Store(int64(n.maxLen))
	if n.desk != nil {
		s.channels[0] = n.desk
		s.score, s.linger = scoreTop, scoreTop
	}
}

// newIncarnation draws a number that no other caller has, ever.
func newIncarnation() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:]) | 1
}

func (n *opened) hello(caller uint64, o Options) error {
	m := wire.Hello{Version: wire.Version, Direct: !o.NodeOnly, Caller: caller, Container: o.Container, Program: o.Program}
	if err := n.conn.Send(m.Append(nil)); err != nil {
		return err
	}
	f, err := n.conn.Read()
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
	n.node, n.maxLen = w.Node, int(w.MaxPayload)
	if o.NodeOnly {
		return nil
	}
	fds, err := n.conn.Files(5)
	if err != nil {
		return err
	}
	defer ring.Close(fds[0])
	if n.post.page, err = ring.Map(fds[0], ring.PageSize); err != nil {
		ring.Close(fds[1:]...)
		return err
	}
	if n.desk, err = ring.Open(0, 0, fds[2:]); err != nil {
		ring.Close(fds[1])
		return err
	}
	n.post.bell = os.NewFile(uintptr(fds[1]), "bell")
	n.post.lead = make(chan struct{}, 1)
	return n.desk.Send(wire.Caller{Caller: caller}.Append(nil)) // so that the node uses the ring as well
}

// Node returns the name of the node.
func (s *Session) Node() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node
}

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
	s.endStreamsLocked()
	for _, m := range append(s.old, s.page) {
		m.Unmap()
	}
	s.page, s.old = nil, nil
}

// fail wakes everybody with err; the first reason stays.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	s.stop()
	s.reminder.Stop()
	if s.lost != nil {
		s.lost.Stop()
	}
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
	if s.ears != nil {
		_ = s.ears.file.Close()
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
			err = s.reconnect(err)
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
	case wire.KindStream:
		m, err := wire.ParseStream(f.Body)
		if err != nil {
			return err
		}
		return s.onStreamLocked(m)
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
		e.answeredLocked(m)
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
	if s.streams[index] != nil {
		s.hangUpLocked(index)
		return
	}
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
	if st := s.streams[via]; st != nil {
		s.streamLocked(st, via, frame, false)
		return
	}
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
	if cap(b) <= 2<<20 {
		s.scratch = b[:0]
	}
}

// ask makes a call to the node.
func (s *Session) ask(ctx context.Context, frame func(call uint32) []byte) (wire.Answer, error) {
	ch := make(chan wire.Answer, 1)
	s.mu.Lock()
	if err := s.goneLocked(); err != nil {
		defer s.mu.Unlock()
		return wire.Answer{}, err
	}
	s.nextCall++
	call := s.nextCall
	s.calls[call] = ch
	_ = s.conn.Send(frame(call))
	s.mu.Unlock()
	select {
	case a, ok := <-ch:
		if !ok {
			return a, cmp.Or(s.reason(), ErrNotConnected)
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
