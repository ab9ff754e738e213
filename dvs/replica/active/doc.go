// Package active is the core of active replication: requests are ordered by a replicated log (raft), every replica executes them, the one that
// was asked answers. No I/O, no clock, no goroutine: Step takes an event and returns actions, so that a test can run thousands of schedules.
//
// The caller's duties are those of package passive. Besides: the machine must do the same everywhere, given the request, the clock and the
// random seed that Execute brings.
//
// The rules, in the order in which they matter:
//
//  1. A request is answered when it is committed in the log and executed here. The table of replies is a part of what every replica computes, so
//     a request that is in the log twice is executed once.
//  2. The log is in memory. A process that begins again is another member: it joins as a learner, is given an image, and takes the place of
//     its former life in one change of the configuration.
//  3. After each Check in the log every replica hashes its machine and table. One that differs from a majority stops answering, and is rebuilt
//     from an image that a majority agrees with. Where no majority agrees, all stop.
//  4. Only what a majority agrees with becomes an image for others, or lets the log be cut.
//  5. Who leads says so to the store, with its term as the epoch: the host binds the endpoint by that.
package active
