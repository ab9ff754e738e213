package migration_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-project/godwit/migration"
)

func TestAJournalAnswers(t *testing.T) {
	type told struct {
		epoch uint64
		step  migration.StepID
		want  migration.Verdict
	}
	for name, commands := range map[string][]told{
		"a new step with run, the same again with already done": {
			{3, "server/source/prepare", migration.Run}, {3, "server/source/prepare", migration.AlreadyDone},
		},
		"an older epoch with refuse, whatever it is": {
			{3, "server/source/prepare", migration.Run},
			{2, "server/source/abort", migration.Refuse},
			{2, "server/source/observe", migration.Refuse},
			{0, "server/source/prepare", migration.Refuse},
		},
		"a newer epoch with run, though the older one had done the step": {
			{3, "server/source/prepare", migration.Run}, {4, "server/source/prepare", migration.Run},
		},
		"verbs of an aborted epoch with refuse, also those that were done": {
			{3, "server/source/prepare", migration.Run},
			{3, "storage/source/abort", migration.Run},
			{3, "server/source/prepare", migration.Refuse},
			{3, "server/destination/commit", migration.Refuse},
			{3, "server/source/abort", migration.Run},
			{3, "storage/source/abort", migration.AlreadyDone},
		},
		"an abort with refuse after a commit": {
			{3, "server/destination/prepare", migration.Run},
			{3, "server/destination/commit", migration.Run},
			{3, "server/destination/abort", migration.Refuse},
			{3, "server/destination/commit", migration.AlreadyDone},
		},
		"late verbs of a committed epoch: done ones are done, others refused": {
			{3, "server/source/quiesce", migration.Run},
			{3, "server/source/release", migration.Run},
			{3, "server/source/quiesce", migration.AlreadyDone},
			{3, "server/source/prepare", migration.Refuse},
		},
		"an observe with run, also after an abort, and again": {
			{3, "server/source/abort", migration.Run},
			{3, "server/source/observe", migration.Run},
			{3, "server/source/observe", migration.Run},
		},
		"nonsense with refuse": {{3, "server/source", migration.Refuse}, {3, "a/b/c", migration.Refuse}},
	} {
		t.Run(name, func(t *testing.T) {
			var j migration.Journal
			for _, c := range commands {
				got, reason := j.Admit(c.epoch, c.step)
				if got != c.want || (got == migration.Refuse) != (reason != "") {
					t.Fatalf("%s@%d: got %s (%s), want %s", c.step, c.epoch, got, reason, c.want)
				}
				if got == migration.Run {
					if err := j.Record(c.epoch, c.step); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

func TestAStepThatAnAbortOvertookIsNotRecorded(t *testing.T) {
	var j migration.Journal
	j.Admit(3, "server/source/prepare")
	j.Admit(3, "server/source/abort")
	if err := j.Record(3, "server/source/prepare"); err == nil {
		t.Error("recorded after the abort of its epoch")
	}
	j.Admit(4, "server/source/prepare")
	if err := j.Record(3, "server/source/abort"); err == nil {
		t.Error("recorded after a newer epoch")
	}
}

func TestAnObserveOfANewEpochRaisesNothing(t *testing.T) {
	j := migration.Journal{Epoch: 3, Done: []migration.StepID{"server/source/prepare"}}
	j.Admit(9, "server/source/observe")
	if j.Epoch != 3 || len(j.Done) != 1 {
		t.Errorf("the journal became %+v", j)
	}
}

func TestAJournalStaysSmallWhateverArrives(t *testing.T) {
	var j migration.Journal
	for i := range 10000 {
		id := migration.StepID(fmt.Sprintf("p%d/source/prepare", i))
		if verdict, _ := j.Admit(3, id); verdict == migration.Run {
			if err := j.Record(3, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if b, err := json.Marshal(j); err != nil || len(b) > 16<<10 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestNoOrderOfCommandsLetsAnAgentDoBoth: in one epoch an agent never runs a commit and an abort, and what is older
// than the newest epoch admitted is never run, whatever arrives. A journal survives JSON at every moment.
func TestNoOrderOfCommandsLetsAnAgentDoBoth(t *testing.T) {
	steps := []migration.StepID{"server/destination/observe"}
	for _, s := range migration.VirtualMachine().Steps {
		steps = append(steps, s.ID)
	}
	rapid.Check(t, func(t *rapid.T) {
		var j migration.Journal
		ran := map[uint64]map[migration.Verb]bool{}
		highest := uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			epoch := rapid.Uint64Range(1, 4).Draw(t, "epoch")
			id := rapid.SampledFrom(steps).Draw(t, "step")
			verdict, _ := j.Admit(epoch, id)
			if verdict != migration.Run || id.Verb() == migration.ObserveVerb {
				continue
			}
			if epoch < highest {
				t.Fatalf("%s of epoch %d ran after epoch %d", id, epoch, highest)
			}
			highest = epoch
			if ran[epoch] == nil {
				ran[epoch] = map[migration.Verb]bool{}
			}
			ran[epoch][id.Verb()] = true
			if ran[epoch][migration.AbortVerb] && ran[epoch][migration.Commit] {
				t.Fatalf("epoch %d: commit and abort both ran", epoch)
			}
			if rapid.Bool().Draw(t, "completes") {
				if err := j.Record(epoch, id); err != nil {
					t.Fatal(err)
				}
			}
			b, err := json.Marshal(j)
			if err != nil {
				t.Fatal(err)
			}
			var back migration.Journal
			if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(j, back) {
				t.Fatalf("%+v came back as %+v, %v", j, back, err)
			}
		}
	})
}
