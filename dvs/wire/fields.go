package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/godwit-project/godwit/dvs/endpoint"
)

// Limits of what is accepted, whoever sends it.
const (
	Version    = 1
	MaxPayload = 64 << 20
	MaxFrame   = MaxPayload + 4096
	MaxName    = 255
	lengthSize = 4
)

// ErrFrame is wrapped by every error of this package: the bytes are no frame, and nothing after them can be trusted.
var ErrFrame = errors.New("not a DVS frame")

// Begin appends room for a frame's length, and its kind.
func begin(b []byte, k Kind) []byte { return append(b, 0, 0, 0, 0, byte(k)) }

// end fills in the length of the frame that starts at start.
func end(b []byte, start int) []byte {
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-lengthSize))
	return b
}

func u16(b []byte, v uint16) []byte { return binary.LittleEndian.AppendUint16(b, v) }
func u32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }
func u64(b []byte, v ...uint64) []byte {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

func str(b []byte, s string) []byte {
	s = s[:min(len(s), 1<<16-1)]
	return append(u16(b, uint16(len(s))), s...)
}

func version(b []byte, v endpoint.Version) []byte { return u64(b, v.Epoch, v.Serial) }

func flags(bits ...bool) (v byte) {
	for i, set := range bits {
		if set {
			v |= 1 << i
		}
	}
	return v
}

// fields reads a body from the front. After the first field that does not fit, bad is true and every field is zero.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if f.bad || n > len(f.b) {
		f.bad = true
		return make([]byte, 8)[:min(n, 8)]
	}
	p := f.b[:n:n]
	f.b = f.b[n:]
	return p
}

func (f *fields) u8() byte { return f.take(1)[0] }

// flag is a byte that says yes or no.
func (f *fields) flag() bool {
	b := f.u8()
	f.bad = f.bad || b > 1
	return b == 1
}

func (f *fields) u16() uint16 { return binary.LittleEndian.Uint16(f.take(2)) }
func (f *fields) u32() uint32 { return binary.LittleEndian.Uint32(f.take(4)) }
func (f *fields) u64() uint64 { return binary.LittleEndian.Uint64(f.take(8)) }

func (f *fields) str(limit int) string {
	n := int(f.u16())
	if n > limit || n > len(f.b) {
		f.bad = true
		return ""
	}
	return string(f.take(n))
}

func (f *fields) version() endpoint.Version {
	return endpoint.Version{Epoch: f.u64(), Serial: f.u64()}
}

func (f *fields) rest(limit int) []byte {
	p := f.b
	f.b = nil
	if f.bad || len(p) > limit {
		f.bad = true
		return nil
	}
	return p
}

// done reports what is wrong with a body that has been read.
func (f *fields) done(k Kind) error {
	if f.bad || len(f.b) != 0 {
		return fmt.Errorf("%w: bad body of %s", ErrFrame, k)
	}
	return nil
}
