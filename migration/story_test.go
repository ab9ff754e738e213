package migration_test

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/migration"
)

var update = flag.Bool("update", false, "write the traces of the stories anew")

// TestStories reads testdata/*.txt: commands, a line of dashes, and the trace that is expected.
//
//	new|begin [hold] [until=5s] [converge=5s] [quiesce=5s] [abandon=60s]
//	done|failed STEP [REASON]     lost PARTICIPANT/ROLE REASON     superseded EPOCH
//	continue   abort [REASON]     tick DURATION    recovered       outstanding
//	stale done STEP               an answer of an epoch before this one
//	answer                        every outstanding step is done, once
//	until PHASE|STEP              the same again and again, until the phase is entered or the step sent; not told
//	                              (nor is begin)
//
// The trace tells what the runner has to do: "store" stands where the state must be stored before the actions.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			told := retell(t, text)
			if *update {
				if err := os.WriteFile(file, told, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(text, told) {
				t.Errorf("%s tells another story now (-update writes it):\n%s", file, firstDifference(text, told))
			}
		})
	}
}

// retell carries out the commands of a story and returns it with the traces of today.
func retell(t *testing.T, text []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	n := narrator{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	old := false // within an old trace
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		switch {
		case line == "":
			old = false
			fmt.Fprintln(&out)
		case old:
		case line == "----":
			old = true
			fmt.Fprintln(&out, line)
			if n.trace.Len() == 0 {
				fmt.Fprintln(&out, "nothing")
			}
			out.Write(n.trace.Bytes())
			n.trace.Reset()
		case strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		default:
			fmt.Fprintln(&out, line)
			n.tell(strings.Fields(line))
		}
	}
	return out.Bytes()
}

func firstDifference(want, got []byte) string {
	w, g := strings.Split(string(want), "\n"), strings.Split(string(got), "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d: want %q\n      got  %q", i+1, w[i], g[i])
		}
	}
	return "one is longer"
}

type narrator struct {
	t     *testing.T
	now   time.Time
	s     migration.State
	trace bytes.Buffer
}

func (n *narrator) say(format string, args ...any) { fmt.Fprintf(&n.trace, format+"\n", args...) }

func (n *narrator) tell(words []string) {
	rest := strings.Join(words[min(2, len(words)):], " ")
	arg := func() string {
		if len(words) < 2 {
			n.t.Fatalf("%v: argument missing", words)
		}
		return words[1]
	}
	epoch := n.s.Spec.Epoch
	switch words[0] {
	case "new", "begin":
		told := n.trace.Len()
		n.begin(words[1:])
		if words[0] == "begin" {
			n.trace.Truncate(told)
		}
	case "done":
		n.feed(migration.Done{At: n.now, Epoch: epoch, Step: migration.StepID(arg())})
	case "stale":
		n.feed(migration.Done{At: n.now, Epoch: epoch - 1, Step: migration.StepID(words[2])})
	case "failed":
		n.feed(migration.Failed{At: n.now, Epoch: epoch, Step: migration.StepID(arg()), Reason: rest})
	case "lost":
		who, role, _ := strings.Cut(arg(), "/")
		n.feed(migration.Lost{
			At: n.now, Epoch: epoch, Participant: migration.Participant(who), Role: migration.Role(role), Reason: rest,
		})
	case "superseded":
		by, err := strconv.ParseUint(arg(), 10, 64)
		if err != nil {
			n.t.Fatal(err)
		}
		n.feed(migration.Superseded{At: n.now, By: by})
	case "continue":
		n.feed(migration.Continue{At: n.now})
	case "abort":
		n.feed(migration.Abort{At: n.now, Reason: strings.Join(words[1:], " ")})
	case "tick":
		n.now = n.now.Add(n.duration(arg()))
		n.feed(migration.Tick{At: n.now})
	case "recovered":
		n.feed(migration.Recovered{At: n.now})
	case "outstanding":
		for _, a := range n.s.Outstanding() {
			n.say("-> %v", a)
		}
	case "answer":
		n.answer()
	case "until":
		n.until(arg())
	default:
		n.t.Fatalf("unknown command %v", words)
	}
}

// until goes through a part of the story that is told elsewhere.
func (n *narrator) until(what string) {
	told := n.trace.Len()
	for i := 0; !n.reached(what); i++ {
		if i > 50 {
			n.t.Fatalf("until %s: never reached, %v", what, n.s)
		}
		n.answer()
	}
	n.trace.Truncate(told)
	n.say("... %s, waiting for %v", n.s.Phase, n.s.Outstanding())
}

func (n *narrator) reached(what string) bool {
	if string(n.s.Phase) == what {
		return true
	}
	_, sent := n.s.Steps[migration.StepID(what)]
	return sent
}

func (n *narrator) answer() {
	for _, a := range n.s.Outstanding() {
		n.feed(migration.Done{At: n.now, Epoch: a.Epoch, Step: a.Step})
	}
}

func (n *narrator) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		n.t.Fatal(err)
	}
	return d
}

func (n *narrator) begin(words []string) {
	spec := migration.Spec{
		Name: "shop-7", Service: "shop", Epoch: 7, Source: "west", Destination: "east", Plan: migration.VirtualMachine(),
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "hold":
			spec.Hold = true
		case "until":
			spec.HoldUntil = n.now.Add(n.duration(value))
		case "converge":
			spec.Limits.Converge = n.duration(value)
		case "quiesce":
			spec.Limits.Quiesce = n.duration(value)
		case "abandon":
			spec.Limits.Abandon = n.duration(value)
		default:
			n.t.Fatalf("new: unknown %q", w)
		}
	}
	s, actions, err := migration.New(spec, n.now)
	if err != nil {
		n.t.Fatal(err)
	}
	n.s = s
	n.report(migration.State{}, s, actions)
}

func (n *narrator) feed(e migration.Event) {
	before := n.s
	after, actions, err := migration.Step(before, e)
	if err != nil {
		hint := ""
		for _, known := range []error{migration.ErrCommitted, migration.ErrNotHeld, migration.ErrAhead, migration.ErrEvent} {
			if errors.Is(err, known) {
				hint = " (" + known.Error() + ")"
			}
		}
		n.say("error%s: %v", hint, err)
		return
	}
	n.report(before, after, actions)
	n.s = after
}

func (n *narrator) report(before, after migration.State, actions []migration.Action) {
	if migration.DurableFirst(before, after) {
		n.say("store %s", after.Phase)
	}
	if after.Decision != before.Decision {
		n.say("decided: %s", after.Decision)
	}
	if after.Ready && !before.Ready {
		n.say("ready")
	}
	if after.Reason != before.Reason {
		n.say("reason: %s", after.Reason)
	}
	for _, a := range actions {
		n.say("-> %v", a)
	}
}
