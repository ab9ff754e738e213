package endpoint_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/godwit-project/godwit/dvs/endpoint"
)

func sampleState() endpoint.State {
	r := endpoint.Request{Kind: endpoint.SendRec, From: "x", To: 7, Caller: 3, Seq: 4, Line: 2, Payload: []byte("p")}
	return endpoint.State{
		ID: 7, Line: 2, Queue: []endpoint.Request{r}, Notes: []endpoint.Note{{From: "n", Caller: 5, Seq: 1}},
		Noted: []endpoint.Note{{Caller: 5, Seq: 1}},
		Table: []endpoint.Past{
			{Caller: 3, Seq: 4},
			{Caller: 9, Seq: 1, Done: true, Reply: endpoint.Reply{Caller: 9, Seq: 1, To: 7, Payload: []byte("old")}},
		},
		Caller: endpoint.CallerState{ID: 11, Seq: 12, NoteSeq: 13}, Process: []byte("the program's"),
	}
}

func TestAStateComesBackAsItWas(t *testing.T) {
	s := sampleState()
	b := s.Append(nil)
	back, err := endpoint.ParseState(b)
	if err != nil || !bytes.Equal(back.Append(nil), b) {
		t.Fatalf("%+v, %v", back, err)
	}
	m := endpoint.NewMailbox(7, endpoint.Version{}, endpoint.Standby)
	if err := m.Restore(back); err != nil {
		t.Fatal(err)
	}
	m.Activate(endpoint.Version{Epoch: 5})
	if o, r := m.Offer(endpoint.Request{Kind: endpoint.SendRec, To: 7, Caller: 9, Seq: 1, Line: 2}, false); o != endpoint.Answer || string(r.Payload) != "old" {
		t.Errorf("a repetition gave %d %+v", o, r)
	}
	if o, _ := m.Offer(endpoint.Request{Kind: endpoint.SendRec, To: 7, Caller: 3, Seq: 4, Line: 2}, false); o != endpoint.Ignored || m.Len() != 2 {
		t.Errorf("a queued request was queued again: %d, %d", o, m.Len())
	}
	if o, r := m.Offer(endpoint.Request{Kind: endpoint.SendRec, To: 7, Caller: 77, Seq: 1, Line: 1}, false); o != endpoint.Answer || r.Code != endpoint.OtherLine {
		t.Errorf("a request of another line: %d %+v", o, r)
	}
}

// FuzzState expects that what parses encodes to the same bytes, and that restoring it does no harm.
func FuzzState(f *testing.F) {
	f.Add(sampleState().Append(nil))
	f.Add(endpoint.State{ID: 1}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := endpoint.ParseState(b)
		if err != nil {
			if !errors.Is(err, endpoint.ErrState) {
				t.Fatal(err)
			}
			return
		}
		back, err := endpoint.ParseState(s.Append(nil))
		if err != nil || !bytes.Equal(back.Append(nil), s.Append(nil)) {
			t.Fatalf("%+v, %v", back, err)
		}
		m := endpoint.NewMailbox(s.ID, endpoint.Version{}, endpoint.Standby)
		if m.Restore(s) == nil {
			m.Activate(endpoint.Version{Epoch: 1})
			for {
				if _, _, ok := m.Take(nil, false); !ok {
					break
				}
			}
		}
	})
}
