package active

import (
	"github.com/godwit-project/godwit/dvs/replica/coding"
	"github.com/godwit-project/godwit/dvs/replica/state"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// storage is raft's, in memory. It gives no snapshot that is older than the newest change of the configuration: a new member must be in it.
type storage struct {
	*raft.MemoryStorage
	confIndex uint64
	wanted    bool // a snapshot was asked for and is too old
}

// Snapshot returns the newest verified image.
func (s *storage) Snapshot() (*raftpb.Snapshot, error) {
	snap, err := s.MemoryStorage.Snapshot()
	if err == nil && snap.GetMetadata().GetIndex() < s.confIndex {
		s.wanted = true
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return snap, err
}

// index returns that of the newest verified image.
func (s *storage) index() uint64 {
	snap, err := s.MemoryStorage.Snapshot()
	if err != nil {
		return 0
	}
	return snap.GetMetadata().GetIndex()
}

// entryKind says what an entry of the log is. The values go over the wire: they never change.
type entryKind uint8

const (
	entryRequest entryKind = 1
	entryForget  entryKind = 2
	entryCheck   entryKind = 3 // hash; and image, if asked for
)

type entry struct {
	kind          entryKind
	request       state.Request // of Forget only the caller
	clock, random uint64
	image         bool
}

func (e entry) encode() []byte {
	w := coding.Writer{B: []byte{byte(e.kind)}}
	e.request.Encode(&w)
	w.Fixed(e.clock)
	w.Fixed(e.random)
	w.Bool(e.image)
	return w.B
}

func decodeEntry(b []byte) (entry, bool) {
	if len(b) == 0 {
		return entry{}, false
	}
	r := coding.Reader{B: b[1:]}
	e := entry{kind: entryKind(b[0]), request: state.DecodeRequest(&r), clock: r.Fixed(), random: r.Fixed(), image: r.Bool()}
	return e, r.Done()
}

// image is a verified state: what a snapshot of the log carries.
type image struct {
	members map[uint64]string
	clock   uint64
	state   state.Image
}

func (i *image) encode(ids []uint64) []byte {
	var w coding.Writer
	w.Uint(uint64(len(ids)))
	for _, id := range ids {
		state.Member{Name: i.members[id], Incarnation: id}.Encode(&w)
	}
	w.Uint(i.clock)
	i.state.Encode(&w)
	return w.B
}

func decodeImage(b []byte) (image, error) {
	r := coding.Reader{B: b}
	i := image{members: map[uint64]string{}}
	for range r.Count() {
		m := state.DecodeMember(&r)
		i.members[m.Incarnation] = m.Name
	}
	i.clock = r.Uint()
	i.state = state.DecodeImage(&r)
	if !r.Done() {
		return image{}, state.ErrEncoding
	}
	return i, nil
}

// quiet is a logger for raft: what matters is reported by actions. Raft ends by Panic when its own invariants break.
type quiet struct{}

func (quiet) Debug(...any)            {}
func (quiet) Debugf(string, ...any)   {}
func (quiet) Error(...any)            {}
func (quiet) Errorf(string, ...any)   {}
func (quiet) Info(...any)             {}
func (quiet) Infof(string, ...any)    {}
func (quiet) Warning(...any)          {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Fatal(v ...any)          { panic(v) }
func (quiet) Fatalf(f string, v ...any) {
	panic(append([]any{f}, v...))
}
func (quiet) Panic(v ...any) { panic(v) }
func (quiet) Panicf(f string, v ...any) {
	panic(append([]any{f}, v...))
}
