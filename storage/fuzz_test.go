package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/godwit-project/godwit/storage/wire"
)

// replay is a connection whose other end has said everything already.
type replay struct {
	*bytes.Reader
	net.Conn
}

func (r replay) Read(p []byte) (int, error)       { return r.Reader.Read(p) }
func (r replay) Write(p []byte) (int, error)      { return len(p), nil }
func (r replay) Close() error                     { return nil }
func (r replay) SetDeadline(time.Time) error      { return nil }
func (r replay) SetReadDeadline(time.Time) error  { return nil }
func (r replay) SetWriteDeadline(time.Time) error { return nil }

// FuzzReplica feeds a replica whatever may come over its link. The input is a list of frames (type, flags, offset, length,
// content) which are encoded properly, so that the fuzzer gets past the checksums; framing itself is fuzzed in storage/wire.
func FuzzReplica(f *testing.F) {
	enc, err := wire.NewEncoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{4, 0, 0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 5, 2, 0, 1, 1, 0, 6, 2, 0, 0, 0, 0, 7, 2, 0, 2, 1, 0})
	f.Add([]byte{4, 2, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, script []byte) {
		dir := fastDir(t)
		s, err := Open(dir, quick)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		v, err := s.CreateReplica(context.Background(), small, 2)
		if err != nil {
			t.Fatal(err)
		}
		hello := wire.Hello{Version: wire.Version, Session: 1, Connection: 1, Size: uint64(small.Size), Name: small.Name}
		stream := bytes.Clone(enc.Encode(wire.Header{Type: wire.TypeHello, Epoch: 2}, hello.Append(nil)).B)
		frames, content := uint64(0), uint64(0)
		for seq := uint64(1); len(script) >= 6; seq++ {
			h := wire.Header{Type: wire.Type(script[0]), Flags: script[1], Epoch: 2, Seq: seq, Offset: uint64(binary.BigEndian.Uint16(script[2:])) * 61}
			n := int(binary.BigEndian.Uint16(script[4:]))
			script = script[6:]
			var payload []byte
			switch h.Type {
			case wire.TypeZero:
				h.Length = uint32(n) * 64
				frames, content = frames+1, content+uint64(h.Length)
			case wire.TypeData:
				n = min(n, len(script))
				payload, script = script[:n], script[n:]
				frames, content = frames+1, content+uint64(n)
			case wire.TypeComplete:
				h.Offset = frames
				payload = binary.BigEndian.AppendUint64(nil, content)
			}
			stream = append(stream, enc.Encode(h, payload).B...)
		}
		_ = v.ServeReplica(context.Background(), replay{Reader: bytes.NewReader(stream)})
		if st := v.Status(); st.Connected {
			t.Fatal("the connection is over and still counted")
		}
		if b := image(t, v); int64(len(b)) != small.Size {
			t.Fatalf("the base file has %d bytes", len(b))
		}
	})
}
