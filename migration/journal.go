package migration

import (
	"fmt"
	"slices"
)

// Verdict is a Journal's answer.
type Verdict string

// The verdicts.
const (
	Run         Verdict = "run"
	AlreadyDone Verdict = "already-done"
	Refuse      Verdict = "refuse"
)

// maxJournal bounds the steps that a journal remembers. A plan for one agent has far fewer.
const maxJournal = 128

// Journal is what one agent remembers of one service, so that doubled, late and reordered commands do no harm, also
// those of attempts long past. The zero value has seen nothing. It is part of the protocol: agents use it, and the
// simulation of this package checks it.
//
// The agent's duties, in order:
//
//  1. Admit the command. It changes the journal also when the verdict is Run: make the journal durable before acting.
//  2. On Refuse answer Failed with the reason; on AlreadyDone answer Done. Both carry the command's epoch.
//  3. On Run: a command of the same step that is still at work is joined, not run twice. If this is an abort, or the
//     epoch is newer than before, first stop and wait for whatever is at work for an older epoch or for this one's
//     other verbs.
//  4. Carry the step out; every part of it must be idempotent, for the agent may die anywhere and be asked again.
//  5. Record it, make the journal durable, answer Done. A step that failed is not recorded.
//  6. After a restart compare what is recorded with what is true. Restore what can be restored (routes, gates, a
//     tunnel); report Lost for what has vanished. Nobody asks again for a step that was answered with Done.
//
// A Journal is not safe for concurrent use.
type Journal struct {
	Epoch    uint64   `json:"epoch"`              // the highest seen
	Decision string   `json:"decision,omitempty"` // of that epoch, as far as commands have told
	Done     []StepID `json:"done,omitempty"`     // of that epoch, sorted
}

// Admit says what to do with a command, and why when it is refused:
//   - an older epoch than the highest seen is refused; a newer one replaces all that is known of the older;
//   - once an abort was admitted, every other verb of the epoch is refused;
//   - a step that is done is AlreadyDone;
//   - once a commit, or what follows one, was admitted, abort and the verbs before the commit are refused;
//   - an observe is never stopped by these, and changes nothing.
func (j *Journal) Admit(epoch uint64, id StepID) (Verdict, string) {
	if err := id.Valid(); err != nil {
		return Refuse, err.Error()
	}
	if epoch == 0 || epoch < j.Epoch {
		return Refuse, fmt.Sprintf("epoch %d is over, %d has been seen since", epoch, j.Epoch)
	}
	verb := id.Verb()
	if verb == ObserveVerb {
		return Run, ""
	}
	if epoch > j.Epoch {
		*j = Journal{Epoch: epoch}
	}
	switch {
	case j.Decision == DecisionAbort && verb != AbortVerb:
		return Refuse, fmt.Sprintf("epoch %d was aborted", epoch)
	case slices.Contains(j.Done, id):
		return AlreadyDone, ""
	case j.Decision == DecisionCommit && !verb.afterCommit():
		return Refuse, fmt.Sprintf("epoch %d was committed", epoch)
	case len(j.Done) >= maxJournal:
		return Refuse, fmt.Sprintf("epoch %d has more than %d steps", epoch, maxJournal)
	case verb == AbortVerb:
		j.Decision = DecisionAbort
	case verb.afterCommit():
		j.Decision = DecisionCommit
	}
	return Run, ""
}

// Recorded tells whether the step was recorded as done in that epoch, if it is the present one.
func (j *Journal) Recorded(epoch uint64, id StepID) bool {
	return epoch == j.Epoch && slices.Contains(j.Done, id)
}

// Record notes that an admitted step is done. It returns an error when the step is no longer admitted, because a newer
// epoch or an abort came in between: then it must not be answered with Done.
func (j *Journal) Record(epoch uint64, id StepID) error {
	if epoch != j.Epoch {
		return fmt.Errorf("record %s: epoch %d is not the present one, %d", id, epoch, j.Epoch)
	}
	switch verdict, reason := j.Admit(epoch, id); verdict {
	case Refuse:
		return fmt.Errorf("record %s: %s", id, reason)
	case AlreadyDone:
		return nil
	case Run:
	}
	if id.Verb() == ObserveVerb {
		return nil
	}
	at, _ := slices.BinarySearch(j.Done, id)
	j.Done = slices.Insert(slices.Clone(j.Done), at, id)
	return nil
}
