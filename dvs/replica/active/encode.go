package active

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-project/godwit/dvs/replica/coding"
	"github.com/godwit-project/godwit/dvs/replica/state"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Append encodes the message.
func (m *Message) Append(b []byte) ([]byte, error) {
	w := coding.Writer{B: append(b, byte(m.Kind))}
	m.From.Encode(&w)
	switch m.Kind {
	case Ping:
		w.Bool(m.Joined)
	case Raft:
		var err error
		if w.B, err = (proto.MarshalOptions{}).MarshalAppend(w.B, m.Raft); err != nil {
			return nil, fmt.Errorf("encode a message of the log: %w", err)
		}
	case Sum, Fetch, Image:
		w.Uint(m.Index)
		w.Fixed(m.Sum)
		w.Bytes(m.Data)
	}
	return w.B, nil
}

// Parse decodes what Append wrote. The message shares memory with b. It is checked for form alone: raft trusts its peers with the rest.
func Parse(b []byte) (Message, error) {
	if len(b) == 0 || !MessageKind(b[0]).Valid() {
		return Message{}, fmt.Errorf("%w: unknown kind of message", state.ErrEncoding)
	}
	r := coding.Reader{B: b[1:]}
	m := Message{Kind: MessageKind(b[0]), From: state.DecodeMember(&r)}
	switch m.Kind {
	case Ping:
		m.Joined = r.Bool()
	case Raft:
		m.Raft = &raftpb.Message{}
		if err := proto.Unmarshal(r.B, m.Raft); err != nil || r.Bad {
			return Message{}, fmt.Errorf("%w: %w", state.ErrEncoding, err)
		}
		r.B = nil
		t := m.Raft.GetType()
		if _, known := raftpb.MessageType_name[int32(t)]; !known || raft.IsLocalMsg(t) || m.Raft.GetFrom() != m.From.Incarnation && t != raftpb.MsgProp {
			return Message{}, fmt.Errorf("%w: message %s of %d", state.ErrEncoding, t, m.Raft.GetFrom())
		}
		if t == raftpb.MsgSnap {
			if _, err := decodeImage(m.Raft.GetSnapshot().GetData()); err != nil {
				return Message{}, err
			}
		}
	case Sum, Fetch, Image:
		m.Index, m.Sum, m.Data = r.Uint(), r.Fixed(), r.Bytes()
	}
	if !r.Done() {
		return Message{}, state.ErrEncoding
	}
	return m, nil
}
