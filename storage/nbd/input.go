package nbd

import (
	"fmt"
	"io"
)

// input is what has come from a client and not been looked at.
type input struct {
	from       io.Reader
	buf        []byte
	start, end int
	// lean: nothing is read ahead, since what comes is not for this buffer.
	lean bool
}

func (in *input) buffered() int { return in.end - in.start }

// take returns the next n bytes, at most the size of the buffer, and waits for them if need be. They are good until the next
// call.
func (in *input) take(n int) ([]byte, error) {
	if len(in.buf)-in.start < n || in.start == in.end {
		copy(in.buf, in.buf[in.start:in.end])
		in.start, in.end = 0, in.end-in.start
	}
	for in.end-in.start < n {
		upTo := len(in.buf)
		if in.lean {
			upTo = in.start + n
		}
		got, err := in.from.Read(in.buf[in.end:upTo])
		in.end += got
		if err != nil && in.end-in.start < n {
			return nil, unexpected(err, in.end > in.start)
		}
	}
	p := in.buf[in.start : in.start+n]
	in.start += n
	return p, nil
}

// readFull fills p.
func (in *input) readFull(p []byte) error {
	n := copy(p, in.buf[in.start:in.end])
	in.start += n
	if n == len(p) {
		return nil
	}
	_, err := io.ReadFull(in.from, p[n:])
	return unexpected(err, true)
}

func (in *input) discard(n int) error {
	for n > 0 {
		p, err := in.take(min(n, len(in.buf)))
		if err != nil {
			return err
		}
		n -= len(p)
	}
	return nil
}

// unexpected tells the end of a connection within a request from one between two.
func unexpected(err error, within bool) error {
	if err == io.EOF && within { //nolint:errorlint // io.Reader returns it bare
		return fmt.Errorf("the client left within a request: %w", io.ErrUnexpectedEOF)
	}
	return err
}
