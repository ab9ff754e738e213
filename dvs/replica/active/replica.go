package active

import (
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// Options of a replica. Times are ticks.
type Options struct {
	Self  state.Member // its incarnation is its number in the log's group
	Peers []string     // the other replicas of the group
	// Election is how long nothing is heard of a leader before another is chosen; half to all of twice that.
	Election int
	// Retry is how long an answer may take before something is asked for again. Default half of Election.
	Retry int
	// ImagePatience is how long an image may be under way.
	ImagePatience int
	// CheckEvery is how many entries lie between two comparisons of hashes.
	CheckEvery uint64
	// Keep is how many entries lie between two images, and are kept behind the newest.
	Keep uint64
}

// Replica is one replica. It is not safe for concurrent use.
type Replica struct {
	o     Options
	ticks int
	out   []Action

	store  *storage
	rn     *raft.RawNode // nil before it has heard of a group
	conf   *raftpb.ConfState
	names  map[uint64]string // of members, by number
	lives  map[string]uint64 // who was last heard, by name
	heard  map[string]int    // when, by name
	fresh  map[string]stamp  // who wants to join, by name
	asked  int               // when a change of the configuration was proposed
	imaged map[uint64]int    // when an image was sent, by member
	handed uint64            // entries given to the work below

	role     Role
	record   state.Record
	loaded   bool
	founding bool
	asking   bool   // the store, whether to begin with founder
	founder  []byte // the image to begin with

	work
	waiting map[uint64]waiter // by caller
}

// stamp is a number and when it was heard of.
type stamp struct {
	id uint64
	at int
}

// waiter is a request that was asked here.
type waiter struct {
	seq  uint64
	data []byte
	at   int
}

// New returns a replica that has no state yet.
func New(o Options) *Replica {
	if o.Retry == 0 {
		o.Retry = max(o.Election/2, 1)
	}
	return &Replica{
		o: o, role: Joining, conf: &raftpb.ConfState{}, names: map[uint64]string{o.Self.Incarnation: o.Self.Name}, fresh: map[string]stamp{}, lives: map[string]uint64{}, heard: map[string]int{}, imaged: map[uint64]int{},
		waiting: map[uint64]waiter{}, work: work{table: state.Table{}, checks: map[uint64]*check{}},
	}
}

// Role returns what it is.
func (r *Replica) Role() Role { return r.role }

// Record returns the newest record that it knows.
func (r *Replica) Record() state.Record { return r.record }

// Applied returns the number of the newest entry that the machine has, and of the newest that is known to be committed.
func (r *Replica) Applied() (applied, committed uint64) { return r.applied, r.handed }

// Voters returns the names of those who decide; not of one that is known to have begun again since, and not joined.
func (r *Replica) Voters() (names []string) {
	for _, id := range r.conf.GetVoters() {
		name := r.names[id]
		if life, heard := r.lives[name]; !heard || life == id {
			names = append(names, name)
		}
	}
	return names
}

// Present returns those of the voters that were heard lately, itself among them: the log does not notice a dead one, nor does it need to.
func (r *Replica) Present() []string {
	return slices.DeleteFunc(r.Voters(), func(name string) bool {
		return name != r.o.Self.Name && r.ticks-r.heard[name] > 2*r.o.Election
	})
}

// Configured tells whether it knows of a configuration.
func (r *Replica) Configured() bool { return len(r.conf.GetVoters()) > 0 }

// Voting tells whether a member decides.
func (r *Replica) Voting(m state.Member) bool {
	return slices.Contains(r.conf.GetVoters(), m.Incarnation)
}

// Beats tells whether a peer gives signs of life at every tick: the leader does to all, and they answer.
func (r *Replica) Beats(peer string) bool {
	if r.leads() {
		return slices.Contains(r.Voters(), peer)
	}
	return r.rn != nil && r.names[r.rn.BasicStatus().Lead] == peer
}

// Changing tells whether a change of the configuration is under way: then both the old voters and the new must agree.
func (r *Replica) Changing() bool { return len(r.conf.GetVotersOutgoing()) > 0 }

// Step takes an event in. The actions belong to the caller.
func (r *Replica) Step(e Event) []Action {
	r.out = nil
	switch e := e.(type) {
	case Tick:
		r.tick()
	case Receive:
		r.receive(e.Message)
	case Ask:
		r.ask(e)
	case Forget:
		r.propose(entry{kind: entryForget, request: state.Request{Caller: e.Caller}}.encode())
	case Executed, Hashed, Imaged, Restored:
		r.reported(e)
	case Stored:
		r.stored(e.Record)
	case Lost:
		r.lost(e.Peer)
	case Found:
		if r.loaded && r.record.Epoch == 0 && r.rn == nil && !r.founding {
			r.founding = true
			r.job(Snapshot{})
		}
	}
	r.drain()
	r.settleRole()
	return r.out
}

func (r *Replica) act(a Action) { r.out = append(r.out, a) }

func (r *Replica) send(to string, m Message) {
	m.From = r.o.Self
	r.act(Send{To: to, Message: m})
}

func (r *Replica) broadcast(m Message) {
	for _, p := range r.o.Peers {
		r.send(p, m)
	}
}

// start begins to take part, with an image or without.
func (r *Replica) start(snap *raftpb.Snapshot) {
	r.store = &storage{MemoryStorage: raft.NewMemoryStorage()}
	if snap != nil {
		must(r.store.ApplySnapshot(snap))
		must(r.store.SetHardState(&raftpb.HardState{Term: new(uint64(1)), Commit: new(uint64(1))}))
		r.handed, r.applied, r.conf = 1, 1, snap.GetMetadata().GetConfState()
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID: r.o.Self.Incarnation, ElectionTick: r.o.Election, HeartbeatTick: 1, Storage: r.store, Applied: r.applied,
		MaxSizePerMsg: 1 << 20, MaxInflightMsgs: 64, CheckQuorum: true, PreVote: true, Logger: quiet{},
	})
	must(err)
	r.rn = rn
	if snap != nil {
		_ = rn.Campaign()
	}
}

