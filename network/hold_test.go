package network

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestQueueKeepsTheNewestPacketsInOrderWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := packetQueue{
			maxPackets: rapid.IntRange(1, 8).Draw(t, "max packets"),
			maxBytes:   rapid.IntRange(64, 256).Draw(t, "max bytes"),
		}
		pushed := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 1, 64)).Draw(t, "packets")
		total := 0
		for _, p := range pushed {
			scratch := bytes.Clone(p)
			q.push(scratch)
			clear(scratch) // the queue must have a copy of its own
		}
		kept := len(q.packets)
		if kept > q.maxPackets || q.bytes > q.maxBytes {
			t.Fatalf("%d packets, %d bytes", kept, q.bytes)
		}
		if int(q.dropped) != len(pushed)-kept {
			t.Fatalf("%d pushed, %d kept, %d dropped", len(pushed), kept, q.dropped)
		}
		for _, want := range pushed[len(pushed)-kept:] {
			if got := q.pop(); !bytes.Equal(got, want) {
				t.Fatalf("got %x, want %x", got, want)
			}
			total += len(want)
		}
		if q.pop() != nil || q.bytes != 0 {
			t.Fatalf("%d bytes after the last packet", q.bytes)
		}
	})
}
