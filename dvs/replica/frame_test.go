package replica

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

func FuzzFrames(f *testing.F) {
	h := hello{wireVersion, Passive, "g", state.Member{Name: "a", Incarnation: 1}, "b"}
	f.Add(appendFrame(appendFrame(nil, frameHello, h.encode()), frameMessage, []byte("m")))
	f.Add(appendFrame(appendFrame(nil, framePart, []byte("one")), frameEnd, []byte("two")))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := reader{r: bufio.NewReader(bytes.NewReader(b))}
		if kind, body, err := in.frame(); err == nil && kind == frameHello {
			if h, err := parseHello(body); err == nil {
				if again, err := parseHello(h.encode()); err != nil || again != h {
					t.Errorf("%+v came as %+v, %v", h, again, err)
				}
			}
		}
		total := 0
		for {
			m, err := in.message()
			if err != nil {
				break
			}
			total += len(m)
		}
		if total > len(b) {
			t.Errorf("%d bytes out of %d", total, len(b))
		}
	})
}

func TestALongMessageIsPutTogether(t *testing.T) {
	var o outbox
	l := newLink(nil, "b")
	o.wake = l.out.wake
	o.wake.L = &o.mu
	turn := o.set(true)
	long := bytes.Repeat([]byte("0123456789"), partSize/4)
	o.send(long, true)
	o.send([]byte("short"), false)
	var b []byte
	for len(o.short)+len(o.long) > 0 {
		b, _ = o.next(b, turn)
	}
	in := reader{r: bufio.NewReader(bytes.NewReader(b))}
	if m, err := in.message(); err != nil || string(m) != "short" {
		t.Fatalf("%.20q, %v", m, err)
	}
	if m, err := in.message(); err != nil || !bytes.Equal(m, long) {
		t.Fatalf("%d bytes, %v", len(m), err)
	}
}
