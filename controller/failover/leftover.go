package failover

// Outdated says that nothing is to be asked of the agent any more. A host that was to be demoted, and is the owner now, was: else it would
// have had no replica that could take over. Asked again, under its own epoch, it could not be started under that.
func (s State) Outdated(l Leftover) bool { return l.What == Demote && l.Agent == s.Owner.Host }

// Outcome is what an agent answered.
type Outcome string

// The outcomes.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused" // it has seen a newer wish
	Unknown Outcome = "unknown" // it failed, or never answered
)

// Fate is what becomes of a leftover.
type Fate string

// The fates.
const (
	Forget Fate = "forget"
	// Renew: it is asked for again, under a fresh epoch.
	Renew Fate = "renew"
	Keep  Fate = "keep"
)

// Answered is what becomes of a leftover after an answer. An agent that has seen a newer wish has nothing left to do; but a former owner
// may have seen one that was sent by somebody who did not know yet that it is none any more, and is fenced all the same.
func (l Leftover) Answered(o Outcome) Fate {
	switch {
	case o == Done, o == Refused && l.What != Demote:
		return Forget
	case o == Refused:
		return Renew
	}
	return Keep
}
