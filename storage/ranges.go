package storage

import "sync"

// rangeLocks gives writers and the copier turns on overlapping ranges of a volume, so that what is written here and what is
// put on the replication stream have one order. Nobody may wait for the network while holding a range.
type rangeLocks struct {
	mu      sync.Mutex
	free    sync.Cond
	held    []span
	waiting int
}

// span is a range of bytes, end excluded.
type span struct{ off, end int64 }

func newRangeLocks() *rangeLocks {
	r := &rangeLocks{}
	r.free.L = &r.mu
	return r
}

// lock waits until no held range overlaps and takes the range.
func (r *rangeLocks) lock(off, length int64) span {
	s := span{off, off + length}
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.overlaps(s) {
		r.waiting++
		r.free.Wait()
		r.waiting--
	}
	r.held = append(r.held, s)
	return s
}

// tryLock is lock if that needs no waiting.
func (r *rangeLocks) tryLock(off, length int64) (s span, ok bool) {
	s = span{off, off + length}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.overlaps(s) {
		return s, false
	}
	r.held = append(r.held, s)
	return s, true
}

func (r *rangeLocks) unlock(s span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, h := range r.held {
		if h == s {
			last := len(r.held) - 1
			r.held[i] = r.held[last]
			r.held = r.held[:last]
			break
		}
	}
	if r.waiting > 0 {
		r.free.Broadcast()
	}
}

func (r *rangeLocks) overlaps(s span) bool {
	for _, h := range r.held {
		if s.off < h.end && h.off < s.end {
			return true
		}
	}
	return false
}
