package node

import (
	"fmt"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/godwit-project/godwit/dvs/wire"
)

// Compression says when a link compresses.
type Compression uint8

// The ways to compress.
const (
	// CompressAdaptive compresses while the link is so slow that it is worth the time, and what is sent gets smaller by it.
	CompressAdaptive Compression = 0
	CompressNever    Compression = 1
	// CompressAlways compresses whatever gets smaller by it.
	CompressAlways Compression = 2
)

// Set takes it from its name: auto, always or never.
func (c *Compression) Set(name string) error {
	for i, one := range []string{CompressAdaptive: "auto", CompressNever: "never", CompressAlways: "always"} {
		if one == name {
			*c = Compression(i)
			return nil
		}
	}
	return fmt.Errorf("compression %q: want auto, always or never", name)
}

// LinkOptions of one link. The other node may have others.
type LinkOptions struct {
	Compress Compression
	// Single writes each packet by itself: no batching.
	Single bool
	// Relay has the nodes carry everything between their programs: none get a stream of their own.
	Relay bool
}

const (
	pressFrom = 512 // bytes
	mostSkips = 64  // batches
)

// press compresses what a link writes. It belongs to the writer.
type press struct {
	mode  Compression
	rate  float64 // bytes a second that the link takes; 0 is not known
	skip  int     // batches that are not tried
	skips int     // after the next that was not worth it
	block []byte
}

// pack appends frames to out, compressed if that is worth it.
func (p *press) pack(out, frames []byte) []byte {
	if p.mode == CompressNever || len(frames) < pressFrom || len(frames) > wire.MaxPressed {
		return append(out, frames...)
	}
	if p.mode == CompressAdaptive && p.rate == 0 {
		return append(out, frames...)
	}
	if p.skip > 0 {
		p.skip--
		return append(out, frames...)
	}
	began := time.Now()
	p.block = s2.Encode(p.block[:cap(p.block)], frames)
	took := time.Since(began).Seconds()
	saved := len(frames) - len(p.block) - 16
	worth := saved > len(frames)/8
	if p.mode == CompressAdaptive {
		worth = worth && float64(saved)/p.rate > 2*took // the other end works as well
	}
	if !worth {
		p.skips = min(max(2*p.skips, 1), mostSkips)
		p.skip = p.skips
		return append(out, frames...)
	}
	p.skips = 0
	return wire.Pressed{Size: uint32(len(frames)), Block: p.block}.Append(out)
}

// wrote notes how fast the link took bytes.
func (p *press) wrote(bytes int, took time.Duration) {
	if bytes < 16<<10 && took < time.Millisecond {
		return // the socket's buffer took them
	}
	rate := float64(bytes) / max(took.Seconds(), 1e-9)
	if p.rate == 0 {
		p.rate = rate
	}
	p.rate += (rate - p.rate) / 8
}

// unpack decompresses a Pressed into buf.
func unpack(body, buf []byte) ([]byte, error) {
	m, err := wire.ParsePressed(body)
	if err != nil {
		return nil, err
	}
	if n, err := s2.DecodedLen(m.Block); err != nil || n != int(m.Size) {
		return nil, fmt.Errorf("%w: compressed frames of %d bytes, %d announced: %w", wire.ErrFrame, n, m.Size, err)
	}
	b, err := s2.Decode(buf[:cap(buf)], m.Block)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", wire.ErrFrame, err)
	}
	return b, nil
}
