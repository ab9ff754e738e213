package passive_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/godwit-project/godwit/dvs/replica/passive"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

func messages() []passive.Message {
	m := state.Member{Name: "a", Incarnation: 7}
	rec := state.Record{Epoch: 3, Primary: m, Synced: []state.Member{m, {Name: "b", Incarnation: 9}}}
	u := state.Update{
		At: state.Position{Epoch: 3, Seq: 5}, Replies: []state.Reply{{Caller: 1, Seq: 2, Failed: true, Payload: []byte("no")}}, Forget: []uint64{4},
		Delta: state.Delta{Size: 1, Pages: []state.Page{{Number: 3, Data: []byte("page")}}, Globals: []byte("g")},
	}
	return []passive.Message{
		{Kind: passive.Ping, From: m, Record: rec, Valid: true, Last: u.At, Applied: u.At, Life: 2},
		{Kind: passive.Ship, From: m, Record: rec, Prev: state.Position{Epoch: 2, Seq: 4}, Updates: []state.Update{u}, Committed: 4},
		{Kind: passive.Ack, From: m, Record: rec, OK: true, Valid: true, Last: u.At},
		{Kind: passive.Image, From: m, Record: rec, Committed: 1, Life: 1, Image: state.Image{At: u.At, Table: state.Table{1: u.Replies[0]}, Machine: []byte("all")}},
	}
}

func TestMessagesSurviveTheWire(t *testing.T) {
	for _, m := range messages() {
		got, err := passive.Parse(m.Append(nil))
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v came as %+v, %v", m, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range messages() {
		f.Add(m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := passive.Parse(b)
		if err != nil {
			return
		}
		c := m.Append(nil)
		again, err := passive.Parse(c)
		if err != nil || !bytes.Equal(again.Append(nil), c) {
			t.Errorf("%x: %v", b, err)
		}
		r := passive.New(passive.Options{Self: state.Member{Name: "z", Incarnation: 1}, Peers: []string{m.From.Name}, Every: 1, KeepBytes: 100, ShipBytes: 100})
		r.Step(passive.Receive{Message: m}) // whatever it says, nothing breaks
		r.Step(passive.Tick{Now: 10})
	})
}
