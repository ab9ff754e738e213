package endpoint

import (
	"fmt"
	"slices"
)

// The verbs of a migration, by the names that package migration gives them.
const (
	VerbPrepare     = "prepare"
	VerbConverge    = "converge"
	VerbSynchronize = "synchronize"
	VerbQuiesce     = "quiesce"
	VerbCommit      = "commit"
	VerbOptimize    = "optimize"
	VerbRelease     = "release"
	VerbAbort       = "abort"
	VerbObserve     = "observe"
)

// Fence says which commands of migrations a node still obeys for one endpoint. The zero value has seen nothing.
type Fence struct {
	Epoch     uint64   // the highest seen
	Aborted   bool     // of that epoch
	Committed bool     // of that epoch
	Done      []string // steps of that epoch
}

// Admit says whether to carry a step out (run), or that it is done already (neither run nor error).
func (f *Fence) Admit(epoch uint64, step, verb string) (run bool, err error) {
	if verb == VerbObserve {
		return true, nil
	}
	if epoch == 0 || epoch < f.Epoch {
		return false, fmt.Errorf("epoch %d is over, %d has been seen since", epoch, f.Epoch)
	}
	if epoch > f.Epoch {
		*f = Fence{Epoch: epoch}
	}
	after := verb == VerbCommit || verb == VerbOptimize || verb == VerbRelease
	switch {
	case f.Aborted && verb != VerbAbort:
		return false, fmt.Errorf("epoch %d was aborted", epoch)
	case slices.Contains(f.Done, step):
		return false, nil
	case f.Committed && !after:
		return false, fmt.Errorf("epoch %d was committed", epoch)
	case verb == VerbAbort:
		f.Aborted = true
	case after:
		f.Committed = true
	}
	return true, nil
}

// Raise refuses from now on what belongs to an epoch before this one, because an owner has it.
func (f *Fence) Raise(epoch uint64) {
	if epoch > f.Epoch {
		*f = Fence{Epoch: epoch, Committed: true}
	}
}

// Record notes that a step is done, unless it was overtaken: then it returns an error and the step counts for nothing.
func (f *Fence) Record(epoch uint64, step, verb string) error {
	run, err := f.Admit(epoch, step, verb)
	if err != nil {
		return err
	}
	if run && verb != VerbObserve {
		f.Done = append(f.Done, step)
	}
	return nil
}
