package migration_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-project/godwit/migration"
)

func planned(ph migration.Phase, id migration.StepID, after ...migration.StepID) migration.PlannedStep {
	return migration.PlannedStep{ID: id, Phase: ph, After: after}
}

// small is the least plan that is valid.
func small(more ...migration.PlannedStep) migration.Plan {
	return migration.Plan{Kind: "small", Steps: append([]migration.PlannedStep{
		planned(migration.Preparing, "server/destination/prepare"),
		planned(migration.Quiesced, "server/destination/quiesce"),
		planned(migration.Committed, "server/destination/commit"),
		planned(migration.Aborting, "server/destination/abort"),
	}, more...)}
}

func without(p migration.Plan, id migration.StepID) migration.Plan {
	p.Steps = slices.DeleteFunc(slices.Clone(p.Steps), func(s migration.PlannedStep) bool { return s.ID == id })
	return p
}

func TestAPlanIsRefusedWith(t *testing.T) {
	for name, c := range map[string]struct {
		plan migration.Plan
		want string // "" is a good plan
	}{
		"nothing: the virtual machine's is good": {migration.VirtualMachine(), ""},
		"nothing: the least one is good":         {small(), ""},
		"nothing: the process's is good":         {migration.Process(), ""},
		"nothing: the frozen process's is good":  {migration.FrozenProcess(), ""},
		"no kind":                                {migration.Plan{Steps: small().Steps}, "kind is missing"},
		"no steps":                               {migration.Plan{Kind: "empty"}, "nothing is committed"},
		"no commit":                              {without(small(), "server/destination/commit"), "nothing is committed"},
		"no abort":                               {without(small(), "server/destination/abort"), "has no abort step"},
		"nothing prepared before the commit":     {without(small(), "server/destination/prepare"), "is never prepared"},
		"a step twice":                           {small(planned(migration.Aborting, "server/destination/abort")), "stands twice"},
		"a verb in another phase":                {small(planned(migration.Aborting, "server/source/prepare")), "does not belong"},
		"a step in a phase that has none":        {small(planned(migration.Completed, "server/source/release")), "does not belong"},
		"an unknown role":                        {small(planned(migration.Optimizing, "server/middle/release")), "unknown role"},
		"an unknown verb":                        {small(planned(migration.Optimizing, "server/source/forget")), "unknown verb"},
		"four parts":                             {small(planned(migration.Optimizing, "a/source/release/b")), "want participant/role/verb"},
		"a very long name": {
			small(planned(migration.Optimizing, migration.StepID(strings.Repeat("x", 70)+"/source/release"))), "longer than",
		},
		"an observe": {small(planned(migration.Optimizing, "server/source/observe")), "does not belong"},
		"a wait for something that is not there": {
			small(planned(migration.Optimizing, "server/source/release", "storage/source/release")), "not in the plan",
		},
		"a wait for another phase": {
			small(planned(migration.Optimizing, "server/source/release", "server/destination/commit")), "of another phase",
		},
		"a step that waits for itself": {
			small(planned(migration.Optimizing, "server/source/release", "server/source/release")), "waits for itself",
		},
		"a cycle of three": {small(
			planned(migration.Optimizing, "a/source/release", "b/source/release"),
			planned(migration.Optimizing, "b/source/release", "c/source/release"),
			planned(migration.Optimizing, "c/source/release", "a/source/release"),
		), "waits for itself"},
		"a source that comes back only with the destination": {
			small(planned(migration.Aborting, "server/source/abort", "server/destination/abort")), "without the destination",
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.plan.Validate()
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want == "":
			case !errors.Is(err, migration.ErrInvalid) || !strings.Contains(err.Error(), c.want):
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestAFaultyPlanIsToldAllItsFaultsAtOnce(t *testing.T) {
	p := small(planned(migration.Completed, "server/source/release"), planned(migration.Optimizing, "x"))
	p.Kind = ""
	err := p.Validate()
	for _, want := range []string{"kind is missing", "does not belong", "want participant/role/verb"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q in it", err, want)
		}
	}
}
