package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

func testApp(out, err *bytes.Buffer) *app {
	return &app{in: strings.NewReader(""), out: out, err: err, now: noon, env: func(string) string { return "" }}
}

func TestATerminalShowsThreeLanes(t *testing.T) {
	var out bytes.Buffer
	view := &liveView{app: testApp(&out, &out), w: &out, width: 100}
	want := []string{
		"migration shop-1: shop from west (west-host) to east (east-host)   0 ms",
		"  preparing 412 ms › converging",
		"  server  █████░░░░░░░░░░░░░░░    64 MiB of 256 MiB      11 MiB/s  ETA 17.5 s  converge source",
		"  network done     prepare source",
		"  storage running  converge source: 1.2 MiB behind",
		"  ready: holds until it is continued",
	}
	if got := view.lines(ready("shop-1")); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, line := range (&liveView{app: testApp(&out, &out), w: &out, width: 40}).lines(converging("shop-1")) {
		if n := len([]rune(line)); n >= 40 {
			t.Errorf("a line of %d columns does not fit into 40: %s", n, line)
		}
	}
}

func TestATerminalIsDrawnOverAndSentencesStay(t *testing.T) {
	var out bytes.Buffer
	view := &liveView{app: testApp(&out, &out), w: &out, width: 80}
	view.show(begun("shop-1"))
	view.sayf("the controller is away")
	view.show(completed("shop-1"))
	view.end()
	text := out.String()
	if n := strings.Count(text, "\x1b[5A"); n != 2 {
		t.Errorf("the five lines were gone over %d times, want once for the sentence and once for the change:\n%q", n, text)
	}
	if !strings.Contains(text, "\x1b[Jthe controller is away\n") {
		t.Errorf("the sentence does not stand on a line of its own: %q", text)
	}
}

// cancelWriter cancels when it has seen a word.
type cancelWriter struct {
	bytes.Buffer
	word   string
	cancel context.CancelFunc
}

func (w *cancelWriter) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if strings.Contains(w.String(), w.word) {
		w.cancel()
	}
	return n, err
}

func TestInterruptingTheViewLeavesTheMigration(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := &cancelWriter{word: "ready", cancel: cancel}
	var stderr bytes.Buffer
	server := serveFake(t)
	a := &app{out: out, err: &stderr, now: noon, env: func(string) string { return "" }}
	code := a.run(ctx, []string{"migrate", "held", "--to", "east", "--server", server})
	want := "godwit: no longer watching: the migration held-1 goes on\n  hint: 'godwit migration abort held-1' gives it up, 'godwit get migration held-1' shows it\n"
	if code != exitInterrupted || stderr.String() != want {
		t.Errorf("exit %d, %q; want exit %d, %q", code, stderr.String(), exitInterrupted, want)
	}
}

func TestTheBusiestStepOfASubsystemIsShown(t *testing.T) {
	lane := func(state string, total int64) *godwitv1.Lane {
		return &godwitv1.Lane{Participant: "storage", State: state, Total: total}
	}
	waiting, done, failed, running, counting := lane("waiting", 0), lane("done", 0), lane("failed", 0), lane("running", 0), lane("running", 9)
	for name, test := range map[string]struct {
		lanes []*godwitv1.Lane
		want  *godwitv1.Lane
	}{
		"none":                      {nil, nil},
		"a waiting one alone":       {[]*godwitv1.Lane{waiting}, waiting},
		"what is done over waiting": {[]*godwitv1.Lane{done, waiting}, done},
		"a failure over done":       {[]*godwitv1.Lane{failed, done}, failed},
		"running over a failure":    {[]*godwitv1.Lane{running, failed}, running},
		"bytes over none":           {[]*godwitv1.Lane{counting, running, done}, counting},
	} {
		t.Run(name, func(t *testing.T) {
			if got := laneOf(&godwitv1.Migration{Lanes: test.lanes}, "storage"); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestFiguresForPeople(t *testing.T) {
	for ms, want := range map[float64]string{0: "0 ms", 0.5: "0.5 ms", 23.4375: "23.4 ms", 999: "999 ms", 8214: "8.21 s", 61_000: "61 s", 192_000: "3m12s"} {
		if got := milliseconds(ms); got != want {
			t.Errorf("%v ms is %q, want %q", ms, got, want)
		}
	}
	for text, want := range map[string]int64{"100mbit": 100_000_000, "1Gbit": 1_000_000_000, "500kbit": 500_000, "0": 0, "1.5mbit": 1_500_000} {
		if got, err := parseBandwidth(text); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
}
