// Package wire is the language of the replication stream: frames with a fixed header, in order, over one connection.
//
// Every frame is a header of 48 bytes, big endian, then its payload:
//
//	offset size
//	     0    4  magic "GWR1"
//	     4    1  type
//	     5    1  flags: 1 payload is zstd, 2 sync (the sender waits for stable storage)
//	     6    2  number of the volume within its group; zero elsewhere
//	     8    8  epoch of the attempt
//	    16    8  sequence number; data frames count 1, 2, 3… from the start of each connection
//	    24    8  offset in the volume, bytes
//	    32    4  length of the range, bytes
//	    36    4  length of the payload on the wire, bytes
//	    40    8  xxh3 of the payload before compression, seeded with the xxh3 of the header's first 40 bytes
//
// So the checksum covers header and content together, from the sender's read to the receiver's write.
//
//	type        from     meaning
//	1 hello     source   payload Hello: version, session, connection, size, name
//	2 welcome   replica  sequence bits: 1 nothing has been written to the replica yet, 2 complete for this epoch
//	3 reject    replica  payload: why, UTF-8; the session is over for good
//	4 data      source   payload: the content of the range
//	5 zero      source   the range reads as zeroes
//	6 barrier   source   wants stable storage for everything before it
//	7 complete  source   offset: number of data frames before it on this connection; payload: their content's bytes, 8 bytes
//	8 ack       replica  sequence: applied up to; offset: on stable storage up to
//	9 completed replica  the completion marker is durable; sequence: that of the complete frame
//
// Data, zero, barrier and complete are the sequenced types.
//
// A group of volumes has one connection, with frames of its own (data and zero are shared); the source's are all sequenced:
//
//	10 open      source   payload Open: version, session, connection, group and volumes
//	11 opened    replica  payload Opened: lineage, last consistent point
//	12 begin     source   offset: number of the epoch that begins
//	13 commit    source   offset: number of the epoch that ends; payload Commit
//	14 committed replica  offset: number of the last epoch that is on stable storage
//	15 ask       source   wants the hashes of a range as the replica has it at its last consistent point
//	16 hashes    replica  offset: where; payload: xxh3 of each block of 4 KiB, seeded with the session, 8 bytes each
//	17 keep      source   payload: seconds (0: for ever) and the name of a cut of what is committed before it on the stream
//	18 fetch     source   wants the content of a range, which comes as data
//	19 missing   replica  … which is not right there
//	20 lost      source   the range, of whole blocks, has no right content any more; counts as data
//
// What may not enter: anything that knows files or sessions.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
)

// ErrCorrupt means that bytes from the other end are not what was sent, or are no frame at all.
var ErrCorrupt = errors.New("corrupt replication frame")

const (
	// HeaderSize is the length of every header, in bytes.
	HeaderSize = 48
	// MaxData bounds the content of a data frame, in bytes.
	MaxData = 1 << 20
	// MaxZero bounds the range of a zero frame, in bytes.
	MaxZero = 1 << 30
	// MaxAsk bounds the range that hashes are asked for, in bytes.
	MaxAsk = 16 << 20
	// HashBlock is the size of the blocks that are hashed, in bytes.
	HashBlock = 4096

	maxControl = 4096
	maxOpen    = 64 << 10
	magic      = 0x47575231
)

// Type is the kind of a frame.
type Type uint8

// The types of frames. The numbers are the wire's.
const (
	TypeHello     Type = 1
	TypeWelcome   Type = 2
	TypeReject    Type = 3
	TypeData      Type = 4
	TypeZero      Type = 5
	TypeBarrier   Type = 6
	TypeComplete  Type = 7
	TypeAck       Type = 8
	TypeCompleted Type = 9
	TypeOpen      Type = 10
	TypeOpened    Type = 11
	TypeBegin     Type = 12
	TypeCommit    Type = 13
	TypeCommitted Type = 14
	TypeAsk       Type = 15
	TypeHashes    Type = 16
	TypeKeep      Type = 17
	TypeFetch     Type = 18
	TypeMissing   Type = 19
	TypeLost      Type = 20
)

// Flags of a frame.
const (
	// FlagZstd says that the payload is compressed.
	FlagZstd uint8 = 1
	// FlagSync says that the sender waits until the frame is on stable storage.
	FlagSync uint8 = 2
)

// Bits in the sequence field of a welcome.
const (
	WelcomeFresh    uint64 = 1
	WelcomeComplete uint64 = 2
)

// Header is the fixed part of a frame. Payload is its length on the wire, filled in by the writer.
type Header struct {
	Type    Type
	Flags   uint8
	Volume  uint16
	Epoch   uint64
	Seq     uint64
	Offset  uint64
	Length  uint32
	Payload uint32
	Sum     uint64
}

