package process_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/server/process"
)

func kvRequest(i int) string {
	switch i % 5 {
	case 0:
		return fmt.Sprintf("set key%d value%d", i%97, i)
	case 1:
		return fmt.Sprintf("add number%d %d", i%7, i)
	case 2:
		return fmt.Sprintf("delete key%d", (i*31)%97)
	case 3:
		return "checksum"
	default:
		return fmt.Sprintf("set long%d %s", i%13, strings.Repeat("x", i%5000))
	}
}

func counterRequest(i int) string {
	switch i % 5 {
	case 0:
		return fmt.Sprint(i)
	case 1:
		return "rand"
	case 2:
		return "clock"
	case 3:
		return fmt.Sprintf("fill %d", (i%50)*1000)
	default:
		return "checksum"
	}
}

// The same messages with the same clock and random numbers make the same state.
func TestTheSameInputsMakeTheSameState(t *testing.T) {
	both(t, func(t *testing.T, module []byte, request func(int) string) {
		a := start(t, load(t, newEngine(t), module), process.Options{})
		b := start(t, load(t, newEngine(t), module), process.Options{})
		for i := range 500 {
			if x, y := ask(t, a, i, request(i)), ask(t, b, i, request(i)); x != y {
				t.Fatalf("message %d is answered %q and %q", i, x, y)
			}
			if i%50 == 0 && a.Hash() != b.Hash() {
				t.Fatalf("the states differ after message %d", i)
			}
		}
		if a.Hash() != b.Hash() {
			t.Fatal("the states differ")
		}
		ask(t, a, 501, request(500))
		if a.Hash() == b.Hash() {
			t.Fatal("a state that has changed has the same hash")
		}
	})
}

// A process that has gone through bytes into fresh instances, A to B to C to A, goes on as one that stayed.
func TestAStateMoves(t *testing.T) {
	both(t, func(t *testing.T, module []byte, request func(int) string) {
		stayed := start(t, load(t, newEngine(t), module), process.Options{})
		engines := []*process.Engine{newEngine(t), newEngine(t), newEngine(t)}
		p := start(t, load(t, engines[0], module), process.Options{})
		for round := 1; round <= 3; round++ {
			for i := range 200 {
				i += 200 * round
				if x, y := ask(t, p, i, request(i)), ask(t, stayed, i, request(i)); x != y {
					t.Fatalf("message %d is answered %q and %q", i, x, y)
				}
			}
			s, err := p.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			if s, err = process.ParseState(s.Append(nil)); err != nil {
				t.Fatal(err)
			}
			p = start(t, load(t, engines[round%3], module), process.Options{Blank: true})
			if _, err := p.Call(t.Context(), input(0, "count")); !errors.Is(err, process.ErrBlank) {
				t.Fatalf("a blank process answers: %v", err)
			}
			if err := p.Restore(s); err != nil {
				t.Fatal(err)
			}
			if p.Hash() != stayed.Hash() {
				t.Fatalf("the state differs after move %d", round)
			}
		}
		for i := 1000; i < 1200; i++ {
			if x, y := ask(t, p, i, request(i)), ask(t, stayed, i, request(i)); x != y {
				t.Fatalf("message %d is answered %q and %q", i, x, y)
			}
		}
		if p.Hash() != stayed.Hash() {
			t.Fatal("the state differs at the end")
		}
	})
}

// A copy that is given what has changed has the same state, and goes on with it; so does one that lags behind and is given more at once.
func TestACopyFollows(t *testing.T) {
	both(t, func(t *testing.T, module []byte, request func(int) string) {
		m := load(t, newEngine(t), module)
		primary := start(t, m, process.Options{})
		near, far := start(t, m, process.Options{Blank: true}), start(t, m, process.Options{Blank: true})
		var nearMark, farMark uint64
		sent := 0
		for i := range 300 {
			ask(t, primary, i, request(i))
			pages, globals, next := primary.Changes(nearMark)
			if err := near.Apply(pages, globals); err != nil {
				t.Fatal(err)
			}
			nearMark = next
			sent += len(pages)
			if i%100 == 99 {
				pages, globals, next := primary.Changes(farMark)
				if err := far.Apply(pages, globals); err != nil {
					t.Fatal(err)
				}
				farMark = next
			}
		}
		if near.Hash() != primary.Hash() || far.Hash() != primary.Hash() {
			t.Fatal("the copies differ")
		}
		t.Logf("%d pages sent for 300 messages", sent)
		for i := 300; i < 400; i++ {
			x, y, z := ask(t, primary, i, request(i)), ask(t, near, i, request(i)), ask(t, far, i, request(i))
			if x != y || x != z {
				t.Fatalf("message %d is answered %q, %q and %q", i, x, y, z)
			}
		}
		if near.Hash() != primary.Hash() || far.Hash() != primary.Hash() {
			t.Fatal("the copies differ afterwards")
		}
	})
}

