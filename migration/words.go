package migration

import (
	"fmt"
	"strings"
)

// Phase is where a migration stands. The values are stored and shown: they never change.
type Phase string

// The phases, in the order of a migration that succeeds; then those of one that does not.
const (
	Preparing     Phase = "preparing"
	Converging    Phase = "converging"
	Synchronizing Phase = "synchronizing"
	Quiesced      Phase = "quiesced"
	Committed     Phase = "committed"
	Optimizing    Phase = "optimizing"
	Completed     Phase = "completed"
	Aborting      Phase = "aborting"
	Aborted       Phase = "aborted"
)

// String returns the stored word.
func (p Phase) String() string { return string(p) }

// BeforeCommit tells whether the migration can still be aborted by an operator: it is neither committed nor aborting.
func (p Phase) BeforeCommit() bool {
	switch p {
	case Preparing, Converging, Synchronizing, Quiesced:
		return true
	case Committed, Optimizing, Completed, Aborting, Aborted:
		return false
	}
	return false
}

// next is the phase after this one when all its steps are done; "" after the last.
func (p Phase) next() Phase {
	switch p {
	case Preparing:
		return Converging
	case Converging:
		return Synchronizing
	case Synchronizing:
		return Quiesced
	case Quiesced:
		return Committed
	case Committed:
		return Optimizing
	case Optimizing:
		return Completed
	case Aborting:
		return Aborted
	case Completed, Aborted:
		return ""
	}
	return ""
}

// allows tells whether steps of the verb may stand in the phase.
func (p Phase) allows(v Verb) bool {
	switch p {
	case Preparing:
		return v == Prepare
	case Converging:
		return v == Converge
	case Synchronizing:
		return v == Synchronize
	case Quiesced:
		return v == Quiesce
	case Committed:
		return v == Commit
	case Optimizing:
		return v == Optimize || v == Release
	case Aborting:
		return v == AbortVerb
	case Completed, Aborted:
		return false
	}
	return false
}

// Verb is what a participant is told to do. The values go over the wire: they never change.
type Verb string

// The verbs. AbortVerb and ObserveVerb carry the suffix because Abort is an event.
const (
	Prepare     Verb = "prepare"
	Converge    Verb = "converge"
	Synchronize Verb = "synchronize"
	Quiesce     Verb = "quiesce"
	Commit      Verb = "commit"
	Optimize    Verb = "optimize"
	Release     Verb = "release"
	AbortVerb   Verb = "abort"
	ObserveVerb Verb = "observe"
)

// String returns the stored word.
func (v Verb) String() string { return string(v) }

func (v Verb) known() bool {
	switch v {
	case Prepare, Converge, Synchronize, Quiesce, Commit, Optimize, Release, AbortVerb, ObserveVerb:
		return true
	}
	return false
}

// afterCommit tells whether the verb is sent only once the commit is decided.
func (v Verb) afterCommit() bool { return v == Commit || v == Optimize || v == Release }

// Role says which end of the migration is meant.
type Role string

// The two roles.
const (
	Source      Role = "source"
	Destination Role = "destination"
)

// String returns the stored word.
func (r Role) String() string { return string(r) }

// Participant is a subsystem that takes part. The set is open: a plan may name others.
type Participant string

// The participants of a virtual machine's migration.
const (
	Server  Participant = "server"
	Storage Participant = "storage"
	Network Participant = "network"
)

// String returns the stored word.
func (p Participant) String() string { return string(p) }

// StepID names a step, "participant/role/verb", for instance "storage/destination/prepare".
type StepID string

// NewStepID puts the parts together.
func NewStepID(p Participant, r Role, v Verb) StepID {
	return StepID(string(p) + "/" + string(r) + "/" + string(v))
}

// maxStepID bounds a step's name in bytes, so that a journal stays small whatever arrives.
const maxStepID = 64

// Valid returns an error unless the name has three parts, a known role and a known verb.
func (id StepID) Valid() error {
	p, r, v := id.parts()
	switch {
	case len(id) > maxStepID:
		return fmt.Errorf("step %.20q...: longer than %d bytes", string(id), maxStepID)
	case p == "" || strings.Count(string(id), "/") != 2:
		return fmt.Errorf("step %q: want participant/role/verb", string(id))
	case Role(r) != Source && Role(r) != Destination:
		return fmt.Errorf("step %q: unknown role %q, want source or destination", string(id), r)
	case !Verb(v).known():
		return fmt.Errorf("step %q: unknown verb %q", string(id), v)
	}
	return nil
}

// Participant returns the first part.
func (id StepID) Participant() Participant { p, _, _ := id.parts(); return Participant(p) }

// Role returns the second part.
func (id StepID) Role() Role { _, r, _ := id.parts(); return Role(r) }

// Verb returns the third part.
func (id StepID) Verb() Verb { _, _, v := id.parts(); return Verb(v) }

// String returns the name.
func (id StepID) String() string { return string(id) }

// end is "participant/role": one end of one participant.
func (id StepID) end() string { return string(id[:strings.LastIndexByte(string(id), '/')+1]) }

func (id StepID) parts() (participant, role, verb string) {
	participant, rest, _ := strings.Cut(string(id), "/")
	role, verb, _ = strings.Cut(rest, "/")
	return participant, role, verb
}