// must ends what can only go wrong if this package is.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("active replica: %v", err))
	}
}

func (r *Replica) leads() bool {
	return r.rn != nil && r.rn.BasicStatus().RaftState == raft.StateLeader
}

func (r *Replica) tick() {
	r.ticks++
	if !r.loaded && r.ticks%r.o.Retry == 1%r.o.Retry {
		r.act(Load{})
	}
	if r.ticks%r.o.Retry == 0 {
		r.broadcast(Message{Kind: Ping, Joined: r.member()})
		r.retry()
	}
	if r.rn == nil {
		return
	}
	r.rn.Tick()
	if r.leads() {
		r.lead()
	}
}

// member tells whether it is in the configuration, as far as it knows.
func (r *Replica) member() bool {
	return slices.Contains(r.conf.GetVoters(), r.o.Self.Incarnation) || slices.Contains(r.conf.GetLearners(), r.o.Self.Incarnation)
}

// retry asks again for what has not come.
func (r *Replica) retry() {
	for _, caller := range slices.Sorted(maps.Keys(r.waiting)) {
		if w := r.waiting[caller]; r.ticks-w.at >= r.o.Retry {
			w.at = r.ticks
			r.waiting[caller] = w
			r.propose(w.data)
		}
	}
	switch {
	case r.asking && r.record.Epoch == 0:
		r.act(Swap{New: state.Record{Epoch: 1, Primary: r.o.Self, Synced: []state.Member{r.o.Self}}})
	case r.diverged:
		r.fetch()
	}
	r.remindSums()
	r.remindLeader()
	if r.store != nil && (r.store.wanted || r.wanted) && !r.leads() {
		r.propose(entry{kind: entryCheck, image: true}.encode())
		r.wanted = false
	}
}

// remindLeader tells the leader again what this replica has for certain. Raft says that it has an image once; if that is lost the leader waits for it.
func (r *Replica) remindLeader() {
	if r.rn == nil || r.leads() {
		return
	}
	s := r.rn.BasicStatus()
	if name, known := r.names[s.Lead]; known && s.GetCommit() > 0 { // one that has nothing says so when it refuses entries
		r.send(name, Message{Kind: Raft, Raft: &raftpb.Message{
			Type: raftpb.MsgAppResp.Enum(), To: new(s.Lead), From: new(r.o.Self.Incarnation), Term: new(s.GetTerm()), Index: new(s.GetCommit()),
		}})
	}
}

