package socket

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/dvs/wire"
)

// Sizes of a stream, in bytes.
const (
	streamBuffer = 256 << 10
	recordSize   = 64 << 10 // what is sealed at a time
	recordHead   = 4
	placeFrom    = 32 << 10 // a shorter frame is received as it is
	shortRead    = 4 << 10
	rawMost      = 256 << 10 // what is read or written at once: others may have to wait for it, to collect garbage
)

// Stream is a connection between two programs on two machines, which their nodes have made, with a secret that only those know. It never
// blocks, and nobody is told by the runtime when something has come: its owner looks. Guarded by one lock of the owner's.
//
// With a secret, what passes is records: a length (u32), and that many bytes sealed with AES-256-GCM, of which each direction has a key; the nonce
// counts the records. So a record that is changed, repeated, left out or put in by another ends the stream.
type Stream struct {
	fd       int
	out      []byte // not written
	buf      []byte // received: from r to w
	r        int
	w        int
	big      []byte // a frame that is longer than buf, of need bytes: received up to at
	need     int
	at       int
	place    func(head wire.Encoded, payload int) []byte
	landing  []byte // instead of big: where the payload of a reply goes, whose head is
	head     wire.Encoded
	short    bool // the frame before was placed: this one probably will be, so it is not received in full elsewhere first
	landed   bool // the latest frame is a head whose payload has been put in its place
	progress bool // bytes came that make no frame yet
	dry      bool // the last read brought less than there was room for

	sealer, opener *sealing
	raw            []byte // received and not opened
}

// NewStream wraps a connected socket, which then belongs to the stream, whatever happens. side is 0 for one end and 1 for the other. A secret of zeros
// is none.
func NewStream(fd int, secret [wire.SecretSize]byte, side uint8) (*Stream, error) {
	s := &Stream{fd: fd, buf: make([]byte, streamBuffer+recordSize+16)}
	err := unix.SetNonblock(fd, true)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // not of a unix socket
	if err == nil && secret != [wire.SecretSize]byte{} {
		if s.sealer, err = newSealing(secret, side); err == nil {
			s.opener, err = newSealing(secret, 1-side)
		}
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("DVS stream: %w", err)
	}
	return s, nil
}

// FD returns the descriptor, to wait for it.
func (s *Stream) FD() int { return s.fd }

// Close ends the stream.
func (s *Stream) Close() { _ = unix.Close(s.fd) }

// Place has the payloads of long replies put where they belong, as they come, unless the stream is sealed. place is asked, in Receive, with the head of a
// reply, as AppendReplyHead makes it, and the payload's length, and returns memory of that length, or nil.
func (s *Stream) Place(place func(head wire.Encoded, payload int) []byte) { s.place = place }

// Divert leaves alone the memory that place has returned: what still comes for it goes nowhere.
func (s *Stream) Divert() {
	if s.landing != nil {
		s.landing = make([]byte, len(s.landing))
	}
}

// Landed tells whether the latest frame is the head of a reply whose payload is in its place.
func (s *Stream) Landed() bool { return s.landed }

// Held returns how many bytes have not been written.
func (s *Stream) Held() int { return len(s.out) }

// Partial tells whether the latest Receive has brought a part of a frame.
func (s *Stream) Partial() bool { return s.progress }

// Waiting tells whether something has not been written.
func (s *Stream) Waiting() bool { return len(s.out) > 0 }

// Send writes what goes at once; the rest waits for Flush.
func (s *Stream) Send(frame []byte) error {
	if s.sealer != nil || len(s.out) > 0 {
		if err := s.Hold(frame); err != nil {
			return err
		}
		return s.Flush()
	}
	n, err := s.write(frame)
	if err == nil && n < len(frame) {
		err = s.Hold(frame[n:])
	}
	return err
}

