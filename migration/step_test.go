package migration_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-project/godwit/migration"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func spec() migration.Spec {
	return migration.Spec{
		Name: "shop-7", Service: "shop", Epoch: 7, Source: "west", Destination: "east", Plan: migration.VirtualMachine(),
	}
}

func fresh(t require, s migration.Spec) migration.State {
	t.Helper()
	state, _, err := migration.New(s, start)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// require is what testing.T and rapid.T have in common here.
type require interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func must(t require, s migration.State, e migration.Event) migration.State {
	t.Helper()
	after, _, err := migration.Step(s, e)
	if err != nil {
		t.Fatal(err)
	}
	return after
}

// drive answers everything with Done until the step is outstanding.
func drive(t require, s migration.State, to migration.StepID) migration.State {
	t.Helper()
	for range 100 {
		out := s.Outstanding()
		if len(out) == 0 {
			break
		}
		a := out[0]
		for _, o := range out {
			if o.Step == to {
				return s
			}
		}
		s = must(t, s, migration.Done{At: start, Epoch: 7, Step: a.Step})
	}
	t.Fatalf("%s is never sent", to)
	return s
}

func stepsOf(phases ...migration.Phase) []migration.StepID {
	var ids []migration.StepID
	for _, ph := range phases {
		for _, s := range migration.VirtualMachine().PhaseSteps(ph) {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

var (
	beforeCommit = stepsOf(migration.Preparing, migration.Converging, migration.Synchronizing, migration.Quiesced)
	afterCommit  = stepsOf(migration.Committed, migration.Optimizing)
)

func TestAFailureOfAnyStepBeforeTheCommitPutsEverythingBack(t *testing.T) {
	for _, id := range beforeCommit {
		t.Run(id.String(), func(t *testing.T) {
			s := drive(t, fresh(t, spec()), id)
			s = must(t, s, migration.Failed{At: start, Epoch: 7, Step: id, Reason: "the disk is full"})
			if s.Phase != migration.Aborting || !strings.Contains(s.Reason, id.String()+" failed: the disk is full") {
				t.Fatalf("got %v", s)
			}
			for range 3 {
				for _, a := range s.Outstanding() {
					if a.Verb != migration.AbortVerb {
						t.Fatalf("%v is sent while aborting", a)
					}
					s = must(t, s, migration.Done{At: start, Epoch: 7, Step: a.Step})
				}
			}
			if s.Phase != migration.Aborted || s.Decision != migration.DecisionAbort {
				t.Fatalf("got %v", s)
			}
		})
	}
}

func TestAFailureOfAnyStepAfterTheCommitIsRetriedUntilItIsDone(t *testing.T) {
	for _, id := range afterCommit {
		t.Run(id.String(), func(t *testing.T) {
			s, now := drive(t, fresh(t, spec()), id), start
			for range 20 {
				s = must(t, s, migration.Failed{At: now, Epoch: 7, Step: id, Reason: "no answer"})
				now = now.Add(30 * time.Second)
				after, actions, err := migration.Step(s, migration.Tick{At: now})
				if err != nil || !slices.ContainsFunc(actions, func(a migration.Action) bool { return a.Step == id }) {
					t.Fatalf("not sent again within 30 s: %v %v", actions, err)
				}
				s = after
			}
			for range 20 {
				for _, a := range s.Outstanding() {
					s = must(t, s, migration.Done{At: now, Epoch: 7, Step: a.Step})
				}
			}
			if s.Phase != migration.Completed {
				t.Fatalf("got %v", s)
			}
		})
	}
}

func TestTheServiceComesBackToTheSourceThoughTheDestinationNeverAnswers(t *testing.T) {
	for _, id := range beforeCommit {
		t.Run(id.String(), func(t *testing.T) {
			s := drive(t, fresh(t, spec()), id)
			s = must(t, s, migration.Abort{At: start})
			for range 4 {
				for _, a := range s.Outstanding() {
					if a.Role == migration.Source {
						s = must(t, s, migration.Done{At: start, Epoch: 7, Step: a.Step})
					}
				}
			}
			for _, p := range s.Spec.Plan.PhaseSteps(migration.Aborting) {
				if p.ID.Role() == migration.Source && s.Steps[p.ID].Done.IsZero() {
					t.Errorf("%s waits for the destination", p.ID)
				}
			}
			if s.Phase != migration.Aborting {
				t.Errorf("it is %s though the destination has something left", s.Phase)
			}
		})
	}
}

func TestBetweenStopAndStartTheCommitIsTheOnlyWrite(t *testing.T) {
	s := drive(t, fresh(t, spec()), "server/source/quiesce")
	writes := 0
	for s.Steps["server/destination/commit"].Done.IsZero() {
		before := s
		s = must(t, s, migration.Done{At: start, Epoch: 7, Step: s.Outstanding()[0].Step})
		if migration.DurableFirst(before, s) && s.Steps["server/destination/commit"].Done.IsZero() {
			writes++
			if s.Decision != migration.DecisionCommit {
				t.Errorf("a write for %v", s)
			}
		}
	}
	if writes != 1 {
		t.Errorf("%d writes", writes)
	}
}

func TestWhatAStepHadAchievedMayBeGoneWhileItHolds(t *testing.T) {
	sp := spec()
	sp.Hold = true
	s := drive(t, fresh(t, sp), "server/source/converge")
	s = must(t, s, migration.Done{At: start, Epoch: 7, Step: "server/source/converge"})
	if !s.Ready || !s.Holding() {
		t.Fatalf("not ready: %v", s)
	}
	s = must(t, s, migration.Failed{At: start, Epoch: 7, Step: "server/source/converge", Reason: "the stream broke"})
	if s.Phase != migration.Aborting {
		t.Errorf("got %v", s)
	}
}

func TestAUserSeesWhyAStepIsTriedAgain(t *testing.T) {
	s := drive(t, fresh(t, spec()), "server/destination/commit")
	s = must(t, s, migration.Failed{At: start, Epoch: 7, Step: "server/destination/commit", Reason: "no answer to cont"})
	want := "server/destination/commit: attempt 1 failed: no answer to cont; next one at 2026-01-01T00:00:00Z"
	if got := s.Trouble(); len(got) != 1 || got[0] != want {
		t.Errorf("got %q", got)
	}
	s = must(t, s, migration.Tick{At: s.Wake()})
	want = "server/destination/commit: attempt 2 is under way, the last one failed: no answer to cont"
	if got := s.Trouble(); len(got) != 1 || got[0] != want {
		t.Errorf("got %q", got)
	}
}

func TestANegativeLimitIsNone(t *testing.T) {
	sp := spec()
	sp.Limits.Prepare = -1
	s := fresh(t, sp)
	if after := must(t, s, migration.Tick{At: start.Add(1000 * time.Hour)}); after.Phase != migration.Preparing || !s.Wake().IsZero() {
		t.Errorf("got %v, wake %s", after, s.Wake())
	}
}

func TestNewTellsAllFaultsOfASpecificationAtOnce(t *testing.T) {
	_, _, err := migration.New(migration.Spec{Source: "west", Destination: "west"}, start)
	for _, want := range []string{"name is missing", "service is missing", "epoch is 0", "same site", "kind is missing"} {
		if !errors.Is(err, migration.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q in it", err, want)
		}
	}
}

func TestAnUnknownPhaseOrAnEventWithoutTimeIsAnErrorAndNoPanic(t *testing.T) {
	s := fresh(t, spec())
	for _, e := range []migration.Event{nil, migration.Done{Epoch: 7, Step: "server/source/prepare"}, migration.Tick{}} {
		if _, _, err := migration.Step(s, e); !errors.Is(err, migration.ErrEvent) {
			t.Errorf("%v: got %v", e, err)
		}
	}
	s.Phase = "levitating"
	if _, _, err := migration.Step(s, migration.Tick{At: start}); !errors.Is(err, migration.ErrState) {
		t.Errorf("got %v", err)
	}
	if _, _, err := migration.Step(migration.State{}, migration.Tick{At: start}); !errors.Is(err, migration.ErrState) {
		t.Errorf("got %v", err)
	}
}

// anEvent draws any event, likely or not.
func anEvent(t *rapid.T, s migration.State, at time.Time) migration.Event {
	epoch := rapid.SampledFrom([]uint64{7, 7, 7, 7, 7, 6, 8, 0}).Draw(t, "epoch")
	ids := []migration.StepID{"server/source/observe", "nonsense", "server/destination/explode"}
	for _, p := range s.Spec.Plan.Steps {
		ids = append(ids, p.ID)
	}
	id := rapid.SampledFrom(ids).Draw(t, "step")
	if out := s.Outstanding(); len(out) > 0 && rapid.IntRange(0, 9).Draw(t, "likely") > 0 {
		id = rapid.SampledFrom(out).Draw(t, "outstanding").Step
	}
	switch rapid.SampledFrom([]int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 7}).Draw(t, "kind") {
	case 0:
		return migration.Done{At: at, Epoch: epoch, Step: id}
	case 1:
		return migration.Failed{At: at, Epoch: epoch, Step: id, Reason: "because"}
	case 2:
		return migration.Lost{At: at, Epoch: epoch, Participant: id.Participant(), Role: id.Role(), Reason: "gone"}
	case 3:
		return migration.Continue{At: at}
	case 4:
		return migration.Abort{At: at, Reason: "no"}
	case 5:
		return migration.Tick{At: at}
	case 6:
		return migration.Superseded{At: at, By: epoch}
	}
	return migration.Recovered{At: at}
}

func text(t require, s migration.State) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestStepIsAPureFunction: over any sequence of events, Step changes nothing that it was given, answers the same thing
// twice, keeps decisions and ends, ignores other epochs, and its states survive JSON.
func TestStepIsAPureFunction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sp := spec()
		sp.Hold = rapid.Bool().Draw(t, "hold")
		sp.Limits.Abandon = time.Duration(rapid.SampledFrom([]int{0, 0, -1, 90}).Draw(t, "abandon")) * time.Second
		if rapid.Bool().Draw(t, "until") {
			sp.HoldUntil = start.Add(time.Minute)
		}
		s, at := fresh(t, sp), start
		for range rapid.IntRange(1, 90).Draw(t, "events") {
			at = at.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
			e := anEvent(t, s, at)
			before := text(t, s)
			after, actions, err := migration.Step(s, e)
			if text(t, s) != before {
				t.Fatalf("%v changed its argument", e)
			}
			again, sameActions, sameErr := migration.Step(s, e)
			if !reflect.DeepEqual(after, again) || !reflect.DeepEqual(actions, sameActions) || (err == nil) != (sameErr == nil) {
				t.Fatalf("%v: two answers", e)
			}
			checkStep(t, s, after, e, at, actions, err)
			var back migration.State
			if err := json.Unmarshal([]byte(text(t, after)), &back); err != nil || !reflect.DeepEqual(after, back) {
				t.Fatalf("after %v the state came back from JSON as another: %v", e, err)
			}
			s = after
		}
	})
}

