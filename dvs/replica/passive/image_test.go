package passive_test

import (
	"testing"

	"github.com/godwit-project/godwit/dvs/replica/passive"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

var (
	primaryC = state.Member{Name: "c", Incarnation: 1}
	joinerA  = state.Member{Name: "a", Incarnation: 1}
)

func options(self state.Member, peers ...string) passive.Options {
	return passive.Options{Self: self, Peers: peers, Every: 5, Patience: 40, ImagePatience: forever, KeepBytes: 100, ShipBytes: 300}
}

// did returns the first action of a kind.
func did[A passive.Action](all []passive.Action) (a A, found bool) {
	for _, one := range all {
		if a, found = one.(A); found {
			return a, true
		}
	}
	return a, false
}

// A joiner that an image is under way to is not believed before that has come, also when it was silent for so long that it was left out meanwhile: the image
// takes it back behind what it says.
func TestALateImageIsNotForgotten(t *testing.T) {
	r := passive.New(options(primaryC, "a", "b"))
	r.Step(passive.Tick{Now: 100})
	r.Step(passive.Stored{})
	r.Step(passive.Found{})
	record := state.Record{Epoch: 1, Primary: primaryC, Synced: []state.Member{primaryC}}
	r.Step(passive.Stored{Record: record})
	for seq := range uint64(9) { // so the beginning of its history is gone
		r.Step(passive.Ask{Request: state.Request{Caller: 1, Seq: seq + 1}})
		r.Step(passive.Executed{Reply: state.Reply{Caller: 1, Seq: seq + 1, Payload: make([]byte, 50)}, Delta: state.Delta{Size: 1}})
	}
	says := func(seq, life uint64) []passive.Action {
		at := state.Position{Epoch: 1, Seq: seq}
		return r.Step(passive.Receive{Message: passive.Message{Kind: passive.Ping, From: joinerA, Record: record, Valid: true, Last: at, Applied: at, Life: life}})
	}
	if _, asked := did[passive.Snapshot](says(1, 1)); !asked {
		t.Fatal("one that is far behind gets no image")
	}
	r.Step(passive.Imaged{Machine: []byte("image")})
	r.Step(passive.Tick{Now: 200})
	if swap, listed := did[passive.Swap](says(9, 1)); listed {
		t.Fatalf("listed while an image may still come: %v", swap.New)
	}
	if _, listed := did[passive.Swap](says(9, 2)); !listed {
		t.Fatal("not listed when it has taken the image")
	}
}

// An image that comes when others have been listed meanwhile is taken by one that has nothing. One that is not taken begins another life, so that the primary
// need not wait for it.
func TestAnImageThatWasOvertaken(t *testing.T) {
	r := passive.New(options(joinerA, "b", "c"))
	old := state.Record{Epoch: 1, Primary: primaryC, Synced: []state.Member{primaryC}}
	r.Step(passive.Stored{Record: state.Record{Epoch: 2, Primary: primaryC, Synced: []state.Member{primaryC, {Name: "b", Incarnation: 1}}}})
	image := passive.Message{Kind: passive.Image, From: primaryC, Record: old, Image: state.Image{Table: state.Table{}, Machine: []byte("image")}}
	if _, taken := did[passive.Restore](r.Step(passive.Receive{Message: image})); !taken {
		t.Fatal("the image is not taken")
	}
	says, _ := did[passive.Send](r.Step(passive.Restored{}))
	if says.Message.Life != 1 || !says.Message.Valid {
		t.Fatalf("it says life %d, valid %v", says.Message.Life, says.Message.Valid)
	}
	image.Life = 1
	all := r.Step(passive.Receive{Message: image})
	if _, taken := did[passive.Restore](all); taken {
		t.Fatal("an old image takes one back that is valid")
	}
	if says, _ = did[passive.Send](all); says.Message.Life != 2 {
		t.Fatalf("it threw an image away and says life %d", says.Message.Life)
	}
}
