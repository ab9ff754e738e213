package storage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/godwit-project/godwit/storage/wire"
)

// answers is how many questions may be under way.
const answers = 32

// groupLink is one connection of a group. out, seq, frames, content, began, stalled, rested and rewritten are the sender's; the rest is under Group.mu.
type groupLink struct {
	conn    net.Conn
	out     []byte // frames that are yet to be sent
	seq     uint64
	frames  uint64
	content uint64
	began   time.Time     // to hand the epoch over
	stalled time.Duration // … and waited for the link since
	rested  time.Duration // before it, unless somebody waits for it
	// rewritten says that a third at least of what was written to it was written over before it was cut.
	rewritten bool

	answers chan []byte
	wants   []*fetch // to be fetched
	asked   []*fetch // … and under way, in their order
	heard   time.Time
	moved   time.Time // the standby has got further, or was busy
	sent    uint64    // frames
	taken   uint64    // … that the standby has
	waits   time.Time // someone has been waiting for a commit since then
	useful  bool      // an epoch was committed over it
	broken  bool
	done    chan struct{}
}

// run makes links until the group is closed or refused.
func (g *Group) run() {
	backoff := g.store.opts.Backoff
	for {
		g.mu.Lock()
		for !g.stopped && g.mode == ModeLocal {
			g.changed.Wait()
		}
		stopped := g.stopped
		g.mu.Unlock()
		if stopped {
			return
		}
		up, err := g.connect()
		if up {
			backoff = g.store.opts.Backoff
		}
		g.mu.Lock()
		if err != nil {
			g.trouble = err
		}
		if errors.Is(err, ErrRefused) {
			g.refused = err
			g.waiting = false
		}
		refused := g.refused
		g.changed.Broadcast()
		g.mu.Unlock()
		if refused != nil {
			g.store.opts.Logger.Error("replication of a group is over", "group", g.name, "epoch", g.epoch, "err", refused)
			return
		}
		select {
		case <-g.ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(100*g.store.opts.Backoff, backoff*2)
	}
}

// connect makes one link and serves it until it breaks; up says that it was of use: an epoch came to be over it.
func (g *Group) connect() (up bool, err error) {
	g.mu.Lock()
	dial := g.dial
	g.connections++
	number := g.connections
	g.mu.Unlock()
	conn, err := dial(g.ctx)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrLink, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(g.ctx, func() { _ = conn.Close() })
	defer stop()
	r, err := wire.NewReader(conn)
	if err != nil {
		return false, err
	}
	defer r.Close()
	opened, err := g.greet(conn, r, number)
	if err != nil {
		return false, err
	}
	l := &groupLink{
		conn: conn, answers: make(chan []byte, answers),
		heard: time.Now(), done: make(chan struct{}),
	}
	if err := g.linkUp(l, opened); err != nil {
		return false, err
	}
	var wg sync.WaitGroup
	wg.Go(func() { g.breakLink(l, fmt.Errorf("send: %w", g.send(l))) })
	wg.Go(func() { g.watch(l) })
	err = g.receive(l, r)
	g.breakLink(l, fmt.Errorf("receive: %w", err))
	wg.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return l.useful, nil
}

// greet opens the connection and returns where the standby stands.
func (g *Group) greet(conn net.Conn, r *wire.Reader, number uint64) (wire.Opened, error) {
	_ = conn.SetDeadline(time.Now().Add(g.store.opts.LinkTimeout))
	open := wire.Open{Version: wire.Version, Session: g.session, Connection: number, Name: g.name}
	for _, m := range g.members {
		open.Volumes = append(open.Volumes, wire.OpenVolume{Name: m.v.name, Size: uint64(m.v.size)})
	}
	f := g.enc.Encode(wire.Header{Type: wire.TypeOpen, Epoch: g.epoch}, open.Append(nil))
	_, err := conn.Write(f.B)
	f.Release()
	if err != nil {
		return wire.Opened{}, fmt.Errorf("%w: open: %w", ErrLink, err)
	}
	h, content, err := r.Next()
	switch {
	case err != nil:
		return wire.Opened{}, fmt.Errorf("%w: wait for the standby: %w", ErrLink, err)
	case h.Type == wire.TypeReject:
		return wire.Opened{}, fmt.Errorf("%w: %s", ErrRefused, content)
	case h.Type != wire.TypeOpened || h.Epoch != g.epoch:
		return wire.Opened{}, fmt.Errorf("%w: type %d of epoch %d instead of an answer", wire.ErrCorrupt, h.Type, h.Epoch)
	}
	opened, err := wire.ParseOpened(content)
	return opened, errors.Join(err, conn.SetDeadline(time.Time{}))
}

// linkUp decides what the standby lacks: what is marked, or, if it is not the one that the marks are about, everything. What it
// may have is compared first.
func (g *Group) linkUp(l *groupLink, opened wire.Opened) error {
	started := opened.Flags&wire.OpenedComplete != 0
	g.mu.Lock()
	same := started && g.known && int64(opened.Committed-g.base) >= int64(g.tracker.CommittedTo())
	g.mu.Unlock()
	for _, m := range g.members {
		same = same && m.marks.lineage() == opened.Lineage
	}
	for _, m := range g.members {
		if started && (same || !g.known && m.marks.lineage() == opened.Lineage) {
			continue
		}
		if err := g.tellAll(m, opened.Flags&wire.OpenedFresh != 0); err != nil {
			return err
		}
		if err := m.marks.take(opened.Lineage); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return ErrClosed
	}
	current, _ := g.tracker.Current()
	if same {
		g.committedLocked(opened.Committed - g.base)
	} else {
		g.base, g.known = opened.Committed+1-current, true // may wrap: only sums with it are used
	}
	if started {
		g.point = pointAt{opened.Committed, time.Unix(0, int64(opened.Time))}
	}
	l.heard = time.Now()
	l.moved = l.heard
	g.link, g.trouble, g.overflown = l, nil, false
	if !started || g.tracker.Pending() > g.smallLocked() {
		g.catchUp = current
	}
	l.heard = time.Now()
	g.wanted = max(g.wanted, current)
	g.waitLocked()
	g.work.Broadcast()
	g.changed.Broadcast()
	return nil
}

// tellAll takes all of a volume for lacking; in doubt unless the replica is known to be empty.
func (g *Group) tellAll(m *member, empty bool) error {
	if !empty {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.tracker.Doubt(m.index, 0, m.v.size)
		return nil
	}
	g.mu.Lock()
	g.tracker.Empty(m.index) // what was in doubt stays marked
	g.mu.Unlock()
	for off := int64(0); off < m.v.size; {
		start, end, ok, err := m.v.disk.NextData(off)
		if err != nil || !ok {
			return err
		}
		g.mu.Lock()
		g.tracker.Mark(m.index, start, end-start)
		g.mu.Unlock()
		off = end
	}
	return nil
}

// receive takes the standby's answers until the link breaks.
func (g *Group) receive(l *groupLink, r *wire.Reader) error {
	for {
		h, content, err := r.Next()
		if err != nil {
			return err
		}
		if h.Epoch != g.epoch {
			return fmt.Errorf("%w: answer of epoch %d", wire.ErrCorrupt, h.Epoch)
		}
		g.mu.Lock()
		l.heard = time.Now()
		if h.Type != wire.TypeAck || h.Seq > l.taken || h.Offset != 0 || h.Seq == l.sent {
			l.moved = l.heard
		}
		l.taken = max(l.taken, h.Seq)
		if len(g.keeps) > 0 {
			g.keptLocked(l, l.taken)
		}
		g.mu.Unlock()
		switch h.Type {
		case wire.TypeAck:
		case wire.TypeCommitted:
			err = g.committed(l, h.Offset)
		case wire.TypeData, wire.TypeMissing:
			err = g.fetched(l, &h, content)
		case wire.TypeHashes:
			select {
			case l.answers <- append([]byte(nil), content...):
			default:
				err = fmt.Errorf("%w: an answer that nobody asked for", wire.ErrCorrupt)
			}
		case wire.TypeReject:
			err = fmt.Errorf("%w: %s", ErrRefused, content)
		default:
			err = fmt.Errorf("%w: type %d from a standby", wire.ErrCorrupt, h.Type)
		}
		if err != nil {
			return err
		}
	}
}

// watch breaks the link when the standby is silent for too long, and lets those go on who wait too long for it.
func (g *Group) watch(l *groupLink) {
	tick := time.NewTicker(min(100*time.Millisecond, g.store.opts.SyncTimeout/4))
	defer tick.Stop()
	for {
		select {
		case <-l.done:
			return
		case now := <-tick.C:
			g.mu.Lock()
			if !l.waits.IsZero() && now.Sub(l.waits) > g.store.opts.SyncTimeout && g.waiting && !g.limits.Strict {
				g.waiting = false
				g.trouble = fmt.Errorf("%w: fell back to async: no commit for %v", ErrLink, g.store.opts.SyncTimeout)
				g.changed.Broadcast()
			}
			if silent := g.store.opts.LinkTimeout; now.Sub(l.heard) > silent || l.sent > l.taken && now.Sub(l.moved) > silent {
				g.breakLocked(l, fmt.Errorf("%w: no answer for %v", ErrLink, g.store.opts.LinkTimeout))
			}
			g.mu.Unlock()
		}
	}
}

func (g *Group) breakLink(l *groupLink, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.breakLocked(l, why)
}

// breakLocked ends a link: what was not confirmed belongs to the current epoch again.
func (g *Group) breakLocked(l *groupLink, why error) {
	if l == nil || l.broken {
		return
	}
	l.broken = true
	_ = l.conn.Close()
	close(l.done)
	g.link, g.downSince = nil, time.Now()
	g.breaks++
	g.tracker.Broken()
	g.resendLocked(l, why)
	if len(g.cuts) > 0 {
		g.firstWrite = g.cuts[0].first
		g.cuts = g.cuts[:0]
	}
	if g.waiting && !g.limits.Strict {
		g.waiting = false
		why = fmt.Errorf("fell back to async: %w", why)
	}
	if errors.Is(why, ErrRefused) {
		g.refused = why
	}
	g.trouble = why
	g.work.Broadcast()
	g.changed.Broadcast()
}
