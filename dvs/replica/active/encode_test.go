package active_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/godwit-project/godwit/dvs/replica/active"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

func messages() []active.Message {
	m := state.Member{Name: "a", Incarnation: 7}
	return []active.Message{
		{Kind: active.Ping, From: m, Joined: true},
		{Kind: active.Raft, From: m, Raft: &raftpb.Message{
			Type: raftpb.MsgApp.Enum(), From: new(uint64(7)), To: new(uint64(8)), Entries: []*raftpb.Entry{{Data: []byte("entry")}},
		}},
		{Kind: active.Sum, From: m, Index: 3, Sum: 4},
		{Kind: active.Fetch, From: m, Index: 5},
		{Kind: active.Image, From: m, Index: 5, Data: []byte("image")},
	}
}

func encoded(t testing.TB, m active.Message) []byte {
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMessagesSurviveTheWire(t *testing.T) {
	for _, m := range messages() {
		got, err := active.Parse(encoded(t, m))
		if err != nil || got.Kind != m.Kind || got.From != m.From || got.Joined != m.Joined || got.Index != m.Index || got.Sum != m.Sum ||
			!bytes.Equal(got.Data, m.Data) || !proto.Equal(got.Raft, m.Raft) {
			t.Errorf("%+v came as %+v, %v", m, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range messages() {
		f.Add(encoded(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := active.Parse(b)
		if err != nil {
			return
		}
		if again, err := active.Parse(encoded(t, m)); err != nil || again.Kind != m.Kind || again.From != m.From || again.Index != m.Index || again.Sum != m.Sum {
			t.Errorf("%x: %+v, then %+v, %v", b, m, again, err)
		}
		if m.Kind != active.Raft { // raft trusts its peers, who are authenticated
			r := active.New(active.Options{Self: state.Member{Name: "z", Incarnation: 1}, Peers: []string{m.From.Name}, Election: 6, CheckEvery: 8, Keep: 12})
			r.Step(active.Receive{Message: m})
			r.Step(active.Tick{})
		}
	})
}
