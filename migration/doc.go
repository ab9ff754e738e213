// Package migration is the migration management system (MMS) as a pure state machine. It decides what a migration
// does next and when it is committed; it does nothing itself. No input or output, no clock, no goroutine, no
// randomness, no dependency but the standard library may enter it: time comes in with the events, and all that leaves
// is a new state and a list of actions. So the protocol can be simulated with a crash at every step (see the tests).
//
// # The runner's duties
//
// Step(state, event) returns a new state and actions. A runner (controller) makes a migration of them. Its duties, in
// order. The tests break the ones about epochs and the store on purpose, and the simulation finds a violation each time:
//
//  1. Allocate the epoch before New, from a counter that only grows, for every attempt, also for one that fails at
//     once. The transaction that stores the new state compares two things: the counter still stands at this epoch
//     (else a slow runner starts an attempt that agents refuse, because a newer one has been and gone), and the
//     service has no other migration that is not Terminal.
//  2. Feed one event at a time. On an error the state is unchanged: answer the caller, go on.
//  3. State first, actions after. Write the new state with a compare-and-swap on the revision that you loaded or wrote
//     last. If the swap fails, another runner is ahead: throw away state and actions, load, feed Recovered.
//     DurableFirst(before, after) says when this write may be put off: then the actions may go out at once, and the
//     next write carries the state along. Between the source's stop and the destination's start that leaves one write.
//  4. When the new state's Decision is "commit" and the old one's was not, the same transaction also compares the
//     service's owner key (still the source, with an epoch older than this one) and sets it to the destination with
//     this epoch. That transaction is the commit. There is no other. If the owner key carries a newer epoch, feed
//     Superseded instead.
//  5. Send the actions, in any order, to the agents of their site (Spec.Source or Spec.Destination by the role). They
//     may be lost: send Outstanding again when an agent connects, and every few seconds. All are idempotent, and
//     agents keep a Journal, so that doubled, late and reordered ones do no harm.
//  6. Feed the answers back as Done, Failed and Lost with the epoch that the agent named, never with your own. A step
//     that two agents share (the host's and the edge's half of a network step) is Done when both have said so.
//  7. Feed Tick when State.Wake has come, or once a second, until the state is Terminal: limits, holds and retries
//     hang on it.
//  8. After a start, and after a lost swap, load the state and feed Recovered: its actions ask the agents what is true,
//     and send again what is outstanding.
//
// # Phases
//
//	preparing ─► converging ─► synchronizing ─► quiesced ─► committed ─► optimizing ─► completed
//	    │            │               │              │           ▲
//	    └────────────┴───────┬───────┴──────────────┘           │ the commit: one compare-and-swap
//	                         ▼
//	                     aborting ─► aborted
//
//	from \ event   all steps done       Failed, Lost, limit   Abort          Continue
//	preparing      converging           aborting              aborting       clears the hold
//	converging     synchronizing, or    aborting              aborting       clears the hold; goes on when Ready
//	               Ready if it holds
//	synchronizing  quiesced             aborting              aborting       ErrNotHeld
//	quiesced       committed            aborting              aborting       ErrNotHeld
//	committed      optimizing           retried for ever      ErrCommitted   ErrNotHeld
//	optimizing     completed            retried for ever      ErrCommitted   ErrNotHeld
//	aborting       aborted              retried for ever      no change      ErrNotHeld
//	completed      -                    no change             ErrCommitted   ErrNotHeld
//	aborted        -                    no change             no change      ErrNotHeld
//
// Superseded (somebody took a newer epoch, a failover) ends an attempt from any phase: aborted before the commit,
// completed after it. Its steps are not run: agents refuse its epoch, and the newer attempt owns the cleaning up.
//
// # Aborting
//
// The source's abort steps wait for no destination step, so the service is back at the source even if the destination
// cannot be reached. That is safe because nobody may start the destination without a Commit of this very epoch, and
// the decision to abort was a compare-and-swap on the same key that the commit would have needed.
package migration
