package node_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

const (
	pageSize   = 4096
	pieceAtNow = 0 // a piece that is the head of the oracle's state
	pieceAtMem = 1 // pages: u64 offset, bytes
)

// paged is an oracle's state that moves in pieces: memory by pages that remember when they changed last, and the head each time.
type paged struct {
	*server
	stamps []uint64 // by page
	now    uint64
}

func newPaged(v *server) *paged {
	return &paged{server: v, stamps: make([]uint64, (len(v.state.Memory)+pageSize-1)/pageSize), now: 1}
}

// touched is called under the lock when a byte of the memory has changed.
func (p *paged) touched(at uint64) { p.stamps[at/pageSize] = p.now }

// Changes implements dvs.Pieces.
func (p *paged) Changes(ctx context.Context, since uint64, give func([]byte) error) (uint64, error) {
	p.mu.Lock()
	p.now++
	mark := p.now
	pages := len(p.stamps)
	size := uint64(len(p.state.Memory))
	p.mu.Unlock()
	head := binary.LittleEndian.AppendUint64([]byte{pieceAtMem}, ^uint64(0))
	if err := give(binary.LittleEndian.AppendUint64(head, size)); err != nil {
		return 0, err
	}
	piece := make([]byte, 0, 128<<10)
	for page := 0; page < pages && ctx.Err() == nil; {
		p.mu.Lock()
		piece = piece[:0]
		for ; page < pages && len(piece) < 30*pageSize; page++ {
			if p.stamps[page] >= since || since == 0 {
				at := page * pageSize
				part := p.state.Memory[at:min(at+pageSize, len(p.state.Memory))]
				piece = append(piece, pieceAtMem)
				piece = binary.LittleEndian.AppendUint64(piece, uint64(at))
				piece = binary.LittleEndian.AppendUint64(piece, uint64(len(part)))
				piece = append(piece, part...)
			}
		}
		p.mu.Unlock()
		if len(piece) > 0 {
			if err := give(piece); err != nil {
				return 0, err
			}
		}
	}
	p.mu.Lock()
	s := p.state
	s.Memory = nil
	b, err := json.Marshal(s)
	p.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return mark, give(append([]byte{pieceAtNow}, b...))
}

// Reset implements dvs.Pieces.
func (p *paged) Reset() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = state{}
	return nil
}

// Apply implements dvs.Pieces.
func (p *paged) Apply(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b[0] == pieceAtNow {
		memory := p.state.Memory
		p.state = state{}
		err := json.Unmarshal(b[1:], &p.state)
		p.state.Memory = memory
		return err
	}
	for len(b) > 0 {
		at, n := binary.LittleEndian.Uint64(b[1:]), binary.LittleEndian.Uint64(b[9:])
		b = b[17:]
		if at == ^uint64(0) {
			if uint64(len(p.state.Memory)) != n {
				p.state.Memory = make([]byte, n)
			}
			continue
		}
		copy(p.state.Memory[at:], b[:n])
		b = b[n:]
	}
	return nil
}

// Complete implements dvs.Pieces.
func (p *paged) Complete() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stamps, p.now = make([]uint64, (len(p.state.Memory)+pageSize-1)/pageSize), 1
	return nil
}

// scribble changes that many pages in a second, wherever, until ctx ends.
func (p *paged) scribble(ctx context.Context, pages int) {
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	begun, written := time.Now(), 0
	for ctx.Err() == nil {
		<-t.C
		due := int(time.Since(begun).Seconds() * float64(pages))
		p.mu.Lock()
		for ; written < due && len(p.stamps) > 0; written++ {
			page := uint64(written) * 7919 % uint64(len(p.stamps))
			p.state.Memory[page*pageSize]++
			p.touched(page * pageSize)
		}
		p.mu.Unlock()
	}
}

