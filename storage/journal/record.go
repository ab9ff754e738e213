package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/xxh3"
)

// ErrDamaged means that what is on the disk is not what was written there.
var ErrDamaged = errors.New("journal is damaged")

// A record is a header of 48 bytes, big endian, and its payload:
//
//	offset size
//	     0    4  magic "GWJ1"
//	     4    1  kind: 1 data, 2 zeroes, 3 commit, 4 start of a file, 5 no right content any more
//	     5    1  zero
//	     6    2  volume
//	     8    8  epoch; in a start, the last one that was committed before this file
//	    16    8  offset in the volume; in a commit, its time in Unix nanoseconds; in a start, a number drawn at random
//	    24    8  length of the range; in a commit, the number of records before it in its epoch
//	    32    4  length of the payload
//	    36    4  zero
//	    40    8  xxh3 of the payload, seeded with the xxh3 of the 40 bytes before, seeded with the checksum of the record before
const (
	recordSize = 48
	magic      = 0x47574a31

	kindData   = 1
	kindZero   = 2
	kindCommit = 3
	kindStart  = 4
	kindLost   = 5

	// maxPayload bounds a record, in bytes.
	maxPayload = 4 << 20
)

type record struct {
	kind    byte
	vol     uint16
	epoch   uint64
	off     int64
	length  int64
	payload uint32
	sum     uint64
}

// put writes the header with its checksum into b.
func (r *record) put(b, payload []byte, before uint64) {
	binary.BigEndian.PutUint32(b[0:], magic)
	b[4], b[5] = r.kind, 0
	binary.BigEndian.PutUint16(b[6:], r.vol)
	binary.BigEndian.PutUint64(b[8:], r.epoch)
	binary.BigEndian.PutUint64(b[16:], uint64(r.off))
	binary.BigEndian.PutUint64(b[24:], uint64(r.length))
	binary.BigEndian.PutUint32(b[32:], uint32(len(payload)))
	binary.BigEndian.PutUint32(b[36:], 0)
	r.sum = xxh3.HashSeed(payload, xxh3.HashSeed(b[:40], before))
	binary.BigEndian.PutUint64(b[40:], r.sum)
}

// readAhead is how much of a file is read at once, in bytes: at most, and to begin with, where it is not known how much there is. The first
// is somewhat more than the largest record that comes, or its head would be read with most of it, which is read again then.
const (
	readAhead  = 256<<10 + 4<<10
	readAtOnce = 4 << 10
)

// reader goes over the records of a file. Nothing of what it is to read may change meanwhile.
type reader struct {
	f   io.ReaderAt
	pos int64
	sum uint64 // of the last record
	// ahead is what the file has from some offset on, most how much is read next.
	ahead []byte
	at    int64
	most  int
}

// over goes over so many bytes of a file, in the same memory.
func (r *reader) over(f io.ReaderAt, pos, bytes int64, sum uint64) {
	r.f, r.pos, r.sum = f, pos, sum
	r.ahead, r.most = r.ahead[:0], int(min(bytes, readAhead))
}

// peek returns n bytes from off on, zeroes beyond the end of the file; they are good until the next call.
func (r *reader) peek(off int64, n int) ([]byte, error) {
	if off < r.at || off+int64(n) > r.at+int64(len(r.ahead)) {
		size := max(n, r.most, readAtOnce)
		r.most = min(2*size, readAhead)
		if cap(r.ahead) < size {
			r.ahead = make([]byte, size)
		}
		r.ahead, r.at = r.ahead[:size], off
		if err := readFull(r.f, r.ahead, off); err != nil {
			r.ahead = r.ahead[:0]
			return nil, err
		}
	}
	return r.ahead[off-r.at:][:n], nil
}

// next reads one record; the payload is valid until the next call. An error is an ErrDamaged, or one of the disk.
func (r *reader) next() (record, []byte, error) {
	b, err := r.peek(r.pos, recordSize)
	if err != nil {
		return record{}, nil, err
	}
	rec := record{
		kind: b[4], vol: binary.BigEndian.Uint16(b[6:]),
		epoch:   binary.BigEndian.Uint64(b[8:]),
		off:     int64(binary.BigEndian.Uint64(b[16:])),
		length:  int64(binary.BigEndian.Uint64(b[24:])),
		payload: binary.BigEndian.Uint32(b[32:]),
		sum:     binary.BigEndian.Uint64(b[40:]),
	}
	if binary.BigEndian.Uint32(b) != magic || rec.kind < kindData || rec.kind > kindLost || rec.payload > maxPayload {
		return rec, nil, fmt.Errorf("%w: no record at %d", ErrDamaged, r.pos)
	}
	seed := xxh3.HashSeed(b[:40], r.sum)
	p, err := r.peek(r.pos+recordSize, int(rec.payload))
	if err != nil {
		return rec, nil, err
	}
	if xxh3.HashSeed(p, seed) != rec.sum {
		return rec, nil, fmt.Errorf("%w: wrong checksum of the record at %d", ErrDamaged, r.pos)
	}
	r.sum = rec.sum
	r.pos += recordSize + int64(rec.payload)
	return rec, p, nil
}
