package active

import (
	"maps"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/godwit-project/godwit/dvs/replica/coding"
	"github.com/godwit-project/godwit/dvs/replica/state"
	"go.etcd.io/raft/v3/raftpb"
)

// work is the machine's side: committed entries, one after the other.
type work struct {
	pending []item
	working *item
	jobs    int // reports that are outstanding
	ignore  int // of those, how many belong to a state that was replaced

	applied uint64
	clock   uint64
	table   state.Table

	checks    map[uint64]*check
	lastCheck uint64 // newest seen in the log
	proposed  int    // when one was proposed
	wanted    bool   // an image is wanted by somebody
	diverged  bool
	halted    bool
	restoring *restoring
}

// item is a committed entry, and the configuration after it.
type item struct {
	index uint64
	entry entry
	conf  *raftpb.ConfState
}

// check is a comparison.
type check struct {
	voters []uint64 // nil until it has come here
	conf   *raftpb.ConfState
	sums   map[uint64]uint64
	image  *image // as it was then, to be used if a majority agrees
	judged bool
}

type restoring struct {
	index uint64
	image image
}

func (r *Replica) job(a Action) {
	r.jobs++
	r.act(a)
}

// reset forgets what the machine is doing: its state is replaced.
func (r *Replica) reset() {
	r.ignore, r.pending, r.working = r.jobs, nil, nil
}

// process gives the machine the next entries.
func (r *Replica) process() {
	for r.working == nil && r.restoring == nil && !r.diverged && len(r.pending) > 0 {
		it := r.pending[0]
		r.pending = r.pending[1:]
		if it.index <= r.applied {
			continue
		}
		q := it.entry.request
		switch it.entry.kind {
		case entryRequest:
			if done, known := r.table[q.Caller]; known && done.Seq >= q.Seq {
				r.answer(done)
				break
			}
			r.clock = max(r.clock, it.entry.clock)
			r.working = &it
			r.job(Execute{Request: q, Clock: r.clock, Random: it.entry.random})
			return
		case entryForget:
			delete(r.table, q.Caller)
		case entryCheck:
			r.working = &it
			r.job(Hash{})
			if it.entry.image {
				r.job(Snapshot{})
			}
			return
		}
		r.applied = it.index
	}
}

// answer answers who waits here for a reply.
func (r *Replica) answer(p state.Reply) {
	w, waits := r.waiting[p.Caller]
	if !waits || w.seq > p.Seq {
		return
	}
	delete(r.waiting, p.Caller)
	if w.seq < p.Seq {
		r.act(Refuse{Caller: p.Caller, Seq: w.seq})
	} else if !r.halted {
		r.act(Answer{Reply: p})
	}
}

// reported takes in what the machine has done.
func (r *Replica) reported(e Event) {
	r.jobs--
	if r.ignore > 0 {
		r.ignore--
		return
	}
	switch e := e.(type) {
	case Executed:
		r.table[e.Reply.Caller] = e.Reply
		r.finish()
		r.answer(e.Reply)
	case Hashed:
		r.hashed(e.Sum)
	case Imaged:
		if r.working == nil {
			if r.record.Epoch != 0 {
				r.founding = false
				return
			}
			r.founder, r.asking = e.Machine, true
			r.act(Swap{New: state.Record{Epoch: 1, Primary: r.o.Self, Synced: []state.Member{r.o.Self}}})
			return
		}
		i := r.working.index
		r.checkAt(i).image = &image{
			members: maps.Clone(r.names), clock: r.clock, state: state.Image{At: state.Position{Seq: i}, Table: r.table.Clone(), Machine: e.Machine},
		}
		r.finish()
		r.judge(i)
	case Restored:
		s := r.restoring
		r.restoring, r.diverged = nil, false
		r.applied, r.clock, r.table = s.index, s.image.clock, s.image.state.Table
		maps.Copy(r.names, s.image.members)
	}
}

func (r *Replica) finish() { r.applied, r.working = r.working.index, nil }

func (r *Replica) checkAt(index uint64) *check {
	c := r.checks[index]
	if c == nil {
		c = &check{sums: map[uint64]uint64{}}
		r.checks[index] = c
		const most = 8
		if keys := slices.Sorted(maps.Keys(r.checks)); len(keys) > most {
			delete(r.checks, keys[0])
		}
	}
	return c
}

// hashed has the machine's hash after a Check.
func (r *Replica) hashed(sum uint64) {
	var w coding.Writer
	w.Fixed(sum)
	w.Uint(r.clock)
	r.table.Encode(&w)
	it := r.working
	c := r.checkAt(it.index)
	c.voters, c.conf, c.judged = it.conf.GetVoters(), it.conf, false
	c.sums[r.o.Self.Incarnation] = xxh3.Hash(w.B)
	r.lastCheck = max(r.lastCheck, it.index)
	if !it.entry.image {
		r.finish()
	}
	r.broadcast(Message{Kind: Sum, Index: it.index, Sum: c.sums[r.o.Self.Incarnation]})
	r.judge(it.index)
}