// A call that fails, is killed, or asks too much leaves the state as it was, with all that came before.
func TestWhatFailsIsUndone(t *testing.T) {
	m := load(t, newEngine(t), counterModule(t))
	p := start(t, m, process.Options{Limits: process.Limits{Time: 50 * time.Millisecond, Message: 1 << 16, Memory: 8 << 20}})
	twin := start(t, m, process.Options{Limits: process.Limits{Memory: 8 << 20}})
	for i, c := range []struct {
		payload string
		want    error
		text    string
	}{
		{"trap", process.ErrTrapped, "about to fail"},
		{"spin", process.ErrTime, ""},
		{"sleep", process.ErrTime, ""},
		{strings.Repeat("1", 1<<16+1), process.ErrTooLong, ""},
		{"notify ", process.ErrTrapped, "a name has"},
	} {
		for n := range 10 {
			ask(t, p, 100*i+n, "7")
			ask(t, twin, 100*i+n, "7")
		}
		_, err := p.Call(t.Context(), input(100*i+50, c.payload))
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%.10q: %v, want %v", c.payload, err, c.want)
		}
		if x, y := ask(t, p, 100*i+60, "1"), ask(t, twin, 100*i+60, "1"); x != y || p.Hash() != twin.Hash() {
			t.Errorf("after %.10q it goes on with %s instead of %s", c.payload, x, y)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := p.Call(ctx, input(1000, "spin")); !errors.Is(err, process.ErrTime) {
		t.Errorf("the context is over: %v", err)
	}
	if x, y := ask(t, p, 1001, "1"), ask(t, twin, 1001, "1"); x != y {
		t.Errorf("it goes on with %s instead of %s", x, y)
	}
	if got := ask(t, p, 1002, "fill 9000000"); got != "-1" {
		t.Errorf("over its memory it gets %s", got)
	}
}

// A panic of a Go program is undone as well, and told.
func TestAPanicIsUndone(t *testing.T) {
	p := start(t, load(t, newEngine(t), kvModule(t)), process.Options{Limits: process.Limits{Memory: 16 << 20}})
	ask(t, p, 1, "set a 1")
	failed := false
	for i := range 40 {
		payload := fmt.Sprintf("set big%d %s", i, strings.Repeat("y", 1<<20))
		if _, err := p.Call(t.Context(), input(i, payload)); err != nil {
			failed = true
			if !errors.Is(err, process.ErrTrapped) || !strings.Contains(err.Error(), "out of memory") {
				t.Errorf("without memory: %v", err)
			}
			break
		}
	}
	if !failed {
		t.Fatal("16 MiB hold 40")
	}
	if got := ask(t, p, 50, "get a"); got != "ok 1" {
		t.Fatalf("the state is lost: %s", got)
	}
}

// Clock and random numbers are those of the message; the clock does not go back.
func TestClockAndRandomAreGiven(t *testing.T) {
	p := start(t, load(t, newEngine(t), counterModule(t)), process.Options{})
	clock := func(now int64) string {
		in := input(0, "clock")
		in.Now = now
		out, err := p.Call(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		return string(out.Reply)
	}
	if got := clock(5_000_000_000); got != "5000000001" {
		t.Errorf("the clock is %s", got)
	}
	if got := clock(4_000_000_000); got != "5000000003" {
		t.Errorf("the clock is %s after one that was given earlier", got)
	}
	if a, b, c := ask(t, p, 1, "rand"), ask(t, p, 1, "rand"), ask(t, p, 2, "rand"); a != b || a == c {
		t.Errorf("random numbers are %s, %s, %s", a, b, c)
	}
}

// What a program sends comes out in order, with its sender's kind known.
func TestKindsAndSendings(t *testing.T) {
	p := start(t, load(t, newEngine(t), counterModule(t)), process.Options{})
	out, err := p.Call(t.Context(), input(1, "notify ann"))
	if err != nil || len(out.Sends) != 1 || out.Sends[0].Kind != process.KindNotify || out.Sends[0].To != "ann" {
		t.Fatalf("sent %v, %v", out.Sends, err)
	}
	in := input(2, "")
	in.Kind = process.KindNotify
	if out, err = p.Call(t.Context(), in); err != nil || out.Replied {
		t.Fatalf("a notification is answered: %v %v", out, err)
	}
	if got := ask(t, p, 3, "0"); got != "1" {
		t.Fatalf("the notification counted %s", got)
	}
}

// A state that is damaged or another's is refused, and changes nothing.
func TestBadStatesAreRefused(t *testing.T) {
	p := start(t, load(t, newEngine(t), counterModule(t)), process.Options{Limits: process.Limits{Memory: 1 << 20}})
	ask(t, p, 1, "5")
	good, err := p.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	before := p.Hash()
	for name, change := range map[string]func(*process.State){
		"another module":  func(s *process.State) { s.Module[0]++ },
		"short globals":   func(s *process.State) { s.Globals = s.Globals[:8] },
		"too much memory": func(s *process.State) { s.Globals[3] = 255 },
		"odd memory":      func(s *process.State) { s.Globals[0] = 1 },
		"page outside":    func(s *process.State) { s.Pages = append(s.Pages, process.Page{Number: 1 << 20}) },
		"page twice":      func(s *process.State) { s.Pages = append(s.Pages, s.Pages[0]) },
		"half a page":     func(s *process.State) { s.Pages = []process.Page{{Data: make([]byte, 7)}} },
	} {
		s, err := process.ParseState(good.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		change(&s)
		if err := p.Restore(s); !errors.Is(err, process.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
		if p.Hash() != before {
			t.Fatalf("%s: the state has changed", name)
		}
	}
}
