package passive

import "github.com/godwit-project/godwit/dvs/replica/state"

// history is what a replica knows of the updates: the newest ones in full, and the position before those.
type history struct {
	base  state.Position
	log   []state.Update
	bytes int
}

func (h *history) last() state.Position {
	if n := len(h.log); n > 0 {
		return h.log[n-1].At
	}
	return h.base
}

// at returns the position with that number, if it is known.
func (h *history) at(seq uint64) (state.Position, bool) {
	switch {
	case seq == h.base.Seq:
		return h.base, true
	case seq < h.base.Seq || seq > h.last().Seq:
		return state.Position{}, false
	default:
		return h.log[seq-h.base.Seq-1].At, true
	}
}

// has tells whether the position is part of it, as far as is known.
func (h *history) has(p state.Position) bool {
	q, ok := h.at(p.Seq)
	return ok && p == q
}

func (h *history) push(u state.Update) {
	h.log = append(h.log, u)
	h.bytes += u.Size()
}

// truncate forgets what comes after seq.
func (h *history) truncate(seq uint64) {
	for n := len(h.log); n > 0 && h.log[n-1].At.Seq > seq; n-- {
		h.bytes -= h.log[n-1].Size()
		h.log = h.log[:n-1]
	}
}

// trim gives memory back, but keeps what comes after seq.
func (h *history) trim(seq uint64, bytes int) {
	k := 0
	for h.bytes > bytes && k < len(h.log) && h.log[k].At.Seq <= seq {
		h.bytes -= h.log[k].Size()
		h.base = h.log[k].At
		k++
	}
	clear(h.log[:k])
	h.log = h.log[k:]
}

// after returns updates after seq, at most about that many bytes.
func (h *history) after(seq uint64, bytes int) (us []state.Update) {
	for i := seq - h.base.Seq; i < uint64(len(h.log)) && bytes > 0; i++ {
		bytes -= h.log[i].Size()
		us = append(us, h.log[i])
	}
	return us
}