// SendParts sends a frame that is in two parts, neither of them empty.
func (s *Stream) SendParts(head, body []byte) error {
	if s.sealer != nil || len(s.out) > 0 {
		if err := errors.Join(s.Hold(head), s.Hold(body)); err != nil {
			return err
		}
		return s.Flush()
	}
	n, err := rawParts(s.fd, head, body)
	if err == unix.EAGAIN || err == unix.EINTR {
		n, err = 0, nil
	}
	if err != nil {
		return fmt.Errorf("DVS stream: %w", err)
	}
	if n < len(head) {
		return errors.Join(s.Hold(head[n:]), s.Hold(body))
	}
	body = body[n-len(head):]
	n, err = s.write(body)
	if err == nil && n < len(body) {
		err = s.Hold(body[n:])
	}
	return err
}

// Hold keeps a frame for the next Flush, so that several are written at once.
func (s *Stream) Hold(frame []byte) error {
	if len(s.out)+len(frame) > maxQueue {
		return ErrSlow
	}
	if s.sealer == nil {
		s.out = append(s.out, frame...)
		return nil
	}
	for len(frame) > 0 {
		n := min(len(frame), recordSize)
		s.out = s.sealer.seal(s.out, frame[:n])
		frame = frame[n:]
	}
	return nil
}

// Flush writes what goes.
func (s *Stream) Flush() error {
	n, err := s.write(s.out)
	if n == len(s.out) && cap(s.out) <= 4*streamBuffer {
		s.out = s.out[:0]
		return err
	}
	if s.out = s.out[n:]; len(s.out) == 0 {
		s.out = nil
	}
	return err
}

func (s *Stream) write(b []byte) (done int, err error) {
	for done < len(b) {
		n, err := raw(unix.SYS_WRITE, s.fd, b[done:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return done, nil
		case err != nil:
			return done, fmt.Errorf("DVS stream: %w", err)
		default:
			done += n
		}
	}
	return done, nil
}

// Receive returns the next frame that has come in full, or nil. It is good until the next call.
func (s *Stream) Receive() (wire.Encoded, error) {
	s.progress, s.landed = false, false
	for {
		e, err := s.next()
		if e != nil || err != nil {
			return e, err
		}
		if s.dry {
			s.dry = false
			return nil, nil
		}
		n, err := s.fill()
		s.progress = s.progress || n > 0
		if n == 0 || err != nil {
			return nil, err
		}
	}
}

// next takes a frame out of what has been received.
func (s *Stream) next() (wire.Encoded, error) {
	if s.need > 0 {
		for s.r < s.w && s.at < s.need {
			n := copy(s.room(), s.buf[s.r:s.w])
			s.r, s.at = s.r+n, s.at+n
		}
		if s.at < s.need {
			return nil, nil
		}
		if s.landing != nil {
			s.landing, s.landed, s.short, s.need, s.at = nil, true, true, 0, 0
			return s.head, nil
		}
		e := wire.Encoded(s.big[:s.need])
		if s.need, s.at = 0, 0; cap(s.big) > 16*streamBuffer {
			s.big = nil
		}
		return e, nil
	}
	have := s.buf[s.r:s.w]
	if len(have) < 4 {
		return nil, nil
	}
	n, err := wire.Length(have)
	if err != nil {
		return nil, err
	}
	if n += 4; n <= len(have) {
		s.r, s.short = s.r+n, false
		return have[:n], nil
	}
	if s.placed(have, n) {
		return s.next()
	}
	if n > streamBuffer {
		s.need, s.at = n, 0
		return s.next()
	}
	return nil, nil
}

// placed tells whether the rest of a frame of n bytes goes where it belongs.
func (s *Stream) placed(have []byte, n int) bool {
	const head = wire.ReplyHead
	if n < placeFrom || len(have) < head || s.place == nil || s.opener != nil || wire.Encoded(have).Kind() != wire.KindReply {
		return false
	}
	into := s.place(have[:head], n-head)
	if len(into) != n-head {
		return false
	}
	s.head = append(s.head[:0], have[:head]...)
	s.landing, s.need, s.at = into, n-head, 0
	s.r += head
	return true
}

// room returns memory for the rest of a long frame. What the frame takes grows with what arrives, not with what its length promises.
func (s *Stream) room() []byte {
	if s.landing != nil {
		return s.landing[s.at:]
	}
	if s.at == len(s.big) {
		more := make([]byte, min(s.need, max(2*s.at, 5*streamBuffer)))
		copy(more, s.big)
		s.big = more
	}
	return s.big[s.at:min(s.need, len(s.big))]
}

// fill receives, and returns how much; 0 is nothing now.
func (s *Stream) fill() (int, error) {
	if s.r > 0 {
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	}
	room := s.buf[s.w:]
	if s.short && s.w == 0 {
		room = room[:shortRead]
	}
	direct := s.need > 0 && s.opener == nil
	if direct {
		room = s.room()
	}
	if s.opener != nil {
		return s.fillSealed()
	}
	n, err := s.read(room)
	if direct {
		s.at += n
	} else {
		s.w += n
	}
	return n, err
}

// fillSealed receives records, and opens as many as there is room for.
func (s *Stream) fillSealed() (got int, err error) {
	const room = 2 * (recordHead + recordSize + 16)
	if cap(s.raw) < room {
		s.raw = append(make([]byte, 0, room), s.raw...)
	}
	if len(s.raw) < cap(s.raw) {
		at := len(s.raw)
		n, err := s.read(s.raw[at:cap(s.raw)])
		if s.raw = s.raw[:at+n]; err != nil {
			return 0, err
		}
	}
	rest := s.raw
	for len(rest) >= recordHead {
		n := int(binary.LittleEndian.Uint32(rest))
		if n > recordSize+16 || n <= 16 {
			return got, fmt.Errorf("%w: a record of %d bytes", wire.ErrFrame, n)
		}
		if len(rest) < recordHead+n || len(s.buf)-s.w < n {
			break
		}
		plain, err := s.opener.open(s.buf[s.w:s.w], rest[recordHead:recordHead+n])
		if err != nil {
			return got, err
		}
		s.w, got, rest = s.w+len(plain), got+len(plain), rest[recordHead+n:]
	}
	if got > 0 && len(rest) >= recordHead {
		s.dry = false // there is more to open
	}
	s.raw = s.raw[:copy(s.raw, rest)]
	return got, nil
}

func (s *Stream) read(b []byte) (int, error) {
	for {
		n, err := raw(unix.SYS_READ, s.fd, b)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("DVS stream: %w", err)
		case n == 0:
			return 0, io.EOF
		default:
			s.dry = n < min(len(b), rawMost)
			return n, nil
		}
	}
}

