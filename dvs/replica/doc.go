// Package replica keeps several copies of one machine in step, each in a process of its own, so that the death of one loses nothing and
// is not noticed by callers. It drives the pure cores passive and active: here are the goroutines, the clock, the connections and the machine.
//
// The caller's duties, in order:
//
//   - New, with a fresh machine, the group's store, and a function that dials the other replicas. Connections must be authenticated by whoever
//     makes them (Dial, Accept): peers are trusted.
//   - Accept for each connection that another replica has dialled.
//   - On a Change to Serving: bind the endpoint, with its epoch; on a Change away from it: unbind, answer nothing more.
//   - Handle for each request, with the caller's incarnation and sequence; the reply may leave when it returns. ErrElsewhere: answer nothing,
//     the caller sends its request again where the endpoint is bound. Gone for a caller that has ended.
//   - Close, which waits for everything. After a failure of the machine Done is closed, and Err says why: the process should end.
//
// A replica that begins again begins with nothing, as a new member of the group.
package replica
