package replica

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/godwit-project/godwit/dvs/replica/coding"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

// A connection carries frames from who has dialled to who has accepted: four bytes of length, little-endian, one byte of kind, a body. The first
// is a hello. A long message comes in parts, and other frames come between them, so that an image does not hold up what is urgent.
const (
	frameHello   = 1
	frameMessage = 2 // a whole message
	framePart    = 3 // a piece of a long message
	frameEnd     = 4 // its last piece

	wireVersion = 1
	partSize    = 256 << 10
	maxFrame    = 64 << 20
	maxMessage  = 4 << 30
	maxName     = 255
)

// ErrFrame is wrapped by errors about bytes that are no frame.
var ErrFrame = errors.New("not a replica frame")

// hello opens a connection.
type hello struct {
	version uint64
	kind    Kind
	group   string
	from    state.Member
	to      string
}

func appendFrame(b []byte, kind byte, body []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)+1))
	return append(append(b, kind), body...)
}

func (h hello) encode() []byte {
	var w coding.Writer
	w.Uint(h.version, uint64(h.kind))
	w.String(h.group)
	h.from.Encode(&w)
	w.String(h.to)
	return w.B
}

func parseHello(b []byte) (hello, error) {
	r := coding.Reader{B: b}
	h := hello{version: r.Uint(), kind: Kind(r.Uint()), group: r.String(), from: state.DecodeMember(&r), to: r.String()}
	if !r.Done() || len(h.group) > maxName || len(h.from.Name) > maxName {
		return hello{}, fmt.Errorf("%w: bad hello", ErrFrame)
	}
	return h, nil
}

// reader reads frames and puts messages together.
type reader struct {
	r    *bufio.Reader
	long []byte
}

// frame reads one frame. The memory it takes grows with what arrives, not with what the length promises.
func (r *reader) frame() (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n < 1 || n > maxFrame {
		return 0, nil, fmt.Errorf("%w: length %d, allowed are 1 to %d", ErrFrame, n, maxFrame)
	}
	n--
	const step = 1 << 20
	for uint32(len(body)) < n {
		at := len(body)
		body = append(body, make([]byte, min(int(n)-at, max(step, at)))...)
		if _, err := io.ReadFull(r.r, body[at:]); err != nil {
			return 0, nil, err
		}
	}
	return head[4], body, nil
}

// message reads the next whole message.
func (r *reader) message() ([]byte, error) {
	for {
		kind, body, err := r.frame()
		if err != nil {
			return nil, err
		}
		switch kind {
		case frameMessage:
			return body, nil
		case framePart, frameEnd:
			if len(r.long)+len(body) > maxMessage {
				return nil, fmt.Errorf("%w: a message of more than %d bytes", ErrFrame, maxMessage)
			}
			r.long = append(r.long, body...)
			if kind == frameEnd {
				m := r.long
				r.long = nil
				return m, nil
			}
		default:
			return nil, fmt.Errorf("%w: kind %d", ErrFrame, kind)
		}
	}
}
