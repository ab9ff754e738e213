package migration_test

import (
	"testing"

	"github.com/godwit-project/godwit/migration"
)

// What a destination says of a Commit follows from its journal and from whether it has the state.
func TestFates(t *testing.T) {
	const prepared, commit = "endpoint/destination/prepare", "endpoint/destination/commit"
	ready := migration.Journal{Epoch: 5, Done: []migration.StepID{prepared}}
	decided := migration.Journal{Epoch: 5, Done: []migration.StepID{prepared}, Decision: migration.DecisionCommit}
	for name, c := range map[string]struct {
		journal migration.Journal
		staged  bool
		want    migration.Fate
	}{
		"nothing was seen":                      {migration.Journal{}, true, migration.Gone},
		"an older epoch was seen":               {migration.Journal{Epoch: 4}, false, migration.Gone},
		"a newer one was":                       {migration.Journal{Epoch: 6}, true, migration.Over},
		"it was not prepared":                   {migration.Journal{Epoch: 5}, true, migration.Gone},
		"it waits":                              {ready, true, migration.Ready},
		"its state was lost":                    {ready, false, migration.Unborn},
		"it waits, the commit was tried before": {decided, true, migration.Ready},
		"its state was lost in a commit":        {decided, false, migration.Gone},
		"it was committed": {
			migration.Journal{Epoch: 5, Done: []migration.StepID{commit, prepared}, Decision: migration.DecisionCommit}, false, migration.Owner,
		},
		"it has said unborn before": {
			migration.Journal{Epoch: 5, Done: []migration.StepID{prepared}, Decision: migration.DecisionAbort}, true, migration.Unborn,
		},
	} {
		if got := c.journal.Fate(5, prepared, commit, c.staged); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
