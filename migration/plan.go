package migration

import (
	"errors"
	"fmt"
	"slices"
)

// PlannedStep is one step of a plan. It may start when its phase has been entered and all steps in After are done.
type PlannedStep struct {
	ID    StepID   `json:"id"`
	Phase Phase    `json:"phase"`
	After []StepID `json:"after,omitempty"` // steps of the same phase
}

// Plan is the order of a kind of service's migration, as data. It is stored with the state, so that a migration goes
// on as it began when the software is replaced under it.
type Plan struct {
	Kind  string        `json:"kind"`
	Steps []PlannedStep `json:"steps"`
}

// PhaseSteps returns the steps of one phase, in the plan's order.
func (p Plan) PhaseSteps(ph Phase) []PlannedStep {
	var steps []PlannedStep
	for _, s := range p.Steps {
		if s.Phase == ph {
			steps = append(steps, s)
		}
	}
	return steps
}

func (p Plan) step(id StepID) (PlannedStep, bool) {
	for _, s := range p.Steps {
		if s.ID == id {
			return s, true
		}
	}
	return PlannedStep{}, false
}

// Validate returns every fault of the plan, joined:
//   - steps are well-formed, unique, and stand in the phase of their verb;
//   - After names other steps of the same phase, without cycles;
//   - something is committed at the destination, and nothing is there that was not prepared;
//   - each end (participant and role) that takes part before the commit has an abort step, so that nothing is left
//     behind;
//   - no abort step of the source waits for one of the destination, which may be out of reach.
func (p Plan) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if p.Kind == "" {
		fault("kind is missing")
	}
	seen := make(map[StepID]PlannedStep, len(p.Steps))
	for _, s := range p.Steps {
		if err := s.ID.Valid(); err != nil {
			faults = append(faults, err)
			continue
		}
		if _, ok := seen[s.ID]; ok {
			fault("step %s: stands twice", s.ID)
		}
		seen[s.ID] = s
		if !s.Phase.allows(s.ID.Verb()) {
			fault("step %s: verb %s does not belong in phase %q", s.ID, s.ID.Verb(), s.Phase)
		}
	}
	for _, s := range p.Steps {
		for _, id := range s.After {
			before, ok := seen[id]
			switch {
			case !ok:
				fault("step %s: waits for %s, which is not in the plan", s.ID, id)
			case before.Phase != s.Phase:
				fault("step %s: waits for %s of another phase (%s)", s.ID, id, before.Phase)
			case s.Phase == Aborting && s.ID.Role() == Source && id.Role() == Destination:
				fault("step %s: waits for %s: the source must come back without the destination", s.ID, id)
			}
		}
	}
	faults = append(faults, p.missing(seen)...)
	if id, ok := p.cycle(); ok {
		fault("step %s: waits for itself, directly or by others", id)
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("plan %q: %w: %w", p.Kind, ErrInvalid, errors.Join(faults...))
}

// missing returns the faults of what the plan leaves out.
func (p Plan) missing(seen map[StepID]PlannedStep) []error {
	var faults []error
	commits := false
	for _, s := range p.Steps {
		if s.ID.Valid() != nil {
			continue
		}
		who, role := s.ID.Participant(), s.ID.Role()
		commits = commits || (s.Phase == Committed && role == Destination)
		if _, ok := seen[NewStepID(who, role, AbortVerb)]; !ok && s.Phase.BeforeCommit() {
			faults = append(faults, fmt.Errorf("step %s: %s/%s has no abort step", s.ID, who, role))
		}
		if _, ok := seen[NewStepID(who, role, Prepare)]; !ok && s.Phase == Committed {
			faults = append(faults, fmt.Errorf("step %s: %s/%s is never prepared", s.ID, who, role))
		}
	}
	if !commits {
		faults = append(faults, errors.New("nothing is committed at the destination"))
	}
	return faults
}

// cycle returns a step that waits for itself. It starts what can start until nothing changes; what remains waits for
// a cycle or for something unknown, and only the former is reported.
func (p Plan) cycle() (StepID, bool) {
	left := slices.Clone(p.Steps)
	for {
		n := len(left)
		left = slices.DeleteFunc(left, func(s PlannedStep) bool {
			return !slices.ContainsFunc(s.After, func(id StepID) bool {
				return slices.ContainsFunc(left, func(o PlannedStep) bool { return o.ID == id })
			})
		})
		switch len(left) {
		case 0:
			return "", false
		case n:
			return left[0].ID, true
		}
	}
}