// Line 22: a state that moves in pieces, while clients change it, arrives whole, and most of it while the program runs. It moves back
// and forth, also after a move that was aborted in the middle.
func TestLine22MostOfTheStateMovesWhileItIsUsed(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "a", "b")
	const size = 8<<20 + 5
	c.servePaged(t, "a", "kv", false, size)
	clients := c.clients(t, "a", "kv", 3)
	progress(t, clients, 30)
	owner := (*child)(nil)
	for i, m := range [][2]string{{"a", "b"}, {"b", "a"}} {
		owner = c.servePaged(t, m[1], "kv", true, 0)
		if i == 0 {
			c.epoch++
			if err := c.ready("kv", m[0], m[1], c.epoch); err != nil {
				t.Fatal(err)
			}
			if err := c.rollBack("kv", m[0], m[1], c.epoch); err != nil {
				t.Fatal(err)
			}
			progress(t, clients, 30)
		}
		c.move(t, "kv", m[0], m[1])
		progress(t, clients, 30)
		info := c.info(t, m[0], "kv")
		if info.Rounds < 1 || info.Moved < size {
			t.Errorf("%d rounds carried %d bytes of %d", info.Rounds, info.Moved, size)
		}
	}
	settle(t, owner, "kv", clients)
	if got := len(shown(t, owner, "kv").Memory); got == 0 {
		t.Error("no memory has come")
	}
}

// failing is a destination that fails at some piece, or a source that gives too much.
type failing struct {
	dvs.Pieces
	mu      sync.Mutex
	applied int
	failAt  int
	long    bool
}

func (f *failing) Changes(_ context.Context, _ uint64, give func([]byte) error) (uint64, error) {
	f.mu.Lock()
	long := f.long
	f.mu.Unlock()
	if long {
		return 0, give(make([]byte, dvs.MaxPiece+1))
	}
	for range 100 {
		if err := give(make([]byte, dvs.MaxPiece)); err != nil {
			return 0, err
		}
	}
	return 1, nil
}

func (f *failing) fail(at int, long bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failAt, f.long = at, long
}

func (f *failing) Apply([]byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applied++; f.applied == f.failAt {
		return errors.New("no room")
	}
	return nil
}

func (f *failing) Reset() error    { return nil }
func (f *failing) Complete() error { return nil }

// Bad input: what a destination cannot take, or a source may not give, ends the round and says why; the program runs on.
func TestPiecesThatCannotMoveSayWhy(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	there := &failing{failAt: 30}
	here := &failing{}
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", dvs.BindOptions{Pieces: here})
	echo(t, e)
	o := dvs.BindOptions{Pieces: there, Standby: true}
	waitStandby(t, b, o)
	do(t, b, 5, prepareProcess, "a")
	err := a.Do(patient(t), command(5, convergeProcess, "b"))
	var refusal *node.Refusal
	if !errors.As(err, &refusal) || refusal.Text == "" {
		t.Errorf("a piece that was not taken: %v", err)
	}
	there.fail(0, false)
	if err := a.Do(patient(t), command(5, convergeProcess, "b")); err != nil {
		t.Errorf("again: %v", err)
	}
	do(t, a, 5, abortOld, "b")
	here.fail(0, true)
	if err := a.Do(patient(t), command(6, convergeProcess, "b")); !errors.As(err, &refusal) {
		t.Errorf("a piece that is too long: %v", err)
	}
	if _, err := connect(t, b.path, dvs.Options{}).SendRec(patient(t), "s", []byte("x")); err != nil {
		t.Error(err)
	}
}

// A standby that ends while pieces are on their way ends the round at once.
func TestPiecesForAStandbyThatDiesComeBack(t *testing.T) {
	a, b := pair(t)
	blocked := make(chan struct{})
	there := &stuck{entered: make(chan struct{}), leave: blocked}
	e := bind(t, connect(t, a.path, dvs.Options{}), "s", dvs.BindOptions{Pieces: &failing{}})
	echo(t, e)
	session := waitStandby(t, b, dvs.BindOptions{Pieces: there, Standby: true})
	got := make(chan error, 1)
	go func() { got <- a.Do(patient(t), command(5, convergeProcess, "b")) }()
	<-there.entered
	time.AfterFunc(10*time.Millisecond, func() { close(blocked) })
	session.Close()
	if err := <-got; err == nil {
		t.Error("the round has ended well")
	}
}

type stuck struct {
	failing
	once           sync.Once
	entered, leave chan struct{}
}

func (s *stuck) Apply([]byte) error {
	s.once.Do(func() { close(s.entered) })
	<-s.leave
	return nil
}
