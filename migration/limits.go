package migration

import (
	"fmt"
	"strings"
	"time"
)

// Default limits. Converging has none: a big disk over a thin line takes as long as it takes, and shows its progress.
const (
	DefaultPrepare     = 120 * time.Second
	DefaultSynchronize = 60 * time.Second
	DefaultQuiesce     = 20 * time.Second
)

// Limits bound the phases before the commit. A migration that passes one is aborted. Zero means the default, a
// negative value none.
type Limits struct {
	Prepare     time.Duration `json:"prepare,omitempty"`
	Converge    time.Duration `json:"converge,omitempty"` // until ready; a hold does not count. Default none
	Synchronize time.Duration `json:"synchronize,omitempty"`
	Quiesce     time.Duration `json:"quiesce,omitempty"`
	Abandon     time.Duration `json:"abandon,omitempty"` // from the start to the commit, holds included. Default none
}

// of returns the limit of a phase, 0 for none, and its name in Limits.
func (l Limits) of(ph Phase) (limit time.Duration, name string) {
	switch ph {
	case Preparing:
		return pick(l.Prepare, DefaultPrepare), "prepare"
	case Converging:
		return pick(l.Converge, 0), "converge"
	case Synchronizing:
		return pick(l.Synchronize, DefaultSynchronize), "synchronize"
	case Quiesced:
		return pick(l.Quiesce, DefaultQuiesce), "quiesce"
	case Committed, Optimizing, Completed, Aborting, Aborted:
		return 0, ""
	}
	return 0, ""
}

func pick(given, standard time.Duration) time.Duration {
	switch {
	case given < 0:
		return 0
	case given == 0:
		return standard
	}
	return given
}

// deadline returns when the migration has to be aborted, by which limit, and that one's name; the zero time for never.
func (s State) deadline() (at time.Time, limit time.Duration, name string) {
	if !s.Phase.BeforeCommit() || len(s.PhaseTimes) == 0 {
		return time.Time{}, 0, ""
	}
	limit, name = s.Spec.Limits.of(s.Phase)
	if limit > 0 && !s.Ready {
		at = s.PhaseTimes[len(s.PhaseTimes)-1].Entered.Add(limit)
	}
	if whole := pick(s.Spec.Limits.Abandon, 0); whole > 0 {
		if end := s.PhaseTimes[0].Entered.Add(whole); at.IsZero() || end.Before(at) {
			at, limit, name = end, whole, abandon
		}
	}
	return at, limit, name
}

const abandon = "abandon"

// overdue says which limit was passed, and what to do.
func (s State) overdue(limit time.Duration, name string) string {
	if name == abandon {
		return fmt.Sprintf("not committed %s after its start (limit %s), still %s%s; continue a held migration sooner, "+
			"or raise the limit", limit, name, s.Phase, s.waiting())
	}
	return fmt.Sprintf("%s took longer than %s (limit %s)%s; see what that agent reports and whether the link to it "+
		"stands, then migrate again, with a higher limit if it was only slow", s.Phase, limit, name, s.waiting())
}

// Wake returns the next time at which a Tick has something to do, if nothing else happens before; the zero time when
// there is none. A runner may use it to tick in time, rather than at every moment.
func (s State) Wake() time.Time {
	wake, _, _ := s.deadline()
	sooner := func(at time.Time) {
		if !at.IsZero() && (wake.IsZero() || at.Before(wake)) {
			wake = at
		}
	}
	if s.Ready {
		sooner(s.Spec.HoldUntil)
	}
	for _, a := range s.Outstanding() {
		sooner(s.Steps[a.Step].Retry)
	}
	return wake
}

// Trouble tells, for each outstanding step that has failed, how often, why, and when it is tried again: what a user
// sees while a migration can only go forward, or be put back, and does not.
func (s State) Trouble() []string {
	var lines []string
	for _, a := range s.Outstanding() {
		st := s.Steps[a.Step]
		if st.Failure == "" {
			continue
		}
		line := fmt.Sprintf("%s: attempt %d", a.Step, st.Attempts)
		if st.Retry.IsZero() {
			line += " is under way, the last one failed: " + st.Failure
		} else {
			line += fmt.Sprintf(" failed: %s; next one at %s", st.Failure, st.Retry.Format(time.RFC3339))
		}
		lines = append(lines, line)
	}
	return lines
}

// waiting names the steps that have not answered.
func (s State) waiting() string {
	var ids []string
	for _, a := range s.Outstanding() {
		ids = append(ids, a.Step.String())
	}
	if len(ids) == 0 {
		return ""
	}
	return ", waiting for " + strings.Join(ids, ", ")
}

// Back-off of a failed step that is retried: doubled from the first to the longest.
const (
	firstRetry   = 100 * time.Millisecond
	longestRetry = 30 * time.Second
)

func backOff(attempts int) time.Duration {
	d := firstRetry
	for i := 1; i < attempts && d < longestRetry; i++ {
		d *= 2
	}
	return min(d, longestRetry)
}
