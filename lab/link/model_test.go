package link

import (
	"encoding/binary"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestAFrameArrivesAfterItsTimeOnTheLineAndTheDelay(t *testing.T) {
	p := Settings{Rate: 8_000_000, Delay: 5 * time.Millisecond}.params(0) // 1 byte per microsecond
	var m model
	for i, want := range []time.Duration{6 * time.Millisecond, 7 * time.Millisecond, 8 * time.Millisecond} {
		due, ok := m.admit(0, 1000, p)
		if !ok || due != int64(want) {
			t.Errorf("frame %d: due %v, %v; want %v", i, time.Duration(due), ok, want)
		}
	}
	if due, _ := m.admit(int64(time.Second), 1000, p); due != int64(time.Second+6*time.Millisecond) {
		t.Errorf("after a rest: due %v", time.Duration(due))
	}
}

func TestAFullQueueDropsTheNewest(t *testing.T) {
	p := Settings{Rate: 8_000_000, Queue: 2000}.params(0)
	var m model
	for i, want := range []bool{true, true, false, false} { // the one on the line counts
		if _, ok := m.admit(0, 1000, p); ok != want {
			t.Errorf("frame %d: accepted %v", i, ok)
		}
	}
	if _, ok := m.admit(int64(time.Millisecond), 1000, p); !ok {
		t.Error("a millisecond later there is room for one, and it was dropped")
	}
}

func TestWithoutRateNothingQueues(t *testing.T) {
	p := Settings{Delay: time.Millisecond}.params(0)
	var m model
	for range 1000 {
		if due, ok := m.admit(7, 65536, p); !ok || due != 7+int64(time.Millisecond) {
			t.Fatalf("due %d, %v", due, ok)
		}
	}
}

func TestTheLineNeverCarriesMoreThanItsRateNorOvertakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(64_000, 10_000_000_000).Draw(t, "rate")
		p := Settings{Rate: rate, Delay: time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "delay"))}.params(0)
		var m model
		var now, first, last, bytes int64
		for i := range rapid.IntRange(1, 200).Draw(t, "frames") {
			now += rapid.Int64Range(0, 2_000_000).Draw(t, "pause")
			size := rapid.IntRange(60, 66_000).Draw(t, "size")
			due, ok := m.admit(now, size, p)
			if !ok {
				continue
			}
			if due < last || due < now+p.delay {
				t.Fatalf("frame %d due %d overtakes %d or is early at %d", i, due, last, now)
			}
			if bytes == 0 {
				first = due - int64(size)*8*int64(time.Second)/rate
			}
			last = due
			bytes += int64(size)
			if carried := float64(bytes) * 8e9; carried > float64(rate)*float64(last-first)+float64(i+1)*float64(rate) {
				t.Fatalf("%d bytes in %d ns at %d bit/s", bytes, last-first, rate)
			}
			if waiting := (due - p.delay - now) * rate / 8e9; waiting > p.queue+66_000 {
				t.Fatalf("%d bytes wait, the queue holds %d", waiting, p.queue)
			}
		}
	})
}

func TestTheRingGivesBackFramesInOrderAndWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRing(3*frameRoom, 16)
		var in, out uint64
		sizes := map[uint64]int{}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				space, skipped := r.room()
				if space == nil {
					if r.count < 2 {
						t.Fatalf("no room with %d frames", r.count)
					}
					t.Skip("full")
				}
				size := rapid.IntRange(16, frameRoom).Draw(t, "size")
				clear(space[:size])
				binary.LittleEndian.PutUint64(space, in)
				binary.LittleEndian.PutUint64(space[size-8:], in)
				sizes[in] = size
				r.push(entry{size: size, skipped: skipped})
				in++
			},
			"pop": func(t *rapid.T) {
				e := r.oldest()
				if e == nil {
					t.Skip("empty")
				}
				f := r.frame(e)
				if len(f) != sizes[out] || binary.LittleEndian.Uint64(f) != out || binary.LittleEndian.Uint64(f[len(f)-8:]) != out {
					t.Fatalf("frame %d came back damaged", out)
				}
				r.pop()
				out++
			},
		})
	})
}

func TestASuperFrameCountsAsItsSegments(t *testing.T) {
	frame := make([]byte, vnetHeader+14+20+32+10_000)
	frame[1] = 1 // TCP over IPv4
	binary.NativeEndian.PutUint16(frame[4:], 1448)
	binary.NativeEndian.PutUint16(frame[6:], 34)
	frame[vnetHeader+34+12] = 8 << 4 // 32 bytes of TCP header
	bytes, packets := wireSize(frame)
	if packets != 7 || bytes != 10_000+7*66 {
		t.Errorf("%d bytes in %d packets", bytes, packets)
	}
	if bytes, packets := wireSize(make([]byte, vnetHeader+60)); bytes != 60 || packets != 1 {
		t.Errorf("plain frame: %d bytes in %d packets", bytes, packets)
	}
}

func FuzzWireSize(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 80))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if bytes, packets := wireSize(frame); bytes < 0 || packets < 0 || packets > len(frame) {
			t.Errorf("%d bytes, %d packets of %d", bytes, packets, len(frame))
		}
	})
}
