package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"github.com/godwit-project/godwit/storage/wire"
)

// oldOpen is how a source of another version begins.
func oldOpen(t *testing.T) []byte {
	t.Helper()
	enc, err := wire.NewEncoder()
	must(t, err)
	open := wire.Open{Version: wire.Version + 1, Name: "shop"}
	return bytes.Clone(enc.Encode(wire.Header{Type: wire.TypeOpen, Epoch: 1}, open.Append(nil)).B)
}

// FuzzStandby feeds a standby whatever may come over its link, as frames that are encoded properly (type, flags, volume, offset,
// length, content), with right counts in the commits.
func FuzzStandby(f *testing.F) {
	enc, err := wire.NewEncoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{12, 0, 0, 0, 1, 0, 0, 4, 0, 0, 0, 0, 0, 3, 1, 2, 3, 13, 0, 0, 0, 1, 0, 0, 12, 0, 0, 0, 2, 0, 0, 5, 0, 1, 0, 9, 0, 9, 13, 0, 0, 0, 2, 0, 0, 17, 0, 0, 0, 0, 0, 9})
	f.Add([]byte{12, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 8, 1, 0, 13, 0, 0, 0, 1, 0, 0, 12, 0, 0, 0, 2, 0, 0, 20, 0, 1, 0, 0, 1, 0, 13, 0, 0, 0, 2, 0, 0, 15, 0, 0, 0, 8, 1, 0})
	f.Add([]byte{15, 0, 1, 0, 0, 1, 0, 18, 0, 0, 0, 3, 1, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		s, err := Open(fastDir(t), quick)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		specs := []Spec{{Name: "a", Size: 64 << 10}, {Name: "b", Size: 4096*3 + 512}}
		b, err := s.CreateStandby(context.Background(), "g", specs, 1)
		if err != nil {
			t.Fatal(err)
		}
		open := wire.Open{Version: wire.Version, Session: 1, Connection: 1, Name: "g", Volumes: []wire.OpenVolume{{Name: "a", Size: 64 << 10}, {Name: "b", Size: 4096*3 + 512}}}
		stream := bytes.Clone(enc.Encode(wire.Header{Type: wire.TypeOpen, Epoch: 1}, open.Append(nil)).B)
		count := wire.Commit{}
		for seq := uint64(1); len(script) >= 7; seq++ {
			h := wire.Header{
				Type: wire.Type(script[0]), Flags: script[1], Volume: uint16(script[2]), Epoch: 1, Seq: seq,
				Offset: uint64(binary.BigEndian.Uint16(script[3:])),
			}
			n := int(binary.BigEndian.Uint16(script[5:]))
			script = script[7:]
			var payload []byte
			switch h.Type {
			case wire.TypeBegin:
				count = wire.Commit{}
			case wire.TypeZero, wire.TypeAsk, wire.TypeFetch, wire.TypeLost:
				h.Offset *= 512
				h.Length = uint32(n) * 16
			case wire.TypeCommit:
				payload = count.Append(nil)
			default:
				n = min(n, len(script))
				payload, script = script[:n], script[n:]
			}
			if h.Type == wire.TypeZero || h.Type == wire.TypeData || h.Type == wire.TypeLost {
				count.Frames++
				count.Content += uint64(len(payload)) + uint64(h.Length)
			}
			stream = append(stream, enc.Encode(h, payload).B...)
		}
		_ = b.Serve(context.Background(), replay{Reader: bytes.NewReader(stream)})
		if st := b.Status(); st.Connected {
			t.Fatal("the connection is over and still counted")
		}
		if err := b.journal.Settle(); err != nil {
			t.Fatal(err)
		}
	})
}
