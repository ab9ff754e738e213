package nbd

import (
	"encoding/binary"
	"fmt"
)

// Magic numbers.
const (
	magicServer     = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply   = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef
)

// Handshake flags, the same numbers on both sides.
const (
	handshakeFixed    = 1
	handshakeNoZeroes = 2
)

// Transmission flags of an export.
const (
	flagHasFlags    = 1 << 0
	flagReadOnly    = 1 << 1
	flagFlush       = 1 << 2
	flagFUA         = 1 << 3
	flagTrim        = 1 << 5
	flagWriteZeroes = 1 << 6
	flagDF          = 1 << 7
	flagMultiConn   = 1 << 8
	flagCache       = 1 << 10
	flagFastZero    = 1 << 11

	exportFlags = flagHasFlags | flagFlush | flagFUA | flagTrim | flagWriteZeroes | flagMultiConn
)

// Options of the negotiation.
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMeta        = 9
	optSetMeta         = 10
)

// Replies to options.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4
	repErrUnsup    = 1<<31 + 1
	repErrPolicy   = 1<<31 + 2
	repErrInvalid  = 1<<31 + 3
	repErrTLS      = 1<<31 + 5
	repErrUnknown  = 1<<31 + 6
	repErrTooBig   = 1<<31 + 9
)

// Kinds of information in INFO and GO.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Commands and their flags.
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdCache       = 5
	cmdWriteZeroes = 6
	cmdBlockStatus = 7

	cmdFlagFUA      = 1 << 0
	cmdFlagNoHole   = 1 << 1
	cmdFlagDF       = 1 << 2
	cmdFlagReqOne   = 1 << 3
	cmdFlagFastZero = 1 << 4
)

// Chunks of structured replies.
const (
	chunkDone        = 1
	chunkOffsetData  = 1
	chunkBlockStatus = 5
	chunkError       = 1<<15 + 1
)

const (
	// MaxRequest is the largest payload of a READ or WRITE, in bytes.
	MaxRequest = 32 << 20

	maxOption      = 64 << 10
	maxSkipped     = 16 << 20 // an option longer than that ends the connection, others get an answer
	maxName        = 4096
	maxExtents     = 4096
	preferredBlock = 4096
	requestSize    = 28
	contextName    = "base:allocation"
	contextID      = 1
)

// request is the fixed part of a command.
type request struct {
	flags  uint16
	cmd    uint16
	cookie uint64
	off    uint64
	length uint32
}

func parseRequest(b []byte) (request, error) {
	if len(b) < requestSize || binary.BigEndian.Uint32(b) != magicRequest {
		return request{}, fmt.Errorf("%w: request without magic number", ErrProtocol)
	}
	return request{
		flags:  binary.BigEndian.Uint16(b[4:]),
		cmd:    binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]),
		off:    binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// terms are what the two ends have agreed upon.
type terms struct {
	size       int64
	flags      uint16 // of the export
	structured bool
	meta       bool
}

// check says with which error the request must be answered, 0 if it is good.
func (r *request) check(t *terms) uint32 {
	allowed := uint16(cmdFlagFUA) // the document lets clients set FUA on every command once it is advertised
	changes := false
	switch r.cmd {
	case cmdRead:
		allowed |= cmdFlagDF
	case cmdWriteZeroes:
		allowed |= cmdFlagNoHole
		if t.flags&flagFastZero != 0 {
			allowed |= cmdFlagFastZero
		}
		changes = true
	case cmdBlockStatus:
		allowed |= cmdFlagReqOne
	case cmdWrite, cmdTrim:
		changes = true
	case cmdFlush:
	case cmdCache:
		if t.flags&flagCache == 0 {
			return errInval
		}
	default:
		return errInval
	}
	if changes && t.flags&flagReadOnly != 0 {
		return errPerm
	}
	if r.flags&^allowed != 0 {
		return errInval
	}
	if r.flags&cmdFlagDF != 0 && !t.structured || r.cmd == cmdBlockStatus && (!t.meta || r.length == 0) {
		return errInval
	}
	if r.cmd == cmdFlush {
		return 0
	}
	if r.off > uint64(t.size) || uint64(r.length) > uint64(t.size)-r.off {
		if r.cmd == cmdWrite || r.cmd == cmdWriteZeroes {
			return errNoSpace
		}
		return errInval
	}
	if (r.cmd == cmdRead || r.cmd == cmdWrite) && r.length > MaxRequest {
		return errOverflow
	}
	return 0
}

// nameAndRest takes a length-prefixed name from the front of b.
func nameAndRest(b []byte) (name string, rest []byte, err error) {
	if len(b) < 4 {
		return "", nil, fmt.Errorf("%w: option is too short", ErrProtocol)
	}
	n := binary.BigEndian.Uint32(b)
	if n > maxName || int(n) > len(b)-4 {
		return "", nil, fmt.Errorf("%w: name of %d bytes", ErrProtocol, n)
	}
	return string(b[4 : 4+n]), b[4+n:], nil
}

// parseInfo reads the data of INFO and GO: the export's name and the kinds of information wanted.
func parseInfo(b []byte) (name string, wanted []uint16, err error) {
	name, b, err = nameAndRest(b)
	if err != nil {
		return "", nil, err
	}
	if len(b) < 2 || len(b) != 2+2*int(binary.BigEndian.Uint16(b)) {
		return "", nil, fmt.Errorf("%w: information requests of the wrong length", ErrProtocol)
	}
	for b = b[2:]; len(b) > 0; b = b[2:] {
		wanted = append(wanted, binary.BigEndian.Uint16(b))
	}
	return name, wanted, nil
}

// parseMeta reads the data of LIST_META_CONTEXT and SET_META_CONTEXT: the export's name and the queries.
func parseMeta(b []byte) (name string, queries []string, err error) {
	name, b, err = nameAndRest(b)
	if err != nil {
		return "", nil, err
	}
	if len(b) < 4 {
		return "", nil, fmt.Errorf("%w: no count of queries", ErrProtocol)
	}
	n := binary.BigEndian.Uint32(b)
	for b = b[4:]; n > 0; n-- {
		var q string
		if q, b, err = nameAndRest(b); err != nil {
			return "", nil, err
		}
		queries = append(queries, q)
	}
	if len(b) != 0 {
		return "", nil, fmt.Errorf("%w: bytes after the queries", ErrProtocol)
	}
	return name, queries, nil
}
