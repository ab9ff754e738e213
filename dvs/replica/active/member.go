package active

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-project/godwit/dvs/replica/coding"
	"github.com/godwit-project/godwit/dvs/replica/state"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// reconfigure applies a change of the configuration.
func (r *Replica) reconfigure(e *raftpb.Entry) {
	var c raftpb.ConfChangeV2
	if e.GetType() == raftpb.EntryConfChange {
		var one raftpb.ConfChange
		must(proto.Unmarshal(e.GetData(), &one))
		c = *one.AsV2()
	} else {
		must(proto.Unmarshal(e.GetData(), &c))
	}
	d := coding.Reader{B: c.GetContext()}
	for range d.Count() {
		if m := state.DecodeMember(&d); !d.Bad {
			r.names[m.Incarnation] = m.Name
		}
	}
	r.conf = r.rn.ApplyConfChange(&c)
	r.store.confIndex = e.GetIndex()
}

// lead does what a leader does besides: who joins, checks, the store.
func (r *Replica) lead() {
	s := r.rn.BasicStatus()
	if r.diverged && s.LeadTransferee == 0 {
		for _, id := range r.conf.GetVoters() {
			if id != r.o.Self.Incarnation {
				r.rn.TransferLeader(id)
				break
			}
		}
	}
	if r.ticks%r.o.Retry != 0 {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(r.imaged)) {
		if r.ticks-r.imaged[id] > r.o.ImagePatience {
			delete(r.imaged, id)
			r.rn.ReportSnapshot(id, raft.SnapshotFailure) // nothing, if it has arrived
		}
	}
	if r.record.Epoch < s.GetTerm() && r.loaded {
		n := state.Record{Epoch: s.GetTerm(), Primary: r.o.Self}
		for _, id := range r.conf.GetVoters() {
			n.Synced = append(n.Synced, state.Member{Name: r.names[id], Incarnation: id})
		}
		r.act(Swap{Old: r.record, New: n})
	}
	if len(r.conf.GetVotersOutgoing()) == 0 && r.ticks-r.asked >= 2*r.o.Retry {
		r.enlist()
	}
	r.askCheck()
}

// lost has an image sent again that was under way to a peer.
func (r *Replica) lost(peer string) {
	for _, id := range slices.Sorted(maps.Keys(r.imaged)) {
		if r.names[id] == peer && r.rn != nil {
			delete(r.imaged, id)
			r.rn.ReportSnapshot(id, raft.SnapshotFailure) // nothing, if it has arrived
		}
	}
}

// arrived ends the waiting for an image that a member has. Raft does it where the log goes on from there; if it has been cut since, another image is needed.
func (r *Replica) arrived(member uint64) {
	has := false
	r.rn.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		has = has || id == member && p.State == tracker.StateSnapshot && p.Match >= p.PendingSnapshot
	})
	if has {
		delete(r.imaged, member)
		r.rn.ReportSnapshot(member, raft.SnapshotFinish)
	}
}

// enlist proposes the next change of the configuration, if there is one to make: a learner for who wants to join; a learner that has caught up
// takes the place of the voter of its name. New voters come in pairs where they can: two voters cannot do without either, one or three are
// better.
func (r *Replica) enlist() {
	caught := map[uint64]bool{}
	commit := r.rn.BasicStatus().GetCommit()
	r.rn.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		caught[id] = p.RecentActive && p.Match+16 >= commit && p.State == tracker.StateReplicate
	})
	voters := r.conf.GetVoters()
	var more []uint64
	for _, id := range r.conf.GetLearners() {
		if !caught[id] {
			continue
		}
		if former := r.others(voters, id); len(former) > 0 {
			r.change(raftpb.ConfChangeAddNode, []uint64{id}, former)
			return
		}
		more = append(more, id)
	}
	if n, all := len(voters), len(r.o.Peers)+1; len(more) > 1 || len(more) == 1 && (n%2 == 0 || n+1 == all) {
		r.change(raftpb.ConfChangeAddNode, more[:min(len(more), 1+n%2)], nil)
		return
	}
	for _, name := range r.o.Peers {
		f, wants := r.fresh[name]
		if !wants || r.ticks-f.at > 4*r.o.Retry || slices.Contains(voters, f.id) || slices.Contains(r.conf.GetLearners(), f.id) {
			continue
		}
		r.names[f.id] = name
		r.change(raftpb.ConfChangeAddLearnerNode, []uint64{f.id}, r.others(r.conf.GetLearners(), f.id))
		return
	}
}

// others returns those of the same name: former lives.
func (r *Replica) others(ids []uint64, id uint64) (all []uint64) {
	for _, o := range ids {
		if o != id && r.names[o] == r.names[id] {
			all = append(all, o)
		}
	}
	return all
}

func (r *Replica) change(t raftpb.ConfChangeType, add, remove []uint64) {
	r.asked = r.ticks
	var w coding.Writer
	var c raftpb.ConfChangeV2
	w.Uint(uint64(len(add)))
	for _, id := range add {
		state.Member{Name: r.names[id], Incarnation: id}.Encode(&w)
		c.Changes = append(c.Changes, &raftpb.ConfChangeSingle{Type: t.Enum(), NodeId: &id})
	}
	for _, id := range remove {
		c.Changes = append(c.Changes, &raftpb.ConfChangeSingle{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: &id})
	}
	c.Context = w.B
	_ = r.rn.ProposeConfChange(&c) // what is dropped is proposed again
}
