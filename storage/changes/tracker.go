package changes

// Span is a range of a volume in bytes.
type Span struct{ Off, Length int64 }

// Marks remembers, where it outlives the process, which parts of a volume the other end may lack. Mark comes before the write
// and must be cheap; it is told again and again of the same range.
type Marks interface {
	Mark(off, length int64)
	Clear(off, length int64)
	// Grain is the size of the parts, in bytes, a multiple of BlockSize.
	Grain() int64
}

// Tracker knows what the other end lacks of a group of volumes. Every block that it may lack is in at least one of three places:
// written since the last cut, owed by the cut epoch, or handed over and not committed.
type Tracker struct {
	volumes   []*volume
	current   uint64 // the epoch that writes belong to
	cut       uint64 // the last one that was cut; 0 for none on this link
	committed uint64
	owing     int64 // blocks that the cut epoch still owes
	// The handed-over blocks are in two sets, filled in turn: each can be forgotten once its last epoch is committed, and so
	// no epoch needs a list of its own.
	fill int
	last [2]uint64
}

type volume struct {
	size    int64
	marks   Marks
	current *Set
	owed    *Set
	aside   *Set // of owed: the content is no longer in the volume, but aside
	unsure  *Set // the other end may have these already: compare before handing over
	checked *Set // of unsure: nothing was written there, it is only to be compared
	handed  [2]*Set
	lacked  *Set // in current, owed or handed
}

// NewTracker makes a tracker for volumes of these sizes, whose first epoch has that number; marks has one entry for each.
func NewTracker(first uint64, sizes []int64, marks []Marks) *Tracker {
	t := &Tracker{current: first, committed: first - 1}
	for i, size := range sizes {
		t.volumes = append(t.volumes, &volume{
			size: size, marks: marks[i], current: NewSet(size), owed: NewSet(size), aside: NewSet(size), unsure: NewSet(size), checked: NewSet(size),
			handed: [2]*Set{NewSet(size), NewSet(size)}, lacked: NewSet(size),
		})
	}
	return t
}

// Mark says that a range is about to be written, and returns the number of the epoch that the write belongs to.
func (t *Tracker) Mark(vol int, off, length int64) uint64 {
	v := t.volumes[vol]
	if v.checked.Count() > 0 {
		v.checked.Clear(off, length)
	}
	if v.current.All(off, length) { // then it is in the marks, and lacked, as well
		return t.current
	}
	v.marks.Mark(off, length)
	v.current.Mark(off, length)
	v.lacked.Mark(off, length)
	return t.current
}

// Doubt says that it is not known whether the other end has the range: it is compared with the next epoch.
func (t *Tracker) Doubt(vol int, off, length int64) uint64 {
	t.volumes[vol].unsure.Mark(off, length)
	return t.Mark(vol, off, length)
}

// Check has the range compared with the next epoch although the other end should have it.
func (t *Tracker) Check(vol int, off, length int64) {
	v := t.volumes[vol]
	end := min(off+length, v.size)
	for b := off; b < end; b += BlockSize {
		if !v.lacks(b, 1) {
			v.checked.Mark(b, 1)
		}
	}
	v.unsure.Mark(off, length)
	v.current.Mark(off, length)
	v.lacked.Mark(off, length)
	v.marks.Mark(off, length)
}

// Checked says that a block is compared only because of Check, and nothing was written there since.
func (t *Tracker) Checked(vol int, off int64) bool { return t.volumes[vol].checked.Any(off, 1) }

// Owed appends to spans those parts of the range whose content must be put aside before they are overwritten.
func (t *Tracker) Owed(vol int, off, length int64, spans []Span) []Span {
	v := t.volumes[vol]
	if !v.owed.Any(off, length) {
		return spans
	}
	end := min(off+length, v.size)
	for at := off / BlockSize * BlockSize; at < end; {
		start, n := v.owed.Next(at, 1<<20)
		if n == 0 || start < at || start >= end {
			break
		}
		for b := start; b < min(start+n, end); b += BlockSize {
			if v.aside.Any(b, 1) {
				continue
			}
			if k := len(spans) - 1; k >= 0 && spans[k].Off+spans[k].Length == b {
				spans[k].Length += BlockSize
			} else {
				spans = append(spans, Span{b, BlockSize})
			}
		}
		at = start + n
	}
	if k := len(spans) - 1; k >= 0 {
		spans[k].Length = min(spans[k].Length, v.size-spans[k].Off)
	}
	return spans
}

// AnyOwed says whether something in the range must be put aside before it is overwritten.
func (t *Tracker) AnyOwed(vol int, off, length int64) bool {
	var one [1]Span
	return t.volumes[vol].owed.Any(off, length) && len(t.Owed(vol, off, length, one[:0])) > 0
}

// Aside says that the content of the range, which is owed, was copied aside.
func (t *Tracker) Aside(vol int, off, length int64) { t.volumes[vol].aside.Mark(off, length) }

// IsAside says where the content of an owed block is.
func (t *Tracker) IsAside(vol int, off int64) bool { return t.volumes[vol].aside.Any(off, 1) }

// AnyAside says whether the content of an owed block in the range is aside.
func (t *Tracker) AnyAside(vol int, off, length int64) bool {
	return t.volumes[vol].aside.Any(off, length)
}

