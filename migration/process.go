package migration

// The participants of a process of the DVS: the process is its memory, the endpoint its name, queue and table of replies.
const (
	ProcessPart  Participant = "process"
	EndpointPart Participant = "endpoint"
)

// Process returns the plan for a process of the DVS and its endpoint. The end that moves to another machine has memory only: what a
// destination that died had, nobody can make anew but the source, which therefore holds its copy until the destination owns the endpoint.
//
// The runner's duties besides those of the package. Ask the destination for the name of its journal before New, store it with the state, and name
// it in every command: a destination that has begun again without its journal has another, and obeys none of them. A destination that answers a Commit with Unborn (see Fate) was never the owner.
// The source still has everything then, held: feed Superseded with an epoch that was allocated for that, and begin a new attempt with it.
func Process() Plan {
	return Plan{Kind: "process", Steps: []PlannedStep{
		// The source's endpoint takes part from the first moment, so that every abort has it go on: an attempt whose commit was answered with
		// Unborn has left it held. (Found by the simulation.)
		step(Preparing, "endpoint/source/prepare"),
		// A blank process is there before its endpoint is bound as a standby.
		step(Preparing, "process/destination/prepare"),
		step(Preparing, "endpoint/destination/prepare", "process/destination/prepare"),

		step(Converging, "process/source/converge"),

		// One step for holding, the rest of the memory, the queue, and restoring it all at the destination: the endpoint's own way
		// carries them in one piece, and each further step would be a round trip while callers wait.
		step(Quiesced, "endpoint/source/quiesce"),

		// The source forgets its copy only when the destination owns the endpoint.
		step(Committed, "endpoint/destination/commit"),
		step(Committed, "endpoint/source/commit", "endpoint/destination/commit"),

		step(Optimizing, "process/source/release"),

		step(Aborting, "endpoint/source/abort"),
		step(Aborting, "process/source/abort", "endpoint/source/abort"),
		step(Aborting, "endpoint/destination/abort"),
		step(Aborting, "process/destination/abort", "endpoint/destination/abort"),
	}}
}

// FrozenProcess is Process without pre-copy: all of the memory moves while callers wait.
func FrozenProcess() Plan {
	p := Plan{Kind: "process-frozen"}
	for _, s := range Process().Steps {
		if s.ID != "process/source/converge" {
			p.Steps = append(p.Steps, s)
		}
	}
	return p
}

// Fate is what a destination whose state is memory only knows of a Commit that it is asked for.
type Fate string

// The fates.
const (
	// Owner: it was committed. What became of it since is another matter.
	Owner Fate = "owner"
	// Ready: the state is there and waits for the commit.
	Ready Fate = "ready"
	// Unborn: the state is not there, and it never was the owner. Admit an abort before that is answered, so that it never will be.
	Unborn Fate = "unborn"
	// Gone: it may have been the owner; if so it died. It must never be begun again from an older copy.
	Gone Fate = "gone"
	// Over: a newer epoch has been here: it was the owner, and the process went on from there. The source leaves.
	Over Fate = "over"
)

// Fate says what a destination has to answer to a Commit of an epoch. staged tells whether the state of this epoch is there and waits.
// If the journal is not the one that the command names, the answer is Gone, unless it is Over.
func (j *Journal) Fate(epoch uint64, prepared, commit StepID, staged bool) Fate {
	switch {
	case epoch < j.Epoch:
		return Over
	case epoch > j.Epoch:
		return Gone
	case j.Recorded(epoch, commit):
		return Owner
	case j.Decision == DecisionAbort:
		return Unborn
	case !j.Recorded(epoch, prepared):
		return Gone
	case staged:
		return Ready
	case j.Decision == DecisionCommit:
		return Gone
	default:
		return Unborn
	}
}
