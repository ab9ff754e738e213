package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
	"testing"
	"time"
)

// nearestLocked says what a sector that holds what nobody wrote there is most like: a write that covers it, a write of another place, or
// nothing. Few bits that differ are rot; the beginning or the end of a sector that differs is a torn write.
func (h *groupHistory) nearestLocked(vol int, s int64, content []byte) string {
	like, least := "", len(content)*8+1
	compare := func(what string, with []byte) {
		different, from, to := 0, 0, 0
		for i := range content {
			if n := bits.OnesCount8(content[i] ^ with[i]); n > 0 {
				if different == 0 {
					from = i
				}
				different, to = different+n, i
			}
		}
		if different < least {
			least = different
			like = what + " in all of its bits"
			if different > 0 {
				like = fmt.Sprintf("%s but for %d bits, in bytes %d to %d", what, different, from, to)
			}
		}
	}
	compare("zeroes", make([]byte, sector))
	compare("what a lost block holds", bytes.Repeat([]byte{0xdb}, sector))
	number, at := binary.BigEndian.Uint64(content), int64(binary.BigEndian.Uint64(content[8:]))
	for _, e := range h.events {
		what := fmt.Sprintf("write %d (%d to %d, over at %d, sectors %d to %d of volume %d)", e.number, e.begin, e.end, e.over, e.first, e.first+e.count-1, e.vol)
		if e.vol == vol && s >= e.first && s < e.first+e.count {
			compare(what, e.content(s))
		}
		if e.number == number && at >= e.first && at < e.first+e.count {
			compare(fmt.Sprintf("sector %d of %s", at, what), e.content(at))
		}
	}
	if h.rotten[place{vol, s / perBlock}] {
		like += "; the block rotted once, and its disk does not say that it is wrong"
	}
	return like
}

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

func TestTheCheckOfAGroupSaysWhatASectorHoldsThatNobodyWroteThere(t *testing.T) {
	mine := &groupEvent{event: event{number: 3, first: 8, count: 8, begin: 3, end: 4}, over: 4}
	other := &groupEvent{vol: 1, event: event{number: 5, first: 40, count: 2, begin: 5, end: 6}, over: 6}
	flipped := mine.content(9)
	flipped[200] ^= 4
	torn := append(mine.content(9)[:384], make([]byte, 128)...)
	for want, content := range map[string][]byte{
		"write 3 (3 to 4, over at 4, sectors 8 to 15 of volume 0) but for 1 bits, in bytes 200 to 200; the block rotted once": flipped,
		" bits, in bytes 384 to 511": torn,
		"sector 41 of write 5 (5 to 6, over at 6, sectors 40 to 41 of volume 1) in all of its bits": other.content(41),
		"what a lost block holds in all of its bits":                                                bytes.Repeat([]byte{0xdb}, sector),
	} {
		h := &groupHistory{seed: 7, events: []*groupEvent{mine, other}, rotten: map[place]bool{{0, 1}: true}}
		image := make([]byte, 16*sector)
		copy(image[9*sector:], content)
		err := h.check([][]byte{image, make([]byte, 64*sector)}, true, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "seed=7: sector 9 of volume 0") {
			t.Errorf("%v\nwant: %s", err, want)
		}
	}
}

// TestWhatAGroupRepairsWhileItsDisksAreLookedAtIsNoFault has a block rot and be put right again and again, as the sender does with what
// it owes, also when no guest is there any more.
func TestWhatAGroupRepairsWhileItsDisksAreLookedAtIsNoFault(t *testing.T) {
	west, _, g, _ := groupWith(t, quick, ModeAsync, Limits{Interval: time.Millisecond})
	names := []string{"shop.root", "shop.log"}
	e := &groupEvent{event: event{number: 1, count: perBlock, begin: 1, end: 2}, over: 2}
	h := &groupHistory{events: []*groupEvent{e}, rotten: map[place]bool{{0, 0}: true}}
	root := west.volume(names[0])
	for s := range e.count {
		must(t, client{root}.WriteAt(background, e.content(s), s*sector, false))
	}
	must(t, g.Drain(within(t, time.Minute)))
	for range 50 {
		rot(t, root, 2000)
		repaired := make(chan error)
		go func() {
			_, err := g.Repair(background, names[0], 0, 4096)
			repaired <- err
		}()
		images, wrong := h.look(t, west, names)
		must(t, <-repaired, h.check(images, true, wrong))
	}
}