func (r *Replica) receive(m Message) {
	id := m.From.Incarnation
	r.lives[m.From.Name], r.heard[m.From.Name] = id, r.ticks
	switch m.Kind {
	case Ping:
		if !m.Joined {
			r.fresh[m.From.Name] = stamp{id, r.ticks}
		}
	case Raft:
		if m.Raft.GetTo() != r.o.Self.Incarnation || m.Raft.GetFrom() != id && m.Raft.GetType() != raftpb.MsgProp {
			return
		}
		if r.rn == nil {
			if r.asking {
				return // the store decides first
			}
			r.start(nil)
		}
		if _, known := r.names[id]; !known {
			r.names[id] = m.From.Name
		}
		_ = r.rn.Step(m.Raft) // what is refused is sent again, if it matters
		if m.Raft.GetType() == raftpb.MsgAppResp && r.leads() {
			r.arrived(id)
		}
	case Sum:
		r.sum(id, m.Index, m.Sum)
	case Fetch:
		r.serve(m)
	case Image:
		r.rebuild(m)
	}
}

func (r *Replica) propose(data []byte) {
	if r.rn != nil {
		_ = r.rn.Propose(data) // without a leader it is dropped; whoever waits proposes again
	}
}

func (r *Replica) ask(e Ask) {
	q := e.Request
	done, known := r.table[q.Caller]
	switch {
	case r.role == Joining, known && q.Seq < done.Seq:
		r.act(Refuse{Caller: q.Caller, Seq: q.Seq})
	case known && q.Seq == done.Seq:
		r.act(Answer{Reply: done})
	case r.waiting[q.Caller].seq == q.Seq:
	default:
		w := waiter{seq: q.Seq, at: r.ticks, data: entry{kind: entryRequest, request: q, clock: e.Clock, random: e.Random}.encode()}
		r.waiting[q.Caller] = w
		r.propose(w.data)
	}
}

func (r *Replica) stored(c state.Record) {
	r.loaded = true
	if c.Epoch > r.record.Epoch {
		r.record = c
	}
	if !r.asking || r.record.Epoch == 0 {
		return
	}
	if r.record.Epoch == 1 && r.record.Primary == r.o.Self {
		i := image{members: r.names, state: state.Image{Table: state.Table{}, Machine: r.founder}}
		self := []uint64{r.o.Self.Incarnation}
		r.start(&raftpb.Snapshot{Data: i.encode(self), Metadata: &raftpb.SnapshotMetadata{
			ConfState: &raftpb.ConfState{Voters: self}, Index: new(uint64(1)), Term: new(uint64(1)),
		}})
	}
	r.founder, r.founding, r.asking = nil, false, false
}

// settleRole finds what it is now.
func (r *Replica) settleRole() {
	role := Joining
	switch {
	case r.rn == nil || !r.member() || r.diverged || r.halted || r.applied == 0:
	case r.leads() && r.record.Primary == r.o.Self && r.record.Epoch == r.rn.BasicStatus().GetTerm():
		role = Leader
	default:
		role = Follower
	}
	if role == r.role {
		return
	}
	r.role = role
	if role == Joining {
		for _, caller := range slices.Sorted(maps.Keys(r.waiting)) {
			r.act(Refuse{Caller: caller, Seq: r.waiting[caller].seq})
			delete(r.waiting, caller)
		}
	}
	r.act(Become{Role: role, Record: r.record})
}

// drain carries out what raft wants, in the order that it asks for.
func (r *Replica) drain() {
	for r.rn != nil && r.rn.HasReady() {
		rd := r.rn.Ready()
		if !raft.IsEmptySnap(rd.Snapshot) {
			r.install(rd.Snapshot)
		}
		must(r.store.Append(rd.Entries))
		if rd.HardState != nil && !raft.IsEmptyHardState(rd.HardState) {
			must(r.store.SetHardState(rd.HardState))
		}
		for _, m := range rd.Messages {
			name, known := r.names[m.GetTo()]
			if known {
				r.send(name, Message{Kind: Raft, Raft: m})
			}
			if m.GetType() == raftpb.MsgSnap {
				r.imaged[m.GetTo()] = r.ticks
			}
		}
		for _, e := range rd.CommittedEntries {
			r.take(e)
		}
		r.rn.Advance(rd)
	}
	r.process()
}

// take queues a committed entry for the machine, or changes the configuration.
func (r *Replica) take(e *raftpb.Entry) {
	r.handed = e.GetIndex()
	it := item{index: e.GetIndex()}
	switch e.GetType() {
	case raftpb.EntryNormal:
		it.entry, _ = decodeEntry(e.GetData())
	default:
		r.reconfigure(e)
	}
	it.conf = r.conf
	r.pending = append(r.pending, it)
}
