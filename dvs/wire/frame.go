package wire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// Kind says what a frame is. The values never change.
type Kind uint8

// The kinds of frame.
const (
	KindHello     Kind = 1
	KindWelcome   Kind = 2
	KindBind      Kind = 3
	KindUnbind    Kind = 4
	KindAnswer    Kind = 5
	KindWatch     Kind = 6
	KindRoute     Kind = 7
	KindIntroduce Kind = 8
	KindRevoke    Kind = 9
	KindOrder     Kind = 10
	KindDone      Kind = 11
	KindChunk     Kind = 12
	KindGone      Kind = 13
	KindCaller    Kind = 14
	KindPiece     Kind = 15
	KindRequest   Kind = 16
	KindReply     Kind = 17
	KindProbe     Kind = 18
	KindCancel    Kind = 19
	KindCredit    Kind = 20
	KindStream    Kind = 21
	KindLinkHello Kind = 32
	KindLinkAck   Kind = 33
	KindLinkStart Kind = 34
	KindForward   Kind = 35
	KindAnnounce  Kind = 36
	KindState     Kind = 37
	KindPressed   Kind = 38
	KindMeet      Kind = 39
	KindMet       Kind = 40
)

// String returns the number: a frame of an unknown kind is only ever named in an error.
func (k Kind) String() string { return fmt.Sprintf("frame kind %d", uint8(k)) }

// Frame is a kind and a body that has not been parsed. The body belongs to whoever has the frame.
type Frame struct {
	Kind Kind
	Body []byte
}

// Encoded is a whole frame, with its length. It is what Complete says, and what an Append of this package returns.
type Encoded []byte

// Kind returns the frame's kind.
func (e Encoded) Kind() Kind { return Kind(e[lengthSize]) }

// Body returns the frame's body, which shares its memory.
func (e Encoded) Body() []byte { return e[lengthSize+1:] }

// Frame returns the frame, which shares its memory.
func (e Encoded) Frame() Frame { return Frame{Kind: e.Kind(), Body: e.Body()} }

// Complete tells whether b is one frame, neither more nor less.
func Complete(b []byte) error {
	if len(b) < lengthSize {
		return fmt.Errorf("%w: %d bytes", ErrFrame, len(b))
	}
	n, err := Length(b)
	if err == nil && n != len(b)-lengthSize {
		err = fmt.Errorf("%w: length %d of %d bytes", ErrFrame, n, len(b)-lengthSize)
	}
	return err
}

// Append encodes the frame.
func (f Frame) Append(b []byte) []byte {
	start := len(b)
	return end(append(begin(b, f.Kind), f.Body...), start)
}

// Length reads the length that stands before a frame.
func Length(b []byte) (int, error) {
	n := binary.LittleEndian.Uint32(b)
	if n < 1 || n > MaxFrame {
		return 0, fmt.Errorf("%w: length %d, allowed are 1 to %d", ErrFrame, n, MaxFrame)
	}
	return int(n), nil
}

// Read reads one frame.
func Read(r *bufio.Reader) (Frame, error) {
	e, err := ReadEncoded(r)
	if err != nil {
		return Frame{}, err
	}
	return e.Frame(), nil
}

// Buffered returns the next frame if it is in the reader's buffer in full. It stays there: Discard it when it has been dealt with. nil
// means that there is none.
func Buffered(r *bufio.Reader) (Encoded, error) {
	if r.Buffered() < lengthSize {
		return nil, nil
	}
	head, err := r.Peek(lengthSize)
	if err != nil {
		return nil, err
	}
	n, err := Length(head)
	if err != nil || r.Buffered() < lengthSize+n {
		return nil, err
	}
	return r.Peek(lengthSize + n)
}

// ReadEncoded reads one frame. The memory it takes grows with what arrives, not with what the length promises.
func ReadEncoded(r *bufio.Reader) (Encoded, error) {
	head, err := r.Peek(lengthSize)
	if err != nil {
		return nil, err
	}
	n, err := Length(head)
	if err != nil {
		return nil, err
	}
	n += lengthSize
	const step = 1 << 20
	b := make([]byte, 0, min(n, step))
	for len(b) < n {
		at := len(b)
		more := min(n-at, max(step, at))
		if cap(b)-at < more {
			b = append(make([]byte, 0, at+more), b...)
		}
		b = b[:at+more]
		if _, err := io.ReadFull(r, b[at:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return b, nil
}
