package wan

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/klauspost/compress/zstd"
)

// window is how far back compression looks, in bytes; both ends keep that much in memory.
const window = 1 << 20

// compressor writes a zstd stream (RFC 8878) to its connection and reads from it as it is.
type compressor struct {
	net.Conn
	to *zstd.Encoder
}

// Compress returns a connection whose written bytes travel compressed; the other end reads them with Decompress. Every
// write is on its way, whole, when it returns: nothing is kept back to compress it better later, for what is kept back
// when a guest has stopped lengthens its blackout.
func Compress(conn net.Conn) (net.Conn, error) {
	to, err := zstd.NewWriter(conn, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window))
	if err != nil {
		return nil, fmt.Errorf("wan: compress: %w", err)
	}
	return &compressor{Conn: conn, to: to}, nil
}

func (c *compressor) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	if err == nil {
		err = c.to.Flush()
	}
	return n, err
}

// CloseWrite ends the compressed stream, then the connection's writing side.
func (c *compressor) CloseWrite() error {
	err := c.to.Close()
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return errors.Join(err, half.CloseWrite())
	}
	return errors.Join(err, c.Conn.Close())
}

// decompressor reads a zstd stream from its connection and writes to it as it is.
type decompressor struct {
	net.Conn
	from *zstd.Decoder
}

// Decompress is the other end of Compress. Close the result, not conn.
func Decompress(conn net.Conn) (net.Conn, error) {
	from, err := zstd.NewReader(conn, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return nil, fmt.Errorf("wan: decompress: %w", err)
	}
	return &decompressor{Conn: conn, from: from}, nil
}

// Read returns io.ErrUnexpectedEOF when the connection ends before the compressed stream does.
func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("wan: decompress: %w", err)
	}
	return n, err
}

// Close ends the connection. The decoder is left to the garbage collector: a Read may still be in it.
func (d *decompressor) Close() error { return d.Conn.Close() }