// Current is the number of the epoch that writes belong to at the moment, and whether there are any.
func (t *Tracker) Current() (number uint64, written bool) {
	for _, v := range t.volumes {
		if v.current.Count() > 0 {
			return t.current, true
		}
	}
	return t.current, false
}

// Owing is what the cut epoch still owes, in bytes.
func (t *Tracker) Owing() int64 { return t.owing * BlockSize }

// CommittedTo is the last epoch that the other end is known to have.
func (t *Tracker) CommittedTo() uint64 { return t.committed }

// Pending is what the other end lacks, in bytes; a block in two epochs counts twice.
func (t *Tracker) Pending() int64 {
	n := t.owing
	for _, v := range t.volumes {
		n += v.current.Count() + v.handed[0].Count() + v.handed[1].Count()
	}
	return n * BlockSize
}

// Lacking is what the other end lacks, in bytes: of a block in several epochs, the last version.
func (t *Tracker) Lacking() int64 {
	n := int64(0)
	for _, v := range t.volumes {
		n += v.lacked.Count()
	}
	return n * BlockSize
}

// Written is what was written in the current epoch, in bytes, and Size what all volumes have.
func (t *Tracker) Written() (written, size int64) {
	for _, v := range t.volumes {
		written += v.current.Count() * BlockSize
		size += v.size
	}
	return written, size
}

// Cut ends the current epoch and returns its number. The epoch before must owe nothing.
func (t *Tracker) Cut() uint64 {
	number := t.current
	if t.last[1-t.fill] == 0 && t.last[t.fill] != 0 {
		t.fill = 1 - t.fill
	}
	t.cut, t.last[t.fill] = number, number
	t.current++
	t.owing = 0
	for _, v := range t.volumes {
		v.current, v.owed = v.owed, v.current
		v.aside.Reset()
		t.owing += v.owed.Count()
	}
	return number
}

// Next finds something that the cut epoch owes of a volume, from a byte offset on and around; the length is 0 when it owes
// nothing of it. With doubtful, only what is to be compared first.
func (t *Tracker) Next(vol int, from, most int64, doubtful bool) (off, length int64) {
	v := t.volumes[vol]
	if !doubtful {
		return v.owed.Next(from, most)
	}
	for at := from; ; {
		start, n := v.unsure.Next(at, most)
		if n == 0 || start < at { // no wrapping: a comparison goes over the volume once
			return 0, 0
		}
		if !v.owed.Any(start, n) {
			at = start + n
			continue
		}
		for !v.owed.Any(start, 1) {
			start, n = start+BlockSize, n-BlockSize
		}
		k := int64(BlockSize)
		for k < n && v.owed.Any(start+k, 1) {
			k += BlockSize
		}
		return start, k
	}
}

// Empty says that the other end has nothing but zeroes: what it lacks need not be compared. Nothing may be owed or handed over.
func (t *Tracker) Empty(vol int) { t.volumes[vol].unsure.Reset() }

// Compared says that the doubtful range has been compared, with whatever outcome.
func (t *Tracker) Compared(vol int, off, length int64) { t.volumes[vol].unsure.Clear(off, length) }

// IsOwed says whether the cut epoch owes a block.
func (t *Tracker) IsOwed(vol int, off int64) bool { return t.volumes[vol].owed.Any(off, 1) }

// Handed says that the range is on the stream, or that the other end was found to have it.
func (t *Tracker) Handed(vol int, off, length int64) {
	v := t.volumes[vol]
	before := v.owed.Count()
	v.owed.Clear(off, length)
	v.unsure.Clear(off, length)
	if v.checked.Count() > 0 {
		v.checked.Clear(off, length)
	}
	v.handed[t.fill].Mark(off, length)
	t.owing -= before - v.owed.Count()
}

// Committed says that the other end has everything up to that epoch on stable storage.
func (t *Tracker) Committed(number uint64) {
	t.committed = max(t.committed, number)
	for i, last := range t.last {
		if last == 0 || last > t.committed {
			continue
		}
		t.last[i] = 0
		for _, v := range t.volumes {
			v.forget(v.handed[i], v.handed[1-i])
		}
	}
}

// forget empties a set of blocks that the other end has, and takes back the marks of what is clean now.
func (v *volume) forget(s, other *Set) {
	grain := v.marks.Grain()
	var regions []Span
	for at := int64(0); ; {
		off, n := s.Next(at, grain)
		if n == 0 || off < at {
			break
		}
		region := off / grain * grain
		regions = append(regions, Span{region, min(grain, v.size-region)})
		at = region + grain
	}
	v.lacked.Drop(s, v.current, v.owed, other)
	s.Reset()
	for _, r := range regions {
		if !v.lacks(r.Off, r.Length) {
			v.marks.Clear(r.Off, r.Length)
		}
	}
}

func (v *volume) lacks(off, length int64) bool { return v.lacked.Any(off, length) }

// Broken says that the link is lost: what the other end did not confirm belongs to the current epoch again, and to what is to be
// compared first, as it may have arrived.
func (t *Tracker) Broken() {
	for _, v := range t.volumes {
		v.current.Merge(v.owed)
		for _, h := range v.handed {
			v.current.Merge(h)
			v.unsure.Merge(h)
			h.Reset()
		}
		v.owed.Reset()
		v.aside.Reset()
		v.checked.Reset()
	}
	t.owing, t.cut, t.last = 0, 0, [2]uint64{}
}
