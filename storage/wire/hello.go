package wire

import (
	"encoding/binary"
	"fmt"
)

// Version of the protocol. Both ends must have the same.
const Version = 2

// Hello opens a connection from the source.
type Hello struct {
	Version uint16
	// Session is drawn at random when replication starts; Connection counts that session's connections, so that a late
	// one is not taken for the newest.
	Session    uint64
	Connection uint64
	// Size of the volume in bytes.
	Size uint64
	Name string
}

// Append adds the encoded hello to b: version 2, session 8, connection 8, size 8, length of the name 2, name.
func (h *Hello) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, h.Version)
	b = binary.BigEndian.AppendUint64(b, h.Session)
	b = binary.BigEndian.AppendUint64(b, h.Connection)
	b = binary.BigEndian.AppendUint64(b, h.Size)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.Name)))
	return append(b, h.Name...)
}

// ParseHello reads what Append wrote; nothing may follow it.
func ParseHello(b []byte) (Hello, error) {
	if len(b) < 28 || len(b) != 28+int(binary.BigEndian.Uint16(b[26:])) {
		return Hello{}, fmt.Errorf("%w: hello of %d bytes", ErrCorrupt, len(b))
	}
	return Hello{
		Version:    binary.BigEndian.Uint16(b),
		Session:    binary.BigEndian.Uint64(b[2:]),
		Connection: binary.BigEndian.Uint64(b[10:]),
		Size:       binary.BigEndian.Uint64(b[18:]),
		Name:       string(b[28:]),
	}, nil
}
