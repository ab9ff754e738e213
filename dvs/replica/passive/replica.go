package passive

import (
	"slices"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// Options of a replica. Times are nanoseconds.
type Options struct {
	Self  state.Member
	Peers []string // the other replicas of the group
	// Every is the pause between signs of life.
	Every int64
	// Patience is how long a synced backup may be silent before the primary goes on without it.
	Patience int64
	// ImagePatience is how long an image may be under way.
	ImagePatience int64
	// KeepBytes is about how much of the history is kept for those who catch up.
	KeepBytes int
	// ShipBytes is about how much one message carries.
	ShipBytes int
}

// Replica is one replica. It is not safe for concurrent use.
type Replica struct {
	o    Options
	now  int64
	sent int64 // when signs of life were sent
	out  []Action

	role    Role
	record  state.Record
	loaded  bool          // the store was heard
	attempt *state.Record // a change of the record whose outcome is unknown
	tried   int64

	history   history
	valid     bool   // the machine is at applied, and has everything that was ever answered while this one is synced
	diverged  bool   // the machine has what the primary's history has not: an image is needed
	restoring bool   // a Restore is under way
	applied   uint64 // given to the machine
	committed uint64 // with all who are needed
	table     state.Table
	image     state.Image // under way to the machine
	life      uint64      // images that came, taken or not

	lead // of a primary
}

// New returns a replica that has no state yet.
func New(o Options) *Replica {
	return &Replica{o: o, role: Joining, table: state.Table{}}
}

// Role returns what it is.
func (r *Replica) Role() Role { return r.role }

// Record returns the newest record that it knows.
func (r *Replica) Record() state.Record { return r.record }

// Committed returns the number of the newest update that is known to be with all who are needed, and of the newest there is.
func (r *Replica) Committed() (committed, last uint64) { return r.committed, r.history.last().Seq }

// Step takes an event in. The actions belong to the caller.
func (r *Replica) Step(e Event) []Action {
	r.out = nil
	switch e := e.(type) {
	case Tick:
		r.tick(e.Now)
	case Receive:
		r.receive(e.Message)
	case Ask:
		r.ask(e.Request)
	case Forget:
		r.forget(e.Caller)
	case Executed:
		r.executed(e)
	case Imaged:
		r.imaged(e)
	case Restored:
		r.restored()
	case Stored:
		r.stored(e.Record)
	case Found:
		r.found()
	case Promote:
		r.promote(e.Without)
	case Lost:
		r.lost(e.Peer)
	}
	return r.out
}

func (r *Replica) act(a Action) { r.out = append(r.out, a) }

func (r *Replica) send(to string, m Message) {
	m.From, m.Record = r.o.Self, r.record
	r.act(Send{To: to, Message: m})
}

// report sends what this replica has.
func (r *Replica) report(to string, m Message) {
	m.Life = r.life
	m.Valid, m.Last = r.valid && !r.diverged, r.history.last()
	m.Applied, _ = r.history.at(r.applied)
	r.send(to, m)
}

func (r *Replica) ping(to string) { r.report(to, Message{Kind: Ping}) }

func (r *Replica) tick(now int64) {
	r.now = now
	if now-r.sent < r.o.Every {
		return
	}
	r.sent = now
	if !r.loaded {
		r.act(Load{})
	}
	if r.attempt != nil && now-r.tried >= r.o.Every {
		r.try()
	}
	for _, p := range r.o.Peers {
		if r.role != Primary || r.peers[p] == nil {
			r.ping(p)
		}
	}
	if r.role == Primary {
		r.beat()
	}
}

func (r *Replica) receive(m Message) {
	if m.Record.Epoch > r.record.Epoch {
		r.adopt(m.Record)
	}
	if m.Record.Epoch < r.record.Epoch && r.outdated(m) {
		r.ping(m.From.Name) // so that it learns the record
		return
	}
	switch {
	case r.role == Primary && (m.Kind == Ping || m.Kind == Ack):
		r.progress(m)
	case r.role != Primary && m.From == r.record.Primary && m.Kind == Ship:
		r.ship(m)
	case r.role != Primary && m.From == r.record.Primary && m.Kind == Image:
		r.take(m)
	}
}

// outdated tells whether a message of an older epoch is of no use any more. What a replica has always is; and others may have been listed while an image was
// under way, which is taken by one that has nothing: it has acknowledged nothing that the image could take back.
func (r *Replica) outdated(m Message) bool {
	switch {
	case m.Kind == Ping, m.Kind == Ack:
		return false
	case m.Kind != Image:
		return true
	case r.valid || m.From != r.record.Primary:
		r.leave(m)
		return true
	default:
		return false
	}
}

// found begins a group, or tries to.
func (r *Replica) found() {
	if !r.loaded || r.record.Epoch != 0 || r.attempt != nil {
		return
	}
	r.propose(state.Record{Epoch: 1, Primary: r.o.Self, Synced: []state.Member{r.o.Self}})
}

// promote asks the store to make this one the primary. Only a synced one may.
func (r *Replica) promote(without []string) {
	if r.role != Backup || !r.valid || r.attempt != nil {
		return
	}
	n := state.Record{Epoch: r.record.Epoch + 1, Primary: r.o.Self}
	for _, m := range r.record.Synced {
		if m == r.o.Self || m != r.record.Primary && !slices.Contains(without, m.Name) {
			n.Synced = append(n.Synced, m)
		}
	}
	r.propose(n)
}

func (r *Replica) propose(n state.Record) {
	r.attempt = &n
	r.try()
}

func (r *Replica) try() {
	r.tried = r.now
	r.act(Swap{Old: r.record, New: *r.attempt})
}

// stored takes in what the store holds.
func (r *Replica) stored(c state.Record) {
	r.loaded = true
	if c.Epoch > r.record.Epoch {
		r.adopt(c)
	}
}

// adopt takes over a newer record, and with it the role.
func (r *Replica) adopt(c state.Record) {
	was := r.role
	r.record = c
	founded := r.attempt != nil && c.Epoch == 1 && c.Primary == r.o.Self
	if r.attempt != nil && c.Epoch >= r.attempt.Epoch {
		r.attempt = nil
	}
	switch {
	case c.Primary == r.o.Self:
		r.role = Primary
		if was != Primary {
			r.valid = r.valid || founded
			r.begin()
		}
	case c.Has(r.o.Self):
		r.role = Backup
	default:
		r.role = Joining
	}
	switch {
	case was == Primary && r.role != Primary:
		r.deposed()
	case was == Primary:
		r.advance()
	}
	r.act(Become{Role: r.role, Record: c})
}