// sum takes in another replica's hash.
func (r *Replica) sum(id, index, sum uint64) {
	r.checkAt(index).sums[id] = sum
	r.judge(index)
}

// remindSums tells the hashes that have not been agreed on again.
func (r *Replica) remindSums() {
	for _, i := range slices.Sorted(maps.Keys(r.checks)) {
		if sum, mine := r.checks[i].sums[r.o.Self.Incarnation]; mine {
			r.broadcast(Message{Kind: Sum, Index: i, Sum: sum})
		}
	}
}

// judge compares the hashes after a Check, once enough have come.
func (r *Replica) judge(index uint64) {
	c := r.checks[index]
	if c == nil || c.voters == nil || r.diverged {
		return
	}
	mine := c.sums[r.o.Self.Incarnation]
	count := map[uint64]int{}
	heard := 0
	for _, id := range c.voters {
		if s, ok := c.sums[id]; ok {
			count[s]++
			heard++
		}
	}
	need := len(c.voters)/2 + 1
	agreed := count[mine] >= need
	for s, n := range count {
		if s != mine && n >= need {
			r.act(Differ{Index: index, Odd: true})
			r.diverged = true
			r.reset()
			delete(c.sums, r.o.Self.Incarnation)
			r.fetch()
			return
		}
	}
	switch {
	case agreed:
		r.halted, c.judged = false, true
		r.keep(index, c)
	case heard == len(c.voters) && !c.judged:
		c.judged, r.halted = true, true
		r.act(Differ{Index: index})
	}
}

// keep makes an image that a majority agrees with the newest, and cuts the log.
func (r *Replica) keep(index uint64, c *check) {
	if c.image == nil {
		return
	}
	ids := slices.Concat(c.conf.GetVoters(), c.conf.GetLearners(), c.conf.GetVotersOutgoing())
	slices.Sort(ids)
	data := c.image.encode(slices.Compact(ids))
	c.image = nil
	if _, err := r.store.CreateSnapshot(index, c.conf, data); err != nil {
		return // a newer one is there
	}
	r.store.wanted = r.store.wanted && index < r.store.confIndex
	if first, err := r.store.FirstIndex(); err == nil && index > r.o.Keep && index-r.o.Keep >= first {
		must(r.store.Compact(index - r.o.Keep))
	}
}

// askCheck proposes a comparison when one is due.
func (r *Replica) askCheck() {
	image := r.store.wanted || r.wanted || r.handed-min(r.handed, r.store.index()) >= r.o.Keep
	due := r.handed-min(r.handed, r.lastCheck) >= r.o.CheckEvery
	if !image && !due || r.ticks-r.proposed < 2*r.o.Retry {
		return
	}
	r.proposed, r.wanted = r.ticks, false
	r.propose(entry{kind: entryCheck, image: image}.encode())
}

// install takes over a whole state that the leader sends.
func (r *Replica) install(snap *raftpb.Snapshot) {
	i, err := decodeImage(snap.GetData())
	must(err) // it was whole when it left, and the transport checks
	must(r.store.ApplySnapshot(snap))
	m := snap.GetMetadata()
	r.conf, r.handed, r.store.confIndex = m.GetConfState(), m.GetIndex(), m.GetIndex()
	r.restore(m.GetIndex(), i)
}

func (r *Replica) restore(index uint64, i image) {
	r.reset()
	r.restoring = &restoring{index, i}
	r.job(Restore{Machine: i.state.Machine})
}

// fetch asks the others for an image to begin again from.
func (r *Replica) fetch() {
	if r.restoring != nil {
		return
	}
	first, err := r.store.FirstIndex()
	must(err)
	r.broadcast(Message{Kind: Fetch, Index: first - 1})
}

// serve gives another replica the newest image, or has one made.
func (r *Replica) serve(m Message) {
	if r.role == Joining {
		return
	}
	snap, err := r.store.MemoryStorage.Snapshot()
	if err != nil || snap.GetMetadata().GetIndex() < m.Index {
		r.wanted = true
		return
	}
	r.send(m.From.Name, Message{Kind: Image, Index: snap.GetMetadata().GetIndex(), Data: snap.GetData()})
}

// rebuild begins again from an image, and the entries after it.
func (r *Replica) rebuild(m Message) {
	if !r.diverged || r.restoring != nil {
		return
	}
	i, err := decodeImage(m.Data)
	if err != nil {
		return
	}
	first, err := r.store.FirstIndex()
	must(err)
	if m.Index+1 < first {
		return // what comes between is gone
	}
	r.restore(m.Index, i)
	if m.Index >= r.handed {
		return
	}
	entries, err := r.store.Entries(m.Index+1, r.handed+1, 1<<62)
	must(err)
	for _, e := range entries {
		it := item{index: e.GetIndex(), conf: r.conf}
		if e.GetType() == raftpb.EntryNormal {
			it.entry, _ = decodeEntry(e.GetData())
			it.entry.image = false // the configuration then is not known any more
		}
		r.pending = append(r.pending, it)
	}
}
