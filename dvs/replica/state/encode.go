package state

import (
	"errors"

	"github.com/godwit-project/godwit/dvs/replica/coding"
)

// ErrEncoding is returned for bytes that are not what they should be.
var ErrEncoding = errors.New("damaged replica state")

// Encode appends the fields.
func (r Request) Encode(w *coding.Writer) {
	w.Fixed(r.Caller)
	w.Uint(r.Seq)
	w.Bytes(r.Payload)
}

// DecodeRequest takes what Encode wrote.
func DecodeRequest(r *coding.Reader) Request {
	return Request{Caller: r.Fixed(), Seq: r.Uint(), Payload: r.Bytes()}
}

// Encode appends the fields.
func (r Reply) Encode(w *coding.Writer) {
	w.Fixed(r.Caller)
	w.Uint(r.Seq)
	w.Bool(r.Failed)
	w.Bytes(r.Payload)
}

// DecodeReply takes what Encode wrote.
func DecodeReply(r *coding.Reader) Reply {
	return Reply{Caller: r.Fixed(), Seq: r.Uint(), Failed: r.Bool(), Payload: r.Bytes()}
}

// Encode appends the fields.
func (p Position) Encode(w *coding.Writer) { w.Uint(p.Epoch, p.Seq) }

// DecodePosition takes what Encode wrote.
func DecodePosition(r *coding.Reader) Position { return Position{Epoch: r.Uint(), Seq: r.Uint()} }

// Encode appends the fields.
func (u *Update) Encode(w *coding.Writer) {
	u.At.Encode(w)
	w.Uint(uint64(len(u.Replies)))
	for _, r := range u.Replies {
		r.Encode(w)
	}
	w.Uint(uint64(len(u.Forget)))
	for _, c := range u.Forget {
		w.Fixed(c)
	}
	w.Uint(u.Delta.Size, uint64(len(u.Delta.Pages)))
	for _, p := range u.Delta.Pages {
		w.Uint(p.Number)
		w.Bytes(p.Data)
	}
	w.Bytes(u.Delta.Globals)
}

// DecodeUpdate takes what Encode wrote. It shares memory with what is read.
func DecodeUpdate(r *coding.Reader) Update {
	u := Update{At: DecodePosition(r)}
	for range r.Count() {
		u.Replies = append(u.Replies, DecodeReply(r))
	}
	for range r.Count() {
		u.Forget = append(u.Forget, r.Fixed())
	}
	u.Delta.Size = r.Uint()
	for range r.Count() {
		u.Delta.Pages = append(u.Delta.Pages, Page{Number: r.Uint(), Data: r.Bytes()})
	}
	u.Delta.Globals = r.Bytes()
	return u
}

// Encode appends the fields, callers in order: equal tables have equal bytes.
func (t Table) Encode(w *coding.Writer) {
	w.Uint(uint64(len(t)))
	for _, r := range t.Sorted() {
		r.Encode(w)
	}
}

// DecodeTable takes what Encode wrote.
func DecodeTable(r *coding.Reader) Table {
	t := Table{}
	for range r.Count() {
		p := DecodeReply(r)
		t[p.Caller] = p
	}
	return t
}

// Encode appends the fields.
func (i *Image) Encode(w *coding.Writer) {
	i.At.Encode(w)
	i.Table.Encode(w)
	w.Bytes(i.Machine)
}

// DecodeImage takes what Encode wrote. It shares memory with what is read.
func DecodeImage(r *coding.Reader) Image {
	return Image{At: DecodePosition(r), Table: DecodeTable(r), Machine: r.Bytes()}
}

// Encode appends the fields.
func (m Member) Encode(w *coding.Writer) {
	w.String(m.Name)
	w.Fixed(m.Incarnation)
}

// DecodeMember takes what Encode wrote.
func DecodeMember(r *coding.Reader) Member {
	return Member{Name: r.String(), Incarnation: r.Fixed()}
}

// Encode appends the fields.
func (r Record) Encode(w *coding.Writer) {
	w.Uint(r.Epoch)
	r.Primary.Encode(w)
	w.Uint(uint64(len(r.Synced)))
	for _, m := range r.Synced {
		m.Encode(w)
	}
}

// DecodeRecord takes what Encode wrote.
func DecodeRecord(r *coding.Reader) Record {
	c := Record{Epoch: r.Uint(), Primary: DecodeMember(r)}
	for range r.Count() {
		c.Synced = append(c.Synced, DecodeMember(r))
	}
	return c
}

// Append encodes the record alone, as a store keeps it.
func (r Record) Append(b []byte) []byte {
	w := coding.Writer{B: b}
	r.Encode(&w)
	return w.B
}

// ParseRecord decodes what Append wrote.
func ParseRecord(b []byte) (Record, error) {
	d := coding.Reader{B: b}
	r := DecodeRecord(&d)
	if !d.Done() {
		return Record{}, ErrEncoding
	}
	return r, nil
}
