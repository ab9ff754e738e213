package wire

import (
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"
)

// Encoder makes frames. It may be used from several goroutines at once.
type Encoder struct {
	zstd, thorough *zstd.Encoder
	pool           sync.Pool
	// pause is how many frames that look like noise are sent as they are between two on which compression is tried, skip how many of
	// them are left.
	pause, skip atomic.Int32
	effort      atomic.Int32
	// weight is what bytes that occur so often in a sample take off its entropy, times its length, in bits.
	weight [sampled + 1]float32
}

// A sample is 2^sampledBits bytes; it is of noise if its entropy is above noisyBits a byte. (Of a sample as short as this, the entropy
// comes out a fifth of a bit too small.)
const (
	sampledBits = 10
	sampled     = 1 << sampledBits
	noisyBits   = 6.8
)

// maxPause is how many frames that look like noise are sent as they are, at most, before compression is tried on one.
const maxPause = 255

// Effort is how much work compression is worth.
type Effort int32

// Efforts.
const (
	// Balanced compresses as fast as there is a way to.
	Balanced Effort = iota
	// Hurried sends what looks like noise as it is, at once: where the link is faster than the sender, the little that compression may
	// find in it costs more than it saves.
	Hurried
	// Thorough takes twice the time for content of at least 64 KiB: where the link is what is waited for.
	Thorough
)

// minThorough is the size below which more effort finds nothing.
const minThorough = 64 << 10

// SetEffort counts from the next frame on.
func (e *Encoder) SetEffort(to Effort) { e.effort.Store(int32(to)) }

// NewEncoder makes an encoder. It needs no closing: it has no goroutine.
func NewEncoder() (*Encoder, error) {
	compressor := func(level zstd.EncoderLevel, atOnce int) (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(atOnce), zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20))
	}
	fast, err := compressor(zstd.SpeedFastest, 2)
	if err != nil {
		return nil, fmt.Errorf("start the compressor: %w", err)
	}
	thorough, err := compressor(zstd.SpeedDefault, 1) // has no memory until it is used
	if err != nil {
		return nil, fmt.Errorf("start the compressor: %w", err)
	}
	e := &Encoder{zstd: fast, thorough: thorough}
	e.pause.Store(maxPause / 8)
	for n := 2; n <= sampled; n++ {
		e.weight[n] = float32(float64(n) * math.Log2(float64(n)))
	}
	return e, nil
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

// Encode makes a frame of h and the content. Data of at least 1 KiB is compressed if that saves an eighth, and is not even tried on most
// of what looks like noise, if it did not help lately; the content is copied, so the caller keeps it. Length and Payload are set here, except the
// Length of frames that only name a range.
func (e *Encoder) Encode(h Header, content []byte) *Frame {
	f := e.frame(len(content))
	if h.Type != TypeZero && h.Type != TypeAsk && h.Type != TypeFetch && h.Type != TypeLost {
		h.Length = uint32(len(content))
	}
	b := e.compress(&h, content, f.B[:HeaderSize])
	if h.Flags&FlagZstd == 0 {
		b = append(b[:HeaderSize], content...)
	}
	h.seal(b, content)
	f.B = b
	return f
}

// Finish makes a data frame of h and the content that stands in b from at+[HeaderSize] on: compressed or not, as in Encode, and without
// a copy if not. It returns b, which ends with the frame then.
func (e *Encoder) Finish(b []byte, at int, h Header) []byte {
	content := b[at+HeaderSize:]
	h.Length = uint32(len(content))
	f := e.frame(len(content))
	defer f.Release()
	f.B = e.compress(&h, content, f.B[:HeaderSize])
	if h.Flags&FlagZstd == 0 {
		h.seal(b[at:], content)
		return b
	}
	h.seal(f.B, content)
	return append(b[:at], f.B...)
}

// frame is one with room for so much content.
func (e *Encoder) frame(content int) *Frame {
	f, _ := e.pool.Get().(*Frame)
	if f == nil {
		f = &Frame{pool: &e.pool}
	}
	if cap(f.B) < HeaderSize+content {
		f.B = make([]byte, 0, HeaderSize+content+content/64+256)
	}
	return f
}

