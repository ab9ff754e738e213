package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"
)

// Encoder makes frames. It may be used from several goroutines at once.
type Encoder struct {
	zstd *zstd.Encoder
	pool sync.Pool
	// vain counts the frames in a row that compression did not make smaller, and skip those that it is not tried on therefore.
	vain, skip atomic.Int32
}

// maxSkip is how many frames are sent as they are, at most, before compression is tried again.
const maxSkip = 63

// NewEncoder makes an encoder. It needs no closing: it has no goroutine.
func NewEncoder() (*Encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("start the compressor: %w", err)
	}
	return &Encoder{zstd: z}, nil
}

// Frame is one encoded frame, header and payload, in a buffer that Release gives back.
type Frame struct {
	B    []byte
	pool *sync.Pool
}

// Release gives the frame's buffer back; the frame must not be used afterwards.
func (f *Frame) Release() {
	if f.pool != nil && cap(f.B) <= 2*MaxData {
		f.pool.Put(f)
	}
}

// minCompress is the size below which compression is not worth its latency.
const minCompress = 1024

// Encode makes a frame of h and the content. Data of at least 1 KiB is compressed if that saves an eighth, and if it
// did lately; the content is copied, so the caller keeps it. Length and Payload are set here, except the
// Length of frames that only name a range.
func (e *Encoder) Encode(h Header, content []byte) *Frame {
	f, _ := e.pool.Get().(*Frame)
	if f == nil {
		f = &Frame{pool: &e.pool}
	}
	if cap(f.B) < HeaderSize+len(content) {
		f.B = make([]byte, 0, HeaderSize+len(content)+len(content)/64+256)
	}
	if h.Type != TypeZero && h.Type != TypeAsk && h.Type != TypeFetch && h.Type != TypeLost {
		h.Length = uint32(len(content))
	}
	h.Flags &^= FlagZstd
	b := f.B[:HeaderSize]
	if (h.Type == TypeData || h.Type == TypeHashes) && len(content) >= minCompress && (e.skip.Load() <= 0 || e.skip.Add(-1) < 0) {
		b = e.zstd.EncodeAll(content, b)
		if len(b)-HeaderSize < len(content)-len(content)/8 {
			h.Flags |= FlagZstd
			e.vain.Store(0)
		} else if vain := e.vain.Add(1); vain > 4 { // what follows will hardly be better
			e.skip.Store(min(vain, maxSkip))
		}
	}
	if h.Flags&FlagZstd == 0 {
		b = append(b[:HeaderSize], content...)
	}
	h.Payload = uint32(len(b) - HeaderSize)
	seed := h.put(b)
	binary.BigEndian.PutUint64(b[40:], xxh3.HashSeed(content, seed))
	f.B = b
	return f
}

// Reader takes frames from a stream. It is used by one goroutine.
type Reader struct {
	r       io.Reader
	zstd    *zstd.Decoder
	header  [HeaderSize]byte
	payload []byte
	content []byte
}

// NewReader makes a reader; Close gives its memory back.
func NewReader(r io.Reader) (*Reader, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4*MaxData))
	if err != nil {
		return nil, fmt.Errorf("start the decompressor: %w", err)
	}
	return &Reader{r: r, zstd: z}, nil
}

// Close ends the reader, not the stream below it.
func (r *Reader) Close() { r.zstd.Close() }

// Next reads one frame and checks it. The content is valid until the next call.
func (r *Reader) Next() (Header, []byte, error) {
	if _, err := io.ReadFull(r.r, r.header[:]); err != nil {
		return Header{}, nil, err
	}
	h, seed, err := parseHeader(r.header[:])
	if err != nil {
		return h, nil, err
	}
	if cap(r.payload) < int(h.Payload) {
		r.payload = make([]byte, h.Payload)
	}
	content := r.payload[:h.Payload]
	if _, err := io.ReadFull(r.r, content); err != nil {
		return h, nil, fmt.Errorf("payload of frame %d: %w", h.Seq, err)
	}
	if h.Flags&FlagZstd != 0 {
		if content, err = r.expand(&h, content); err != nil {
			return h, nil, err
		}
	}
	if xxh3.HashSeed(content, seed) != h.Sum {
		return h, nil, fmt.Errorf("%w: checksum of frame %d (type %d, offset %d) is wrong", ErrCorrupt, h.Seq, h.Type, h.Offset)
	}
	return h, content, nil
}

func (r *Reader) expand(h *Header, payload []byte) ([]byte, error) {
	if cap(r.content) < int(h.Length) {
		r.content = make([]byte, 0, h.Length)
	}
	content, err := r.zstd.DecodeAll(payload, r.content[:0])
	if err != nil || len(content) != int(h.Length) {
		return nil, fmt.Errorf("%w: frame %d does not decompress to %d bytes", ErrCorrupt, h.Seq, h.Length)
	}
	r.content = content
	return content, nil
}