// put writes the header without its checksum into b and returns the seed for the checksum.
func (h *Header) put(b []byte) uint64 {
	binary.BigEndian.PutUint32(b[0:], magic)
	b[4], b[5] = byte(h.Type), h.Flags
	binary.BigEndian.PutUint16(b[6:], h.Volume)
	binary.BigEndian.PutUint64(b[8:], h.Epoch)
	binary.BigEndian.PutUint64(b[16:], h.Seq)
	binary.BigEndian.PutUint64(b[24:], h.Offset)
	binary.BigEndian.PutUint32(b[32:], h.Length)
	binary.BigEndian.PutUint32(b[36:], h.Payload)
	return xxh3.Hash(b[:40])
}

// seal writes the header before the payload, which b has already, and the checksum of the content.
func (h *Header) seal(b, content []byte) {
	h.Payload = uint32(len(b) - HeaderSize)
	seed := h.put(b)
	binary.BigEndian.PutUint64(b[40:], xxh3.HashSeed(content, seed))
}

// parseHeader reads a header and checks everything that can be known without the payload.
func parseHeader(b []byte) (h Header, seed uint64, err error) {
	if len(b) < HeaderSize || binary.BigEndian.Uint32(b) != magic {
		return h, 0, fmt.Errorf("%w: no magic number", ErrCorrupt)
	}
	h = Header{
		Type: Type(b[4]), Flags: b[5], Volume: binary.BigEndian.Uint16(b[6:]),
		Epoch:   binary.BigEndian.Uint64(b[8:]),
		Seq:     binary.BigEndian.Uint64(b[16:]),
		Offset:  binary.BigEndian.Uint64(b[24:]),
		Length:  binary.BigEndian.Uint32(b[32:]),
		Payload: binary.BigEndian.Uint32(b[36:]),
		Sum:     binary.BigEndian.Uint64(b[40:]),
	}
	if h.Flags&^(FlagZstd|FlagSync) != 0 {
		return h, 0, fmt.Errorf("%w: unknown flags", ErrCorrupt)
	}
	return h, xxh3.Hash(b[:40]), h.check()
}

// check holds the bounds of each type, so that a reader never allocates what a liar asks for.
func (h *Header) check() error {
	ok := false
	switch h.Type {
	case TypeHello, TypeReject:
		ok = h.Payload <= maxControl && h.Length == h.Payload && h.Flags == 0
	case TypeWelcome, TypeBarrier, TypeAck, TypeCompleted:
		ok = h.Payload == 0 && h.Length == 0 && h.Flags&FlagZstd == 0
	case TypeData:
		ok = h.Length > 0 && h.Length <= MaxData && h.Payload > 0 && h.Payload <= h.Length &&
			(h.Flags&FlagZstd != 0 || h.Payload == h.Length)
	case TypeZero:
		ok = h.Length > 0 && h.Length <= MaxZero && h.Payload == 0 && h.Flags&FlagZstd == 0
	case TypeComplete:
		ok = h.Payload == 8 && h.Length == 8 && h.Flags&FlagZstd == 0
	default:
		ok = h.checkGroup()
	}
	if h.Volume != 0 && (h.Type < TypeData || h.Type == TypeBarrier) {
		ok = false
	}
	if !ok || h.Offset > 1<<62 {
		return fmt.Errorf("%w: type %d with length %d and payload %d", ErrCorrupt, h.Type, h.Length, h.Payload)
	}
	return nil
}

// checkGroup holds the bounds of the types that only groups have.
func (h *Header) checkGroup() bool {
	switch h.Type {
	case TypeOpen:
		return h.Payload <= maxOpen && h.Length == h.Payload && h.Flags == 0
	case TypeOpened:
		return h.Payload == openedSize && h.Length == h.Payload && h.Flags == 0
	case TypeCommit:
		return h.Payload == commitSize && h.Length == h.Payload && h.Flags == 0
	case TypeBegin, TypeCommitted, TypeMissing:
		return h.Payload == 0 && h.Length == 0 && h.Flags == 0
	case TypeAsk:
		return h.Length > 0 && h.Length <= MaxAsk && h.Payload == 0 && h.Offset%HashBlock == 0 && h.Flags == 0
	case TypeLost:
		return h.Length > 0 && h.Length <= MaxData && h.Payload == 0 && h.Offset%HashBlock == 0 && h.Flags == 0
	case TypeFetch:
		return h.Length > 0 && h.Length <= MaxData && h.Payload == 0 && h.Flags == 0
	case TypeHashes:
		return h.Length > 0 && h.Length <= MaxAsk/HashBlock*8 && h.Length%8 == 0 && h.Payload <= h.Length &&
			(h.Flags == FlagZstd || h.Flags == 0 && h.Payload == h.Length)
	case TypeKeep:
		return h.Payload > 8 && h.Payload <= maxControl && h.Length == h.Payload && h.Flags == 0
	default:
		return false
	}
}