// compress appends the content to b, compressed, if that is tried; the flag of the header says whether it is of use.
func (e *Encoder) compress(h *Header, content, b []byte) []byte {
	h.Flags &^= FlagZstd
	noise, try := e.worthCompressing(h, content)
	if !try {
		return b
	}
	before := len(b)
	z := e.zstd
	if len(content) >= minThorough && Effort(e.effort.Load()) == Thorough {
		z = e.thorough
	}
	b = z.EncodeAll(content, b)
	less := len(b)-before < len(content)-len(content)/8
	if less {
		h.Flags |= FlagZstd
	}
	if noise {
		e.learn(less)
	}
	return b
}

// worthCompressing says whether compression is to be tried, and whether the content looks like noise.
func (e *Encoder) worthCompressing(h *Header, content []byte) (noise, try bool) {
	if h.Type != TypeData && h.Type != TypeHashes || len(content) < minCompress {
		return false, false
	}
	if noise = e.looksLikeNoise(content); !noise {
		return false, true
	}
	return true, Effort(e.effort.Load()) != Hurried && e.skip.Add(-1) < 0
}

// learn sets how long compression rests on what looks like noise: it may still have been there before.
func (e *Encoder) learn(less bool) {
	pause := e.pause.Load()
	if less {
		pause /= 2
	} else {
		pause = min(2*pause+1, maxPause)
	}
	e.pause.Store(pause)
	e.skip.Store(pause)
}

// looksLikeNoise says, from a sample, that the bytes carry nearly all that they can, as those of encrypted and compressed content do:
// an eighth would hardly be saved. It costs a twentieth of a vain compression.
func (e *Encoder) looksLikeNoise(p []byte) bool {
	const window = 128
	var counts [256]uint16
	step := (len(p) - window) / (sampled/window - 1)
	for i := range sampled / window {
		for _, b := range p[i*step : i*step+window] {
			counts[b]++
		}
	}
	known := float32(0)
	for _, n := range counts {
		known += e.weight[n]
	}
	return known < sampled*(sampledBits-noisyBits)
}

const (
	// readAhead bounds a reader's buffer, in bytes, unless a frame needs more.
	readAhead = 256 << 10
	// readMore is how much is taken from the stream beyond what is asked for: what the buffer has no room for behind it has to be moved.
	readMore = 64 << 10
)

// Reader takes frames from a stream, which it reads ahead of them. It is used by one goroutine.
type Reader struct {
	r          io.Reader
	zstd       *zstd.Decoder
	buf        []byte // of which start to end has been read and not taken
	start, end int
	content    []byte
}

// NewReader makes a reader; Close gives its memory back.
func NewReader(r io.Reader) (*Reader, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4*MaxData))
	if err != nil {
		return nil, fmt.Errorf("start the decompressor: %w", err)
	}
	return &Reader{r: r, zstd: z, buf: make([]byte, 4096)}, nil
}

// Close ends the reader, not the stream below it.
func (r *Reader) Close() { r.zstd.Close() }

// Buffered is how many bytes have been read from the stream and not taken.
func (r *Reader) Buffered() int { return r.end - r.start }

// Next reads one frame and checks it. The content is valid until the next call.
func (r *Reader) Next() (Header, []byte, error) {
	b, err := r.take(HeaderSize)
	if err != nil {
		return Header{}, nil, err
	}
	h, seed, err := parseHeader(b)
	if err != nil {
		return h, nil, err
	}
	content, err := r.take(int(h.Payload))
	if err != nil {
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

// take returns the next n bytes, which are valid until the next call.
func (r *Reader) take(n int) ([]byte, error) {
	if len(r.buf)-r.start < n || r.start == r.end {
		r.makeRoom(n)
	}
	for r.end-r.start < n {
		got, err := r.r.Read(r.buf[r.end:min(len(r.buf), r.start+n+readMore)])
		r.end += got
		if err != nil && r.end-r.start < n {
			if err == io.EOF && r.end > r.start { //nolint:errorlint // io.Reader returns it bare
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	p := r.buf[r.start : r.start+n]
	r.start += n
	return p, nil
}

// makeRoom moves what was read to the beginning of a buffer that holds n bytes, and more if the stream has filled it.
func (r *Reader) makeRoom(n int) {
	into := r.buf
	if size := max(n, min(2*len(r.buf), readAhead)); size > len(r.buf) && (n > len(r.buf) || r.end == len(r.buf)) {
		into = make([]byte, size)
	}
	r.end = copy(into, r.buf[r.start:r.end])
	r.buf, r.start = into, 0
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
