package wan

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Class says how urgent a stream is. The values travel in Hello and do not change.
type Class uint8

// The classes, most urgent first.
const (
	Handover Class = 1 // the memory of a virtual server, and what ends a migration
	Sync     Class = 2 // synchronous writes
	Async    Class = 3 // asynchronous replication
	Bulk     Class = 4 // first copies and resynchronisation
)

// dscp is the code point (RFC 2474) that marks the packets of a class, so that a network which looks at it can help.
func (c Class) dscp() int {
	switch c {
	case Handover:
		return 46 // EF, RFC 3246
	case Sync:
		return 34 // AF41, RFC 2597
	case Async:
		return 18 // AF21
	default:
		return 8 // CS1: lower effort
	}
}

// Hello says what a stream is for. Kind and Name are the caller's; Service and Epoch name the attempt, and the bytes of
// the stream are counted under them.
type Hello struct {
	Version int    `json:"version"`
	Kind    string `json:"kind"`
	Service string `json:"service"`
	Name    string `json:"name,omitempty"`
	Epoch   uint64 `json:"epoch"`
	Class   Class  `json:"class"`
}

// version is that of the exchange; a listener refuses any other.
const version = 1

const maxHello = 4096

type answer struct {
	Error    string `json:"error,omitempty"`
	UnixNano int64  `json:"unixNano"`
}

var errTooLong = errors.New("wan: opening message is too long")

func writeMessage(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("wan: encode opening message: %w", err)
	}
	if len(body) > maxHello {
		return errTooLong
	}
	buf := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	if _, err := w.Write(append(buf, body...)); err != nil {
		return fmt.Errorf("wan: send opening message: %w", err)
	}
	return nil
}

func readMessage(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("wan: receive opening message: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxHello {
		return errTooLong
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("wan: receive opening message: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("wan: opening message: %w", err)
	}
	return nil
}

// clockOffset is the peer's clock minus ours, and how far it may be off.
func clockOffset(sent, received time.Time, peerUnixNano int64) (offset, uncertainty time.Duration) {
	uncertainty = received.Sub(sent) / 2
	middle := sent.Add(uncertainty)
	return time.Unix(0, peerUnixNano).Sub(middle), uncertainty
}