// raw reads or writes without telling the runtime, because it never waits: a thread that is thought to wait loses its right to run Go, and whoever
// is woken by what is written often takes the processor first.
func raw(call uintptr, fd int, b []byte) (int, error) {
	if len(b) > rawMost {
		b = b[:rawMost]
	}
	n, _, err := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if err != 0 {
		return 0, err
	}
	return int(n), nil
}

// rawParts writes two parts as raw does. Neither is empty.
func rawParts(fd int, head, body []byte) (int, error) {
	body = body[:min(len(body), rawMost)]
	parts := [2]unix.Iovec{{Base: &head[0]}, {Base: &body[0]}}
	parts[0].SetLen(len(head))
	parts[1].SetLen(len(body))
	n, _, err := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&parts[0])), uintptr(len(parts)))
	if err != 0 {
		return 0, err
	}
	return int(n), nil
}

// sealing seals or opens the records of one direction.
type sealing struct {
	aead  cipher.AEAD
	count uint64
}

func newSealing(secret [wire.SecretSize]byte, side uint8) (*sealing, error) {
	key := secret[32*int(side):][:32]
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &sealing{aead: aead}, err
}

func (k *sealing) nonce() []byte {
	var n [12]byte
	binary.LittleEndian.PutUint64(n[:], k.count)
	k.count++
	return n[:]
}

func (k *sealing) seal(to, plain []byte) []byte {
	to = binary.LittleEndian.AppendUint32(to, uint32(len(plain)+16))
	return k.aead.Seal(to, k.nonce(), plain, nil)
}

var errSealed = errors.New("DVS stream: what came was not sealed by the other end")

func (k *sealing) open(to, sealed []byte) ([]byte, error) {
	b, err := k.aead.Open(to, k.nonce(), sealed, nil)
	if err != nil {
		return nil, errSealed
	}
	return b, nil
}
