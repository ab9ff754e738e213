// Package passive is the pure core of passive replication: one replica, the primary, executes; what has changed (pages, globals, the reply)
// is with every synced backup before the reply leaves. No I/O, no clock, no goroutine: Step takes an event and returns actions, so that
// a test can run thousands of schedules.
//
// The caller's duties:
//
//   - Carry out actions in order. Execute, Apply, Snapshot and Restore concern the machine: one at a time, in the order in which they were
//     given; Executed, Imaged and Restored report them. Apply is not reported.
//   - Swap is a compare-and-swap at the store, Load a read. Whatever is found there afterwards comes back as Stored. An attempt whose outcome
//     is unknown is asked for again.
//   - Tick every so often, with a time that never goes back.
//   - A process that begins again takes another incarnation.
//
// The rules, in the order in which they matter:
//
//  1. Who may be primary is what the store's record says, and each change of the record takes a new epoch. A primary answers only what every
//     synced replica has acknowledged, and every member of a change of the record that it has asked for and whose outcome it does not know.
//  2. A replica acknowledges only to the primary of the newest record that it knows. So an old primary cannot answer any more once one
//     backup, of those that it needs, knows of the new one; and the new one is such a backup.
//  3. Only a synced replica may ask to be primary. Each has everything that was ever answered.
//  4. Whoever joins is needed for answers before the store is asked to list it.
//  5. A backup applies what is committed; what is not, it can still throw away. A deposed primary has executed more than that: it is rebuilt.
//  6. The table of replies changes in the same update as the machine.
package passive
