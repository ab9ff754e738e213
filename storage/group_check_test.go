package storage

import "testing"

// TestTheCheckOfAGroupKnowsItsWrites tells the check what is right and what is not. A sector of zeroes does not say whose they are:
// zeroes that began first, and had to wait for their turn, may be there instead of a write that came and ended meanwhile.
func TestTheCheckOfAGroupKnowsItsWrites(t *testing.T) {
	at := func(first int64, zero bool, begin, end, over uint64) *groupEvent {
		return &groupEvent{event: event{number: begin, first: first, count: 1, zero: zero, begin: begin, end: end}, over: over}
	}
	late := at(1, false, 20, 21, 21) // to another sector, after all others
	for name, test := range map[string]struct {
		events []*groupEvent
		right  bool
	}{
		"zeroes that waited":                    {[]*groupEvent{at(0, true, 1, 10, 10), at(0, true, 2, 3, 3), at(0, false, 4, 5, 5), late}, true},
		"zeroes that were killed":               {[]*groupEvent{at(0, true, 1, 0, 10), at(0, false, 4, 5, 5), late}, true},
		"a write after zeroes":                  {[]*groupEvent{at(0, true, 1, 3, 3), at(0, false, 4, 5, 5), late}, false},
		"a write after zeroes that were killed": {[]*groupEvent{at(0, true, 1, 0, 3), at(0, false, 4, 5, 5), late}, false},
		"a write that was killed":               {[]*groupEvent{at(0, false, 4, 0, 5), late}, true},
		"the first write of all":                {[]*groupEvent{at(0, false, 4, 5, 5), late}, false},
		"a write of the same time":              {[]*groupEvent{at(0, false, 4, 22, 22), late}, true},
	} {
		h := &groupHistory{events: test.events}
		image := append(make([]byte, sector), late.content(1)...)
		if err := h.check([][]byte{image}, true, nil); (err == nil) != test.right {
			t.Errorf("%s: %v", name, err)
		}
	}
}
