package replica

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// Errors of Handle.
var (
	// ErrElsewhere says that this replica may not answer. The request may have been executed, with an effect that lasts only if the replica that
	// answers now has it too; sent there, it is executed once.
	ErrElsewhere = errors.New("this replica is not the one to ask: send the request to where the endpoint is bound now")
	// ErrClosed says that the replica has ended.
	ErrClosed = errors.New("the replica has ended")
)

// Kind is how a group replicates. The values go over the wire: they never change.
type Kind uint8

// The kinds.
const (
	Passive Kind = 1 // one executes, changed pages go to the others
	Active  Kind = 2 // all execute the same, in the same order
)

// String returns the word for people.
func (k Kind) String() string { return [...]string{"none", "passive", "active"}[min(k, Active)] }

// Input is one request for the machine, with all that it may know of the world.
type Input struct {
	Payload []byte
	Clock   int64  // nanoseconds since 1970, never going back
	Random  uint64 // seed
}

// Machine is what is replicated. It is never called by two goroutines at a time. An error of Call is a reply as well (what failed is what all
// callers are told, also again): the machine must be as before the call. Any other error ends the replica.
type Machine interface {
	Call(ctx context.Context, in Input) ([]byte, error)
	// Changes returns what has changed since it was last called, or since Restore. Only for Passive.
	Changes() (state.Delta, error)
	// Apply takes in Changes of another, which are never empty. Only for Passive.
	Apply(d state.Delta) error
	Snapshot() ([]byte, error)
	Restore(b []byte) error
	// Hash is equal for equal states. Only for Active.
	Hash() uint64
}

// Store is where the group's record is, outside of all replicas. Both methods return an error only if the outcome is unknown.
type Store interface {
	// Load returns the record, or the zero record if there is none.
	Load(ctx context.Context) (state.Record, error)
	// Swap writes next if the record still has that epoch (0: there is none), and returns what is there afterwards.
	Swap(ctx context.Context, epoch uint64, next state.Record) (state.Record, error)
}

// Change tells of the role of a replica.
type Change struct {
	Serving bool   // this replica answers
	Epoch   uint64 // of the record
	Primary string // who answers, as far as is known
	Verdict string // what the watcher says: hold, keep, rebind; "" if it is no verdict
}

// Options of a replica.
type Options struct {
	Group   string
	Self    string   // its name, unique in the group
	Peers   []string // the other replicas
	Kind    Kind
	Machine Machine
	Store   Store
	Dial    func(ctx context.Context, peer string) (net.Conn, error)
	Log     *slog.Logger
	// Every is the pause between signs of life. Default 20 ms.
	Every time.Duration
	// Patience is how long another may be silent: then the primary goes on without a backup, and a backup takes over from the primary. Default
	// 25 times Every. Where signs of life come late, on a busy machine, it is more, up to 8 times as much: see pace.
	Patience time.Duration
	// OnChange is told of every change, one after the other, by a goroutine of its own.
	OnChange func(Change)
	// CheckEvery is how many requests lie between two comparisons of states (Active). Default 1000.
	CheckEvery uint64
	// CallTime bounds one call of the machine. Default 10 s.
	CallTime time.Duration
}

// Replica is one replica of a group. It is safe for concurrent use.
type Replica struct {
	o      Options
	self   state.Member
	engine engine
	pace   *pace // for the loop
	began  time.Time
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	events  queue[func()] // for the loop
	jobs    queue[func()] // for the machine
	asks    queue[func()] // for the store
	changes queue[Change]
	links   map[string]*link

	mu      sync.Mutex
	waiting map[uint64][]*waiter // by caller
	last    Change
	conns   map[net.Conn]struct{}
}

type waiter struct {
	seq  uint64
	done chan state.Reply // closed without a reply: refused
}

// engine is one of the cores, called by the loop alone.
type engine interface {
	tick(now time.Duration)
	message(body []byte, from state.Member) error
	ask(q state.Request)
	forget(caller uint64)
	stored(c state.Record)
	lost(peer string)
	members() []string
	describe() string // for a person
	// regular tells whether a peer that lives gives a sign of life in every pause.
	regular(peer string) bool
}

