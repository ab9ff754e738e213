package process

// reader takes a module's bytes apart. After a fault it returns zeros, and bad is set.
type reader struct {
	b   []byte
	at  int
	bad bool
}

func (r *reader) byte() byte {
	if r.bad || r.at >= len(r.b) {
		r.bad = true
		return 0
	}
	r.at++
	return r.b[r.at-1]
}

// take returns the next n bytes.
func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b)-r.at {
		r.bad = true
		return nil
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *reader) rest() []byte { return r.take(len(r.b) - r.at) }

// leb reads a number of up to so many bits, whose sign does not matter here.
func (r *reader) leb(bits int) uint64 {
	var n uint64
	for shift := 0; shift < bits; shift += 7 {
		b := r.byte()
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return n
		}
	}
	r.bad = true
	return 0
}

func (r *reader) u32() uint32 {
	n := r.leb(32)
	if n > 1<<32-1 {
		r.bad = true
		return 0
	}
	return uint32(n)
}

// count reads a length of things that have at least one byte each.
func (r *reader) count() uint32 {
	n := r.u32()
	if int(n) > len(r.b)-r.at {
		r.bad = true
		return 0
	}
	return n
}

func (r *reader) name() string { return string(r.take(int(r.u32()))) }

func appendU32(b []byte, n uint32) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func appendName(b []byte, name string) []byte {
	return append(appendU32(b, uint32(len(name))), name...)
}