func checkStep(
	t *rapid.T, before, after migration.State, e migration.Event, at time.Time, actions []migration.Action, err error,
) {
	changed := !reflect.DeepEqual(before, after)
	foreign := false
	switch e := e.(type) {
	case migration.Done:
		foreign = e.Epoch != before.Spec.Epoch
	case migration.Failed:
		foreign = e.Epoch != before.Spec.Epoch
	case migration.Lost:
		foreign = e.Epoch != before.Spec.Epoch
	case migration.Recovered:
		if changed {
			t.Fatal("recovered changed the state")
		}
	}
	switch {
	case foreign && (changed || len(actions) > 0 || err != nil):
		t.Fatalf("%v of another epoch had an effect", e)
	case err != nil && (changed || len(actions) > 0):
		t.Fatalf("%v: an error with an effect: %v", e, err)
	case before.Terminal() && (changed || len(actions) > 0):
		t.Fatalf("%v changed what was over", e)
	case before.Decision != migration.DecisionNone && after.Decision != before.Decision:
		t.Fatalf("%v: decision %s became %q", e, before.Decision, after.Decision)
	case before.Decision != after.Decision && !migration.DurableFirst(before, after):
		t.Fatalf("%v: a decision that need not be stored", e)
	}
	if wake := before.Wake(); wake.IsZero() || at.Before(wake) {
		if _, ok := e.(migration.Tick); ok && (changed || len(actions) > 0) {
			t.Fatalf("a tick at %s had an effect, Wake says %s", at, wake)
		}
	} else if _, ok := e.(migration.Tick); ok && !changed {
		t.Fatalf("a tick at %s had no effect, Wake says %s", at, wake)
	}
	if after.Ready && !after.Holding() {
		t.Fatalf("after %v it is ready but does not hold: %v", e, after)
	}
	for id, st := range after.Steps {
		if !st.Done.IsZero() && !st.Retry.IsZero() {
			t.Fatalf("after %v %s is done and yet to be tried again", e, id)
		}
	}
	out := after.Outstanding()
	for _, a := range actions {
		if a.Epoch != 7 || (a.Verb != migration.ObserveVerb && !slices.Contains(out, a)) {
			t.Fatalf("%v: sent %v, which is not outstanding", e, a)
		}
	}
	if !after.Terminal() && !after.Ready && len(out) == 0 {
		t.Fatalf("after %v nothing is outstanding and nothing is over: %v", e, after)
	}
}