// New starts a replica.
func New(o Options) (*Replica, error) {
	if o.Self == "" || o.Machine == nil || o.Store == nil || o.Dial == nil || slices.Contains(o.Peers, o.Self) {
		return nil, fmt.Errorf("replica %q of group %q: a name, a machine, a store and a way to dial are needed", o.Self, o.Group)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Every <= 0 {
		o.Every = 20 * time.Millisecond
	}
	if o.Patience <= 0 {
		o.Patience = 25 * o.Every
	}
	if o.CheckEvery == 0 {
		o.CheckEvery = 1000
	}
	if o.CallTime <= 0 {
		o.CallTime = 10 * time.Second
	}
	r := &Replica{
		o: o, self: state.Member{Name: o.Self, Incarnation: randomBits() >> 1}, began: time.Now(),
		waiting: map[uint64][]*waiter{}, conns: map[net.Conn]struct{}{}, links: map[string]*link{},
	}
	r.pace = newPace(o.Every, o.Patience)
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	switch o.Kind {
	case Passive:
		r.engine = newPassive(r)
	case Active:
		r.engine = newActive(r)
	default:
		return nil, fmt.Errorf("replica %q of group %q: kind %d", o.Self, o.Group, o.Kind)
	}
	for _, q := range []interface{ open() }{&r.events, &r.jobs, &r.asks, &r.changes} {
		q.open()
	}
	for _, p := range o.Peers {
		l := newLink(r, p)
		r.links[p] = l
		r.wg.Go(l.keepDialing)
	}
	r.wg.Go(func() { r.events.drain(func(f func()) { f() }) })
	r.wg.Go(func() { r.jobs.drain(func(f func()) { f() }) })
	r.wg.Go(func() { r.asks.drain(func(f func()) { f() }) })
	r.wg.Go(func() {
		r.changes.drain(func(c Change) {
			if o.OnChange != nil {
				o.OnChange(c)
			}
		})
	})
	r.wg.Go(r.ticker)
	r.wg.Go(func() {
		<-r.ctx.Done()
		r.shut()
	})
	return r, nil
}

func randomBits() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:]) | 1
}

// Handle executes a request on the group, once, however often it is asked for, and returns when the reply may leave. An error of the machine
// comes as *Failure.
func (r *Replica) Handle(ctx context.Context, q state.Request) ([]byte, error) {
	w := &waiter{seq: q.Seq, done: make(chan state.Reply, 1)}
	r.mu.Lock()
	r.waiting[q.Caller] = append(r.waiting[q.Caller], w)
	r.mu.Unlock()
	defer r.unwait(q.Caller, w)
	r.events.put(func() { r.engine.ask(q) })
	select {
	case p, ok := <-w.done:
		switch {
		case !ok:
			return nil, ErrElsewhere
		case p.Failed:
			return nil, &Failure{Text: string(p.Payload)}
		default:
			return p.Payload, nil
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-r.ctx.Done():
		return nil, errors.Join(ErrClosed, context.Cause(r.ctx))
	}
}

// Failure is the machine's refusal of a request: the reply to it.
type Failure struct{ Text string }

// Error returns the text.
func (f *Failure) Error() string { return "the machine refused: " + f.Text }

func (r *Replica) unwait(caller uint64, w *waiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.DeleteFunc(r.waiting[caller], func(o *waiter) bool { return o == w })
	if r.waiting[caller] = all; len(all) == 0 {
		delete(r.waiting, caller)
	}
}

// Gone forgets a caller that has ended.
func (r *Replica) Gone(caller uint64) { r.events.put(func() { r.engine.forget(caller) }) }

// Members returns who could take over without loss now, this one included, as far as it knows: the synced of a passive group, the voters of an
// active one that were heard lately.
func (r *Replica) Members() []string {
	got := make(chan []string, 1)
	r.events.put(func() { got <- r.engine.members() })
	select {
	case all := <-got:
		return all
	case <-r.ctx.Done():
		return nil
	}
}

// Describe tells a person what the replica knows of the group and waits for, and how its connections are.
func (r *Replica) Describe() string {
	got := make(chan string, 1)
	r.events.put(func() { got <- r.engine.describe() })
	select {
	case s := <-got:
		for _, p := range r.o.Peers {
			s += fmt.Sprintf("; line to %s %s", p, &r.links[p].out)
		}
		return s
	case <-r.ctx.Done():
		return fmt.Sprintf("ended: %v", context.Cause(r.ctx))
	}
}

// Last returns the newest change.
func (r *Replica) Last() Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// Done is closed when the replica has ended.
func (r *Replica) Done() <-chan struct{} { return r.ctx.Done() }

// Err says why it has ended, or nil.
func (r *Replica) Err() error {
	if err := context.Cause(r.ctx); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

// Close ends the replica, and waits.
func (r *Replica) Close() {
	r.cancel(ErrClosed)
	r.wg.Wait()
}

// fail ends the replica because its machine has: it is as good as dead.
func (r *Replica) fail(op string, err error) {
	r.cancel(fmt.Errorf("replica %s of group %s: %s: %w", r.o.Self, r.o.Group, op, err))
}

// shut wakes everything up to end.
func (r *Replica) shut() {
	r.events.close()
	r.jobs.close()
	r.asks.close()
	r.changes.close()
	for _, l := range r.links {
		l.out.close()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close()
	}
}

func (r *Replica) ticker() {
	t := time.NewTicker(r.o.Every)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
			r.events.put(func() { r.engine.tick(r.pace.tick(time.Since(r.began))) })
		}
	}
}

