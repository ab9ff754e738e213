package nbd

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// starts is a backend that tells of each start of a flush.
type starts struct {
	prompt
	begun chan struct{}
	takes time.Duration
}

func (s starts) StartFlush() {
	time.Sleep(s.takes)
	s.begun <- struct{}{}
}

// after says what happens when a client does as it is told, one letter a request: w is a write that is answered before the next request
// comes, W one of several at hand, f a flush. A + in the answer is a start.
func after(a *ahead, s starts, requests string) string {
	var seen strings.Builder
	for _, r := range requests {
		seen.WriteRune(r)
		switch r {
		case 'w', 'W':
			a.wrote()
		case 'f':
			a.flushed()
		}
		if r == 'W' {
			continue
		}
		a.idle()
		if len(s.begun) > 0 {
			<-s.begun
			seen.WriteRune('+')
		}
	}
	return seen.String()
}

func TestAFlushIsBegunForWhoFlushesAfterFewWrites(t *testing.T) {
	for _, want := range []string{
		"wf w+f w+f",
		"wwf w+w+f w+f",            // each write is begun with
		"WWf WWw+f",                // … when there is nothing else to do
		"ffff w",                   // flushes alone say nothing
		"wf ff w+f",                // … and change nothing
		"wwwwwf w f w+f",           // many writes and a flush: another kind of client; so is the one that comes after
		"wf w+w+w+w+wwwwf ww",      // of many, what is written is not begun with
		"wf w+f WWWWWWf ww f w+w+", // a habit ends, and comes again
	} {
		s := starts{begun: make(chan struct{}, 1)}
		if got := after(&ahead{backend: s}, s, strings.NewReplacer("+", "").Replace(want)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestABackendThatIsSlowToStartIsLeftAloneForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := starts{begun: make(chan struct{}, 1), takes: 2 * quickStart}
		a := ahead{backend: s}
		began := time.Now()
		if got := after(&a, s, "wf"+strings.Repeat("wf", 2*startAgain+1)); strings.Count(got, "+") != 3 { // at once, and after each rest
			t.Errorf("it was begun %d times", strings.Count(got, "+"))
		}
		if took := time.Since(began); took != 3*s.takes {
			t.Errorf("the connection was held up for %v", took)
		}
	})
}

func TestAFlushIsBegunWhenTheWriteIsAnswered(t *testing.T) {
	s := starts{prompt: prompt{memory: &memory{b: make([]byte, 1<<20)}}, begun: make(chan struct{}, 1)}
	conn := dial(t, serve(t, s))
	for cookie := range byte(3) {
		_, _ = conn.Write(append(command(0, cmdWrite, cookie, 4096, 4), "data"...))
		conn.expect(simpleHead)
		if cookie > 0 {
			<-s.begun
		}
		_, _ = conn.Write(command(0, cmdFlush, cookie, 0, 0))
		conn.expect(simpleHead)
	}
}
