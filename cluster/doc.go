// Package cluster is the shared state of the controllers: objects, owner
// epochs, leadership and join tokens, on etcd.
//
// It is the one room that knows that the store is etcd. What is written here is
// on stable storage when the call returns, and every change can be made
// conditional on the revision that the caller has read, so that a decision is
// made once whoever else is deciding.
//
// Duties of a caller, in order:
//
//  1. Open the store; one process at a time may have a directory open.
//  2. Take the lead (Lead) before acting on anything that others act on too, and
//     put Leadership.Guard among the compares of each transaction: losing the
//     lead then makes the transaction fail instead of racing the new leader.
//  3. Treat every error of a write other than ErrConflict as "unknown": it may
//     have happened. Read the key back before deciding anything.
//  4. Close the store after everything that watches it.
//
// # Keys
//
//	key                              value                          written by
//	/godwit/epoch                    decimal counter                NextEpoch, RaiseEpoch
//	/godwit/owners/<service>         Owner as JSON                  callers, inside Txn (OwnerKey)
//	/godwit/objects/<kind>/<name>    an object as its caller        callers (ObjectKey)
//	                                 encodes it: sites, hosts,
//	                                 edges, services, volumes,
//	                                 migrations, protections
//	/godwit/tokens/<id>              join token record as JSON,     SaveToken, TakeToken
//	                                 secret only as a hash
//	/godwit/leaders/<name>/<lease>   id of a candidate, leased;     Lead
//	                                 the oldest one leads
//
// What may not enter: knowledge of what an object means, of agents, or of
// migrations; anything that listens on a port.
package cluster