// answer gives a reply to those who wait for it.
func (r *Replica) answer(p state.Reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.waiting[p.Caller] {
		if w.seq == p.Seq {
			select {
			case w.done <- p:
			default: // answered already
			}
		}
	}
}

// refuse tells those who wait for it to ask elsewhere.
func (r *Replica) refuse(caller, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.waiting[caller][:0]
	for _, w := range r.waiting[caller] {
		if w.seq == seq {
			close(w.done)
		} else {
			kept = append(kept, w)
		}
	}
	r.waiting[caller] = kept
}

// change tells of a role.
func (r *Replica) change(c Change) {
	r.mu.Lock()
	if c.Verdict == "" {
		r.last = c
	} else {
		c.Serving = r.last.Serving
	}
	r.mu.Unlock()
	r.changes.put(c)
}

// load and swap ask the store; what it holds comes back as an event. One question at a time: what is asked meanwhile is asked again anyway.
func (r *Replica) load() {
	r.store(func(ctx context.Context) (state.Record, error) { return r.o.Store.Load(ctx) })
}

func (r *Replica) swap(epoch uint64, next state.Record) {
	r.store(func(ctx context.Context) (state.Record, error) { return r.o.Store.Swap(ctx, epoch, next) })
}

func (r *Replica) store(ask func(ctx context.Context) (state.Record, error)) {
	if r.asks.len() > 1 {
		return
	}
	r.asks.put(func() {
		ctx, cancel := context.WithTimeout(r.ctx, 10*r.o.Patience)
		defer cancel()
		c, err := ask(ctx)
		if err != nil {
			r.o.Log.Warn("replica store", "group", r.o.Group, "replica", r.o.Self, "err", err)
			return
		}
		r.events.put(func() { r.engine.stored(c) })
	})
}

// call has the machine execute a request; then gets its reply.
func (r *Replica) call(q state.Request, clock int64, random uint64, then func(p state.Reply)) {
	r.jobs.put(func() {
		ctx, cancel := context.WithTimeout(r.ctx, r.o.CallTime)
		defer cancel()
		out, err := r.o.Machine.Call(ctx, Input{Payload: q.Payload, Clock: clock, Random: random})
		if r.ctx.Err() != nil {
			return
		}
		p := state.Reply{Caller: q.Caller, Seq: q.Seq, Payload: out}
		if err != nil {
			p.Failed, p.Payload = true, []byte(err.Error())
		}
		then(p)
	})
}

// snapshot has the machine's whole state taken.
func (r *Replica) snapshot(then func(b []byte)) {
	r.jobs.put(func() {
		b, err := r.o.Machine.Snapshot()
		if err != nil {
			r.fail("snapshot", err)
			return
		}
		r.events.put(func() { then(b) })
	})
}

// restore gives the machine a whole state.
func (r *Replica) restore(b []byte, then func()) {
	r.jobs.put(func() {
		if err := r.o.Machine.Restore(b); err != nil {
			r.fail("restore", err)
			return
		}
		r.events.put(then)
	})
}
