// Package coding writes and reads the fields of replica messages: little-endian numbers, and bytes behind their length. It knows no message.
package coding

import "encoding/binary"

// Writer collects fields.
type Writer struct{ B []byte }

// Uint appends numbers, each as short as it can be.
func (w *Writer) Uint(v ...uint64) {
	for _, x := range v {
		w.B = binary.AppendUvarint(w.B, x)
	}
}

// Fixed appends a number in eight bytes.
func (w *Writer) Fixed(v uint64) { w.B = binary.LittleEndian.AppendUint64(w.B, v) }

// Bytes appends bytes behind their length.
func (w *Writer) Bytes(p []byte) {
	w.Uint(uint64(len(p)))
	w.B = append(w.B, p...)
}

// String appends a string behind its length.
func (w *Writer) String(s string) {
	w.Uint(uint64(len(s)))
	w.B = append(w.B, s...)
}

// Bool appends a truth.
func (w *Writer) Bool(v bool) {
	b := byte(0)
	if v {
		b = 1
	}
	w.B = append(w.B, b)
}

// Reader takes fields from the front. After the first that does not fit, Bad is true and everything that it returns is zero.
type Reader struct {
	B   []byte
	Bad bool
}

// Uint takes a number.
func (r *Reader) Uint() uint64 {
	v, n := binary.Uvarint(r.B)
	if r.Bad || n <= 0 {
		r.Bad = true
		return 0
	}
	r.B = r.B[n:]
	return v
}

// Fixed takes a number of eight bytes.
func (r *Reader) Fixed() uint64 {
	if r.Bad || len(r.B) < 8 {
		r.Bad = true
		return 0
	}
	v := binary.LittleEndian.Uint64(r.B)
	r.B = r.B[8:]
	return v
}

// Bytes takes bytes. They share memory with what is read.
func (r *Reader) Bytes() []byte {
	n := r.Uint()
	if r.Bad || n > uint64(len(r.B)) {
		r.Bad = true
		return nil
	}
	p := r.B[:n:n]
	r.B = r.B[n:]
	return p
}

// String takes a string.
func (r *Reader) String() string { return string(r.Bytes()) }

// Bool takes a truth.
func (r *Reader) Bool() bool {
	if r.Bad || len(r.B) < 1 || r.B[0] > 1 {
		r.Bad = true
		return false
	}
	v := r.B[0] == 1
	r.B = r.B[1:]
	return v
}

// Count takes the length of a list, each element of which takes at least one byte.
func (r *Reader) Count() int {
	n := r.Uint()
	if n > uint64(len(r.B)) {
		r.Bad = true
		return 0
	}
	return int(n)
}

// Done tells whether everything was there, and nothing more.
func (r *Reader) Done() bool { return !r.Bad && len(r.B) == 0 }
