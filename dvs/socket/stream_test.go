package socket_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/socket"
	"github.com/godwit-project/godwit/dvs/wire"
)

// ends returns both ends of a stream, and the descriptors of a plain pair if it is to be written by hand.
func ends(t testing.TB, secret [wire.SecretSize]byte) (a, b *socket.Stream) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = socket.NewStream(fds[0], secret, 0); err != nil {
		t.Fatal(err)
	}
	if b, err = socket.NewStream(fds[1], secret, 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func frame(n int, fill byte) []byte {
	return wire.Frame{Kind: wire.KindReply, Body: bytes.Repeat([]byte{fill}, n)}.Append(nil)
}

// Frames of every length come out as they went in, in order, sealed or not, held or not.
func TestAStreamCarriesFrames(t *testing.T) {
	for name, secret := range map[string][wire.SecretSize]byte{"plain": {}, "sealed": {1, 40: 2}} {
		t.Run(name, func(t *testing.T) {
			a, b := ends(t, secret)
			rng := rand.New(rand.NewPCG(1, 2))
			lengths := []int{0, 1, 64, 65_530, 65_536, 262_139, 262_144, 262_145, 300_000, 1 << 20, 5 << 20, 0}
			for range 300 {
				lengths = append(lengths, rng.IntN(1<<rng.IntN(17)))
			}
			sent, got := 0, 0
			for got < len(lengths) {
				if sent < len(lengths) {
					f := frame(lengths[sent], byte(sent))
					send := a.Send
					if rng.IntN(2) == 0 {
						send = a.Hold
					}
					if err := send(f); err != nil {
						t.Fatal(err)
					}
					sent++
				} else if err := a.Flush(); err != nil {
					t.Fatal(err)
				}
				for sent == len(lengths) || rng.IntN(2) == 0 {
					e, err := b.Receive()
					if err != nil {
						t.Fatal(err)
					}
					if e == nil {
						break
					}
					if !bytes.Equal(e, frame(lengths[got], byte(got))) {
						t.Fatalf("frame %d of %d bytes came as %d bytes", got, lengths[got], len(e))
					}
					got++
				}
			}
			if a.Waiting() {
				t.Error("something is left")
			}
			a.Close()
			if _, err := b.Receive(); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

// The payload of a long reply is put where it belongs, whole, unless that is given up meanwhile; what follows is not touched by that.
func TestAStreamPutsPayloadsInTheirPlace(t *testing.T) {
	for _, length := range []int{100, 40_000, 300_000, 3 << 20} {
		for _, divert := range []bool{false, true} {
			t.Run(fmt.Sprint(length, " diverted ", divert), func(t *testing.T) {
				a, b := ends(t, [wire.SecretSize]byte{})
				payload := bytes.Repeat([]byte("payload."), length/8+1)[:length]
				reply := endpoint.Reply{To: 1, Caller: 2, Seq: 3, Payload: payload}
				var into []byte
				b.Place(func(head wire.Encoded, n int) []byte {
					if m, err := wire.ParseReply(head.Body()); err != nil || m.Seq != 3 || n != length {
						t.Errorf("%+v, %v, %d bytes", m, err, n)
					}
					into = make([]byte, n)
					return into
				})
				if err := errors.Join(a.SendParts(wire.AppendReplyHead(nil, reply), payload), a.Hold(frame(50, 9))); err != nil {
					t.Fatal(err)
				}
				want := payload
				var e wire.Encoded
				var err error
				for e == nil && err == nil {
					if e, err = b.Receive(); e == nil && into != nil && divert {
						b.Divert()
						clear(into)
						want = make([]byte, length)
					}
					err = errors.Join(err, a.Flush())
				}
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case !b.Landed():
					if m, err := wire.ParseReply(e.Body()); err != nil || !bytes.Equal(m.Payload, payload) || into != nil {
						t.Errorf("%d bytes, %v", len(m.Payload), err)
					}
				case len(e) != wire.ReplyHead:
					t.Errorf("a head of %d bytes", len(e))
				case !bytes.Equal(into, want):
					t.Error("the memory is not what it should be")
				}
				for e = nil; e == nil && err == nil; err = errors.Join(err, a.Flush()) {
					e, err = b.Receive()
				}
				if err != nil || !bytes.Equal(e, frame(50, 9)) || b.Landed() {
					t.Errorf("then %d bytes, %v", len(e), err)
				}
			})
		}
	}
}

// Whoever has not the secret can say nothing: neither words of his own nor those of another again.
func TestASealedStreamTakesNothingFromOthers(t *testing.T) {
	secret := [wire.SecretSize]byte{1, 40: 2}
	for name, forge := range map[string]func(sealed []byte) []byte{
		"changed":  func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"repeated": func(b []byte) []byte { return append(b, b...) },
		"too long": func(b []byte) []byte { b[2] = 0xff; return b },
		"plain":    func([]byte) []byte { return frame(40, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			listen, err := socket.NewStream(fds[1], secret, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer listen.Close()
			a, b := ends(t, secret)
			if err := a.Send(frame(40, 7)); err != nil {
				t.Fatal(err)
			}
			sealed := make([]byte, 4096)
			n, err := unix.Read(b.FD(), sealed)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(fds[0], forge(sealed[:n:n])); err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fds[0])
			frames := 0
			for err == nil && frames < 3 {
				var e wire.Encoded
				if e, err = listen.Receive(); e != nil {
					frames++
				} else if err == nil {
					break
				}
			}
			if err == nil || frames > 1 {
				t.Errorf("took %d frames, then %v", frames, err)
			}
		})
	}
}

// A frame of any length comes as it was sent. Of the bytes that follow, which somebody else wrote, a plain stream makes the frames that they are, a sealed
// one none; both end. (A long frame is made, not given: the fuzzer would spend its time on making it shorter.)
func FuzzStream(f *testing.F) {
	const most = 700_000
	f.Add(frame(10, 1), uint32(10), false)
	f.Add(append(frame(30, 1), 1, 2, 3), uint32(70_000), true)
	f.Add([]byte{200, 0, 0, 0, 1}, uint32(300_000), false)
	f.Fuzz(func(t *testing.T, b []byte, length uint32, sealed bool) {
		var secret [wire.SecretSize]byte
		if sealed {
			secret[0] = 1
		}
		from, s := ends(t, secret)
		if length <= most {
			want := frame(int(length), 7)
			var into []byte
			if length%2 == 0 {
				s.Place(func(_ wire.Encoded, n int) []byte { into = make([]byte, n); return into })
			}
			err := from.Send(want)
			for e := (wire.Encoded)(nil); e == nil && err == nil; {
				if e, err = s.Receive(); s.Landed() {
					e = append(e, into...)
				}
				if e != nil && !bytes.Equal(e, want) {
					t.Fatalf("%d bytes came as %d", len(want), len(e))
				} else if err == nil {
					err = from.Flush()
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		s.Place(nil)
		n, _ := unix.Write(from.FD(), b)
		_ = unix.Shutdown(from.FD(), unix.SHUT_WR)
		for rest := b[:max(n, 0)]; ; {
			e, err := s.Receive()
			if err != nil {
				return
			}
			if e == nil {
				continue
			}
			if sealed || !bytes.HasPrefix(rest, e) {
				t.Fatalf("a frame of %d bytes that nobody sent", len(e))
			}
			rest = rest[len(e):]
		}
	})
}
